// The walk of attention over the pages of one head's cache, with a running maximum (online
// softmax). Every query vector goes through the same operations in the same order however vectors
// are grouped, and meets nothing of a position that it does not see, so a token's bits do not
// depend on its batch. The products are a class's (attention.cpp has those in float32).
#pragma once

#include "cpu/kernels/common/kv.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

// Positions [low, high) of a page.
struct MaskRange {
  int64_t low, high;
  bool none() const { return low >= high; }
  bool all() const { return low == 0 && high == kPageTokens; }
};

// A page of the cache: its first position, this head's share, and the next page's or null.
struct Page {
  int64_t start;
  const std::byte* head;
  const std::byte* next;
};

// Query vector number i of a task: rows outermost, then the heads of the group.
inline const float* query(const AttentionTask& t, int64_t i) {
  return t.q + i / t.group * t.q_stride + i % t.group * t.e;
}

inline int64_t clamp_to_page(int64_t position) {
  return position < 0 ? 0 : position < kPageTokens ? position : kPageTokens;
}

// The positions that query vector i attends to in the page that starts at position `start`.
inline MaskRange mask_range(const AttentionTask& t, int64_t i, int64_t start) {
  const int64_t position = t.past + i / t.group;
  const int64_t visible = t.length > 0 ? t.length : position + 1;
  const int64_t oldest = t.window > 0 ? position + 1 - t.window : 0;
  return {clamp_to_page(oldest - start),
          clamp_to_page((visible < t.end ? visible : t.end) - start)};
}

// How many vectors of positions or features a tile of `rows` query vectors holds, at most `limit`.
constexpr int tile_vectors(int rows, int limit) {
  while (limit > 1 && rows * limit > kQueryTile) limit /= 2;
  return limit;
}

// Prefetches the cache lines of [from, from + bytes), which may start within one.
inline void prefetch(const std::byte* from, int64_t bytes) {
  for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
}

// Turns one vector's scores into exponentials, zero outside what it sees, and rescales what was
// summed before when the maximum grew.
inline void online_softmax(const AttentionTask& t, int64_t i, MaskRange range, float* scores) {
  constexpr int kBlocks = kPageTokens / 16;
  for (int64_t s = 0; s < range.low; ++s) scores[s] = -__builtin_inff();
  for (int64_t s = range.high; s < kPageTokens; ++s) scores[s] = -__builtin_inff();
  F32x16 x[kBlocks];
  F32x16 largest_vector = set1(t.max[i]);
  for (int b = 0; b < kBlocks; ++b) {
    x[b] = mul(load(scores + 16 * b), set1(t.scale));
    largest_vector = max(x[b], largest_vector);
  }
  const float largest = reduce_max(largest_vector);
  for (int b = 0; b < kBlocks; ++b) store(scores + 16 * b, exp(sub(x[b], set1(largest))));
  for (int64_t s = 0; s < range.low; ++s) scores[s] = 0.0f;
  for (int64_t s = range.high; s < kPageTokens; ++s) scores[s] = 0.0f;
  F32x16 total = zero();
  for (int b = 0; b < kBlocks; ++b) total = add(total, load(scores + 16 * b));
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

// kRows query vectors, from `first` on, against one page.
template <int kRows, class Products>
inline void attend_page(const Products& products, const AttentionTask& t, const Page& page,
                        int64_t first, float* scores) {
  MaskRange range[kRows];
  bool none = true, all = true;
  for (int i = 0; i < kRows; ++i) {
    range[i] = mask_range(t, first + i, page.start);
    none = none && range[i].none();
    all = all && range[i].all();
  }
  if (none) return;
  products.template score<kRows>(page, first, scores);
  for (int i = 0; i < kRows; ++i) {
    if (!range[i].none()) online_softmax(t, first + i, range[i], scores + i * kPageTokens);
  }
  if (all) {
    products.template accumulate_values<kRows>(page, first, range[0], scores);
    return;
  }
  for (int i = 0; i < kRows; ++i) {
    if (!range[i].none()) {
      products.template accumulate_values<1>(page, first + i, range[i], scores + i * kPageTokens);
    }
  }
}

// Blocks of kRows vectors, the rest in smaller ones.
template <int kRows, class Products>
inline void attend_vectors(const Products& products, const AttentionTask& t, const Page& page,
                           int64_t first, float* scores) {
  const int64_t vectors = t.rows * t.group;
  for (; first + kRows <= vectors; first += kRows) {
    attend_page<kRows>(products, t, page, first, scores);
  }
  if constexpr (kRows > 1) {
    constexpr int kNext = kRows > 4 ? 4 : kRows / 2;
    if (first < vectors) attend_vectors<kNext>(products, t, page, first, scores);
  }
}

template <class Products>
void attend(const AttentionTask& t) noexcept {
  const int64_t vectors = t.rows * t.group;
  for (int64_t i = 0; i < vectors; ++i) t.max[i] = -__builtin_inff(), t.sum[i] = 0.0f;
  std::memset(t.acc, 0, static_cast<size_t>(vectors * padded(t.e)) * sizeof(float));
  const Products products(t);
  const auto head_of = [&t](int64_t start) {
    return t.base + t.pages[start / kPageTokens] * t.page_bytes;
  };
  for (int64_t start = t.begin; start < t.end; start += kPageTokens) {
    const int64_t next = start + kPageTokens;
    const Page page{start, head_of(start), next < t.last ? head_of(next) : nullptr};
    attend_vectors<kQueryRows>(products, t, page, 0, t.scratch);
  }
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
