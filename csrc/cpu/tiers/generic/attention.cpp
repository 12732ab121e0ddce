// Attention of a few query rows over a range of one head's cache, page by page with a running
// maximum (online softmax). Every (row, head) goes through the same operations in the same order
// however rows are grouped, so a token's bits do not depend on its batch.
#include <cmath>

#include "generic/kernels.h"
#include "generic/kv.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {
namespace {

constexpr int kLaneBlocks = kPageTokens / 16;

// Query vector number i of a task: rows outermost, then the heads of the group.
inline const float* query(const AttentionTask& t, int64_t i) {
  return t.q + i / t.group * t.q_stride + i % t.group * t.e;
}

// scores[i][page] = q_i . k for kRows query vectors and all positions of a page.
template <class Kv, int kRows>
inline void score(const AttentionTask& t, const std::byte* head, int64_t first, float* scores) {
  const float* q[kRows];
  for (int i = 0; i < kRows; ++i) q[i] = query(t, first + i);
  for (int64_t lanes = 0; lanes < kLaneBlocks; lanes += 2) {
    F32x16 sum[kRows][2];
    for (auto& s : sum) s[0] = s[1] = zero();
    const int64_t step = Kv::kScaled ? kScaleGroup : t.e;
    for (int64_t g = 0; g * step < t.e; ++g) {
      const int64_t last = (g + 1) * step < t.e ? (g + 1) * step : t.e;
      F32x16 part[kRows][2];
      for (auto& p : part) p[0] = p[1] = zero();
      for (int64_t f = g * step; f < last; ++f) {
        const F32x16 k0 = Kv::key(head, f, 16 * lanes);
        const F32x16 k1 = Kv::key(head, f, 16 * lanes + 16);
        for (int i = 0; i < kRows; ++i) {
          const F32x16 a = set1(q[i][f]);
          part[i][0] = fma(a, k0, part[i][0]);
          part[i][1] = fma(a, k1, part[i][1]);
        }
      }
      const F32x16 s0 = Kv::key_scales(head, t.e, g, 16 * lanes);
      const F32x16 s1 = Kv::key_scales(head, t.e, g, 16 * lanes + 16);
      for (int i = 0; i < kRows; ++i) {
        sum[i][0] = fma(part[i][0], s0, sum[i][0]);
        sum[i][1] = fma(part[i][1], s1, sum[i][1]);
      }
    }
    for (int i = 0; i < kRows; ++i) {
      store(scores + i * kPageTokens + 16 * lanes, sum[i][0]);
      store(scores + i * kPageTokens + 16 * lanes + 16, sum[i][1]);
    }
  }
}

// Turns one row's scores into exponentials, zero outside the visible [low, high), and rescales what
// was summed before when the maximum grew.
inline void soften(const AttentionTask& t, int64_t i, int64_t low, int64_t high, float* scores) {
  for (int64_t s = 0; s < low; ++s) scores[s] = 0.0f;
  for (int64_t s = high; s < kPageTokens; ++s) scores[s] = 0.0f;
  if (low >= high) return;
  float largest = t.max[i];
  for (int64_t s = low; s < high; ++s) {
    scores[s] *= t.scale;
    if (scores[s] > largest) largest = scores[s];
  }
  F32x16 total = zero();
  for (int64_t s = 0; s < kPageTokens; s += 16) {
    store(scores + s, exp(sub(load(scores + s), set1(largest))));
  }
  for (int64_t s = 0; s < low; ++s) scores[s] = 0.0f;
  for (int64_t s = high; s < kPageTokens; ++s) scores[s] = 0.0f;
  for (int64_t s = 0; s < kPageTokens; s += 16) total = add(total, load(scores + s));
  if (largest > t.max[i]) {
    const F32x16 shrink = exp(set1(t.max[i] - largest));
    float* acc = t.acc + i * padded(t.e);
    for (int64_t f = 0; f < padded(t.e); f += 16) store(acc + f, mul(load(acc + f), shrink));
    float factor[16];
    store(factor, shrink);
    t.sum[i] *= factor[0];
    t.max[i] = largest;
  }
  t.sum[i] += reduce_add(total);
}

// acc_i += sum over positions of p_i * v, for kRows query vectors.
template <class Kv, int kRows, int kBlocks>
inline void weigh(const AttentionTask& t, const std::byte* head, int64_t first, int64_t feature,
                  int64_t count, const float* scores) {
  F32x16 acc[kRows][kBlocks];
  for (int i = 0; i < kRows; ++i) {
    const float* from = t.acc + (first + i) * padded(t.e) + feature;
    for (int b = 0; b < kBlocks; ++b) acc[i][b] = load(from + 16 * b);
  }
  for (int64_t s = 0; s < count; ++s) {
    F32x16 v[kBlocks];
    for (int b = 0; b < kBlocks; ++b) {
      v[b] = Kv::value(head, t.e, s, feature + 16 * b);
      if constexpr (Kv::kScaled) {
        v[b] = mul(v[b], set1(Kv::value_scale(head, t.e, s, (feature + 16 * b) / kScaleGroup)));
      }
    }
    for (int i = 0; i < kRows; ++i) {
      const F32x16 p = set1(scores[i * kPageTokens + s]);
      for (int b = 0; b < kBlocks; ++b) acc[i][b] = fma(p, v[b], acc[i][b]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float* to = t.acc + (first + i) * padded(t.e) + feature;
    for (int b = 0; b < kBlocks; ++b) store(to + 16 * b, acc[i][b]);
  }
}

// kRows query vectors against one page that starts at position `start`.
template <class Kv, int kRows>
inline void attend_page(const AttentionTask& t, const std::byte* head, int64_t start,
                        int64_t first) {
  float* scores = t.scratch;
  score<Kv, kRows>(t, head, first, scores);
  int64_t seen = 0;  // positions of the page that some row of the tile looks at
  for (int i = 0; i < kRows; ++i) {
    const int64_t position = t.past + (first + i) / t.group;
    const int64_t visible = t.length > 0 ? t.length : position + 1;
    int64_t high = visible < t.end ? visible : t.end;
    high = high - start < kPageTokens ? high - start : kPageTokens;
    const int64_t oldest = t.window > 0 ? position + 1 - t.window : 0;
    int64_t low = oldest > start ? oldest - start : 0;
    low = low < kPageTokens ? low : kPageTokens;
    soften(t, first + i, low, high < 0 ? 0 : high, scores + i * kPageTokens);
    if (low < high && high > seen) seen = high;
  }
  if (seen == 0) return;
  int64_t feature = 0;
  for (; feature + 64 <= padded(t.e); feature += 64) {
    weigh<Kv, kRows, 4>(t, head, first, feature, seen, scores);
  }
  for (; feature < padded(t.e); feature += 16) {
    weigh<Kv, kRows, 1>(t, head, first, feature, seen, scores);
  }
}

template <class Kv>
void attend(const AttentionTask& t) noexcept {
  const int64_t vectors = t.rows * t.group;
  for (int64_t i = 0; i < vectors; ++i) t.max[i] = -__builtin_inff(), t.sum[i] = 0.0f;
  std::memset(t.acc, 0, static_cast<size_t>(vectors * padded(t.e)) * sizeof(float));
  for (int64_t start = t.begin; start < t.end; start += kPageTokens) {
    const std::byte* head = t.base + t.pages[start / kPageTokens] * t.page_bytes;
    int64_t i = 0;
    for (; i + kTileRows <= vectors; i += kTileRows) attend_page<Kv, kTileRows>(t, head, start, i);
    for (; i < vectors; ++i) attend_page<Kv, 1>(t, head, start, i);
  }
}

template <class Kv>
int64_t head_bytes(int64_t e) noexcept {
  return (Kv::head_bytes(e) + 63) / 64 * 64;
}

template <class Kv>
void store_one(const StoreKvTask& t) noexcept {
  Kv::put(t);
}

template <class Kv>
KvFormat format() {
  return {head_bytes<Kv>, store_one<Kv>, attend<Kv>};
}

}  // namespace

void paint_kv(Kernels& kernels) {
  kernels.kv[static_cast<size_t>(KvType::kF32)] = format<KvF32>();
  kernels.kv[static_cast<size_t>(KvType::kF16)] = format<KvF16>();
  kernels.kv[static_cast<size_t>(KvType::kBF16)] = format<KvBF16>();
  kernels.kv[static_cast<size_t>(KvType::kQ8)] = format<KvQ8>();
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
