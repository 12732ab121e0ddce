// Which attention kernel takes a task, and what it needs.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/kv.cuh"

namespace llama_rt::cuda {
namespace {

// Positions of a warp. Long ones leave less to merge, and are for batches that give each
// multiprocessor plenty of blocks; short ones keep a small batch on all of them. Reproducible
// results want one length.
constexpr int64_t kSplit = 128;
constexpr int64_t kMinSplit = 32;
constexpr int64_t kMaxSplit = 2048;
constexpr int64_t kPlenty = 8;

}  // namespace

void attention(const AttentionTask& t, cudaStream_t stream) {
  if (t.reproducible || t.cache.type == KvType::kF32) {
    return attention_split(t, std::numeric_limits<int>::max(), stream);
  }
  if (t.cache.segments > 1 || t.max_rows <= kFewRows) attention_split(t, kFewRows, stream);
  if (t.max_rows > kFewRows) attention_tiles(t, kFewRows, stream);
}

int64_t attention_cut(const AttentionTask& t) {
  if (t.reproducible) return kSplit;
  const int64_t heads = t.cache.segments * t.cache.kv_heads;
  const int warps = split_warps(t.cache.type, kv_width(t.cache.type, t.cache.e));
  const auto blocks = [&](int64_t split_positions) {
    return heads * ((t.max_context + split_positions * warps - 1) / (split_positions * warps));
  };
  int64_t split_positions = kSplit;
  while (split_positions > kMinSplit && blocks(split_positions) < t.multiprocessors)
    split_positions /= 2;
  while (split_positions < kMaxSplit && blocks(2 * split_positions) >= kPlenty * t.multiprocessors)
    split_positions *= 2;
  return split_positions;
}

int64_t attention_scratch_bytes(const AttentionTask& t) {
  const int64_t parts = attention_parts(t), slots = slot_rows(t);
  if (parts == 1) return 0;
  const int64_t rows = slots > 0 ? t.cache.segments * slots : t.cache.n;
  const int64_t floats = 2 + kv_width(t.cache.type, t.cache.e);
  return rows * t.heads * parts * floats * static_cast<int64_t>(sizeof(float));
}

void register_attention(Kernels& kernels) {
  kernels.store_kv = store_kv;
  kernels.attention = attention;
}

}  // namespace llama_rt::cuda
