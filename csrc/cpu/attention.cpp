// Attention planning: which ranges of the cache, which rows, which heads make one task. A long
// cache is split at fixed positions and the splits are merged in order, so the bits are the same
// whether the splits ran side by side or one after the other. Many rows, which fill the threads as
// they are, go the prefill kernel instead, unsplit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "cpu/cpu_backend.h"
#include "platform/thread_pool.h"

namespace llama_rt::cpu {
namespace {

constexpr int64_t kSplit = 512;       // positions of one range; whole pages
constexpr int64_t kTaskVectors = 48;  // query vectors (rows x grouped heads) of one task
// Multiplications below which waking another thread costs more than it saves.
constexpr int64_t kSerialWork = 65536;
// The same for elements to store: a key's features lie in lines of their own, each a cache miss.
constexpr int64_t kSerialStore = 2048;

// One KV head of a block of one segment's rows.
struct Unit {
  const Segment* segment;
  int64_t row;  // first, within the segment
  int64_t rows;
  int64_t kv_head;
  int64_t begin;  // first position of the first split
  int64_t splits;
  bool prefill;
};

struct Problem {
  const View& q;
  const View& out;
  const KvView& kv;
  const AttentionSpec& spec;
  int64_t group;
  int64_t e;
  int64_t head_bytes;
  int64_t vectors = 0;  // most query vectors of a task
  // Rows of a segment from which on it is attended by the prefill kernel.
  int64_t prefill_rows = std::numeric_limits<int64_t>::max();
  int64_t state_floats() const { return vectors * (2 + padded(e)); }
};

int64_t block_rows(const Problem& p, bool prefill) {
  return std::max<int64_t>(1, (prefill ? kPrefillVectors : kTaskVectors) / p.group);
}
int64_t block_vectors(const Problem& p, bool prefill) {
  const int64_t vectors = block_rows(p, prefill) * p.group;
  return prefill ? (vectors + 31) / 32 * 32 : vectors;
}

// Maximum, sum and weighted values of a task's query vectors, one after the other in memory.
struct State {
  float* max;
  float* sum;
  float* acc;
  State(float* memory, int64_t vectors)
      : max(memory), sum(memory + vectors), acc(memory + 2 * vectors) {}
};

// One past the last position that the rows before `rows` of a segment see.
int64_t last_visible(const Problem& p, const Segment& segment, int64_t rows) {
  return p.spec.length > 0 ? p.spec.length : segment.past + rows;
}

std::vector<Unit> units_of(const Problem& p) {
  std::vector<Unit> units;
  for (const Segment& segment : p.kv.segments) {
    const bool prefill = segment.rows >= p.prefill_rows;
    const int64_t block = block_rows(p, prefill);
    for (int64_t row = 0; row < segment.rows; row += block) {
      const int64_t rows = std::min(block, segment.rows - row);
      const int64_t last = last_visible(p, segment, row + rows);
      const int64_t oldest =
          p.spec.window > 0 ? std::max<int64_t>(0, segment.past + row + 1 - p.spec.window) : 0;
      const int64_t whole = prefill ? kPageTokens : kSplit;
      const int64_t begin = oldest / whole * whole;
      const int64_t splits = prefill ? 1 : (last - begin + kSplit - 1) / kSplit;
      for (int64_t g = 0; g < p.kv.layout->kv_heads; ++g) {
        units.push_back({&segment, row, rows, g, begin, splits, prefill});
      }
    }
  }
  return units;
}

AttentionTask task_for(const Problem& p, const Unit& u, int64_t split, State state,
                       float* scratch) {
  const int64_t heads = p.spec.heads;
  AttentionTask t;
  t.q = p.q.f32() + ((u.segment->first_row + u.row) * heads + u.kv_head * p.group) * p.e;
  t.q_stride = heads * p.e;
  t.rows = u.rows;
  t.group = p.group;
  t.e = p.e;
  t.scale = p.spec.scale;
  t.past = u.segment->past + u.row;
  t.window = p.spec.window;
  t.length = p.spec.length;
  t.begin = u.begin + split * kSplit;
  t.last = last_visible(p, *u.segment, u.row + u.rows);
  t.end = u.prefill ? t.last : std::min(t.begin + kSplit, t.last);
  t.base = p.kv.base + p.kv.layer * p.kv.layout->layer_bytes + u.kv_head * p.head_bytes;
  t.page_bytes = p.kv.layout->page_bytes();
  t.pages = u.segment->pages.data();
  t.max = state.max, t.sum = state.sum, t.acc = state.acc;
  t.scratch = scratch;
  return t;
}

// Folds the next range's state into the total.
void merge(const State& total, const State& next, int64_t vectors, int64_t e) {
  constexpr float kNone = -std::numeric_limits<float>::infinity();
  for (int64_t i = 0; i < vectors; ++i) {
    if (next.max[i] == kNone) continue;
    float* acc = total.acc + i * padded(e);
    const float* add = next.acc + i * padded(e);
    if (total.max[i] == kNone) {
      total.max[i] = next.max[i], total.sum[i] = next.sum[i];
      std::memcpy(acc, add, static_cast<size_t>(padded(e)) * sizeof(float));
      continue;
    }
    const float largest = std::max(total.max[i], next.max[i]);
    const float a = std::exp(total.max[i] - largest), b = std::exp(next.max[i] - largest);
    for (int64_t f = 0; f < e; ++f) acc[f] = acc[f] * a + add[f] * b;
    total.sum[i] = total.sum[i] * a + next.sum[i] * b;
    total.max[i] = largest;
  }
}

void write_out(const Problem& p, const Unit& u, const State& state) {
  for (int64_t i = 0; i < u.rows * p.group; ++i) {
    const int64_t row = u.segment->first_row + u.row + i / p.group;
    const int64_t head = u.kv_head * p.group + i % p.group;
    float* out = p.out.f32() + (row * p.spec.heads + head) * p.e;
    const float inverse = 1.0f / state.sum[i];
    for (int64_t f = 0; f < p.e; ++f) out[f] = state.acc[i * padded(p.e) + f] * inverse;
  }
}

}  // namespace

void CpuBackend::do_store_kv(View k, View v, const KvView& kv) {
  const KvLayout& layout = *kv.layout;
  const KvFormat& format = kernels_.kv[static_cast<size_t>(layout.type)];
  const int64_t heads = layout.kv_heads, e = layout.head_dim;
  const int64_t head_bytes = layout.layer_bytes / heads;
  const int64_t rows = k.shape[0];
  parallel_for(
      rows * heads * e < kSerialStore ? 1 : threads_, heads, [&](int64_t begin, int64_t end, int) {
        for (const Segment& s : kv.segments) {
          for (int64_t i = 0; i < s.rows; ++i) {
            const int64_t position = s.past + i;
            std::byte* layer =
                kv.base +
                s.pages[static_cast<size_t>(position / kPageTokens)] * layout.page_bytes() +
                kv.layer * layout.layer_bytes;
            for (int64_t g = begin; g < end; ++g) {
              const int64_t offset = ((s.first_row + i) * heads + g) * e;
              format.store({k.f32() + offset, v.f32() + offset, layer + g * head_bytes,
                            position % kPageTokens, e});
            }
          }
        }
      });
}

void CpuBackend::do_attention(View q, const KvView& kv, const AttentionSpec& spec, View out) {
  const KvLayout& layout = *kv.layout;
  const KvFormat& format = kernels_.kv[static_cast<size_t>(layout.type)];
  const int64_t group = spec.heads / layout.kv_heads;
  const int64_t head_bytes = layout.layer_bytes / layout.kv_heads;
  Problem p{q, out, kv, spec, group, layout.head_dim, head_bytes};
  if (format.prefill.attend && !reproducible_) p.prefill_rows = format.prefill.min_rows;
  const std::vector<Unit> units = units_of(p);
  size_t kernel_bytes = 0;
  for (const bool prefill : {false, true}) {
    if (std::ranges::find(units, prefill, &Unit::prefill) == units.end()) continue;
    const int64_t vectors = block_vectors(p, prefill);
    p.vectors = std::max(p.vectors, vectors);
    const int64_t bytes = prefill ? format.prefill.scratch_bytes(vectors, p.e)
                                  : attention_scratch(vectors, p.e) * int64_t{sizeof(float)};
    kernel_bytes = std::max(kernel_bytes, static_cast<size_t>(bytes));
  }
  const size_t state_bytes = static_cast<size_t>(p.state_floats()) * sizeof(float);
  const size_t scratch_bytes = kernel_bytes + 2 * state_bytes;
  const auto attend_of = [&](const Unit& u) {
    return u.prefill ? format.prefill.attend : format.attend;
  };
  for (Scratch& scratch : worker_) scratch.get(scratch_bytes);
  const auto scratch_of = [&](int worker) {
    return reinterpret_cast<float*>(worker_[static_cast<size_t>(worker)].get(scratch_bytes));
  };

  int64_t splits = 0, work = 0;
  for (const Unit& u : units) {
    splits = std::max(splits, u.splits);
    work += u.rows * group * p.e * last_visible(p, *u.segment, u.row + u.rows);
  }
  const auto count = static_cast<int64_t>(units.size());
  // Enough units: each merges its own ranges. One row's heads go to the threads that stored them.
  if (splits == 1 || count >= 2 * threads_) {
    const int threads = work < kSerialWork ? 1 : threads_;
    parallel_for(threads, count, [&](int64_t begin, int64_t end, int worker) {
      float* scratch = scratch_of(worker);
      const State total(scratch, p.vectors), next(scratch + p.state_floats(), p.vectors);
      float* rest = scratch + 2 * p.state_floats();
      for (int64_t i = begin; i < end; ++i) {
        const Unit& u = units[static_cast<size_t>(i)];
        attend_of(u)(task_for(p, u, 0, total, rest));
        for (int64_t c = 1; c < u.splits; ++c) {
          attend_of(u)(task_for(p, u, c, next, rest));
          merge(total, next, u.rows * group, p.e);
        }
        write_out(p, u, total);
      }
    });
    return;
  }
  auto* states = reinterpret_cast<float*>(
      partial_.get(static_cast<size_t>(count * splits * p.state_floats()) * sizeof(float)));
  const auto state_of = [&](int64_t unit, int64_t split) {
    return State(states + (unit * splits + split) * p.state_floats(), p.vectors);
  };
  parallel_for_dynamic(threads_, count * splits, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      const Unit& u = units[static_cast<size_t>(i / splits)];
      if (i % splits >= u.splits) continue;
      attend_of(u)(
          task_for(p, u, i % splits, state_of(i / splits, i % splits), scratch_of(worker)));
    }
  });
  for (int64_t i = 0; i < count; ++i) {
    const Unit& u = units[static_cast<size_t>(i)];
    for (int64_t c = 1; c < u.splits; ++c)
      merge(state_of(i, 0), state_of(i, c), u.rows * group, p.e);
    write_out(p, u, state_of(i, 0));
  }
}

}  // namespace llama_rt::cpu
