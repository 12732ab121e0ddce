// Attention and the cache: from the batch as the contract gives it to the kernels' tasks.
#include <algorithm>
#include <string>

#include "core/error.h"
#include "cuda/cuda_backend.h"

namespace llama_rt::cuda {
namespace {

CacheTask cache_of(const KvView& kv, int64_t rows) {
  const KvLayout& layout = *kv.layout;
  const SegmentTable& table = kv.table;
  if (!table.positions) throw Error("the segments of this batch were not staged");
  return {.base = kv.base + kv.layer * layout.layer_bytes,
          .page_bytes = layout.page_bytes(),
          .type = layout.type,
          .kv_heads = layout.kv_heads,
          .e = layout.head_dim,
          .n = rows,
          .segments = static_cast<int64_t>(kv.segments.size()),
          .positions = table.positions,
          .segment_of = table.segment_of,
          .first_row = table.first_row,
          .pages = table.pages,
          .page_stride = table.page_stride};
}

int64_t most_rows(const KvView& kv) {
  int64_t most = 0;
  for (const Segment& s : kv.segments) most = std::max(most, s.rows);
  return most;
}

// A bound of what any row sees. A step of single rows may be replayed for other lengths: its bound
// is what the page table has room for.
int64_t context_of(const KvView& kv, const AttentionSpec& spec) {
  if (spec.length > 0) return spec.length;
  if (most_rows(kv) == 1) return kv.table.page_stride * kPageTokens;
  int64_t context = 0;
  for (const Segment& s : kv.segments) context = std::max(context, s.past + s.rows);
  return context;
}

}  // namespace

void CudaBackend::do_store_kv(View k, View v, const KvView& kv) {
  kernels_.store_kv({.cache = cache_of(kv, k.shape[0]), .k = k.f32(), .v = v.f32()}, stream_);
}

void CudaBackend::do_attention(View q, const KvView& kv, const AttentionSpec& spec, View out) {
  AttentionTask task{.cache = cache_of(kv, q.shape[0]),
                     .q = q.f32(),
                     .out = out.f32(),
                     .heads = spec.heads,
                     .scale = spec.scale,
                     .window = spec.window,
                     .length = spec.length,
                     .max_rows = most_rows(kv),
                     .max_context = context_of(kv, spec),
                     .multiprocessors = device_.multiprocessors,
                     .reproducible = reproducible_};
  const size_t counters = static_cast<size_t>(attention_counters(task)) * sizeof(uint32_t);
  if (counters > counters_->bytes()) {
    throw CapacityError("attention of " + std::to_string(task.cache.n) + " rows of " +
                        std::to_string(task.heads) + " heads at once is too much");
  }
  task.counters = reinterpret_cast<uint32_t*>(counters_->data());
  task.scratch = scratch(attention_scratch_bytes(task));
  kernels_.attention(task, stream_);
}

// Whether the products of q, k and v leave nothing for store_kv to do: they go to the kernel of few
// inputs, all three.
bool CudaBackend::append_in_products(std::span<const Linear> jobs, const CacheTask& cache) const {
  return can_append(cache) && std::ranges::all_of(jobs, [&](const Linear& job) {
           const ProductFormat& format = kernels_.product[static_cast<size_t>(job.weight->dtype)];
           return job.weight->packed && (reproducible_ || cache.n <= format.matvec_inputs);
         });
}

void CudaBackend::qkv(View x, const QkvWeights& w, float eps, const Rotation& rotation,
                      const KvView& kv, View scratch, View q, View k, View v) {
  if (profiling() || w.q_norm || w.k_norm) {
    return Backend::qkv(x, w, eps, rotation, kv, scratch, q, k, v);
  }
  const auto flat = [](View heads) {
    return f32_view(heads.f32(), Shape(heads.shape[0], heads.shape[1] * heads.shape[2]));
  };
  const Linear jobs[] = {
      {&w.q, w.q_bias, flat(q)}, {&w.k, w.k_bias, flat(k)}, {&w.v, w.v_bias, flat(v)}};
  const StoreKvTask append{.cache = cache_of(kv, k.shape[0]),
                           .k = k.f32(),
                           .v = v.f32(),
                           .q = q.f32(),
                           .heads = q.shape[1],
                           .cos = rotation.cos.f32(),
                           .sin = rotation.sin.f32(),
                           .style = rotation.style};
  if (append_in_products(jobs, append.cache)) {
    return multiply_groups(x, jobs, w.norm, eps, &append);
  }
  multiply_groups(x, jobs, w.norm, eps);
  kernels_.store_kv(append, stream_);
}

}  // namespace llama_rt::cuda
