// Attention over a cache of bf16 by the pair dot product. Queries and weights are rounded to bf16;
// sums are float32. Pairs are of features in scores and of positions (2i, 2i + 1) in values.
#include "cpu/kernels/common/attention.h"

#include <immintrin.h>

#include "cpu/kernel_table.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

constexpr int kVectors = kPageTokens / 16;

// Sixteen pairs (a[i], b[i]); null stands for zeros.
inline __m512i pairs(const uint16_t* a, const uint16_t* b) {
  const auto words = [](const uint16_t* p) {
    return p ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)) : _mm256_setzero_si256();
  };
  alignas(64) static constexpr uint16_t kInterleaved[32] = {
      0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
      8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  return _mm512_permutex2var_epi16(_mm512_castsi256_si512(words(a)),
                                   _mm512_load_si512(kInterleaved),
                                   _mm512_castsi256_si512(words(b)));
}

inline __m512i broadcast_pair(const uint16_t* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof(pair));
  __m512i all = _mm512_set1_epi32(pair);
#ifdef __clang__
  // Clang 16 crashes when it folds a broadcast into a vector of bf16; it must not see one.
  asm("" : "+v"(all));
#endif
  return all;
}

inline __m512 dot(__m512i a, __m512i b, __m512 sum) {
  return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
}

class PairProducts {
 public:
  explicit PairProducts(const AttentionTask& task)
      : t_(task),
        row_(padded(task.e)),
        key_bytes_(task.e * kPageTokens * KvBF16::kBytes),
        weights_(reinterpret_cast<uint16_t*>(task.scratch + kQueryRows * kPageTokens)),
        queries_(weights_ + kQueryRows * kPageTokens) {
    for (int64_t i = 0; i < task.rows * task.group; ++i) {
      for (int64_t f = 0; f < task.e; f += 16) {
        const int64_t left = task.e - f;
        const float* q = query(task, i) + f;
        store_bf16(queries_ + i * row_ + f, left < 16 ? load_partial(q, left) : load(q));
      }
    }
  }

  // scores[i][page] = q_i . k, unscaled, of all positions.
  template <int kRows>
  void score(const Page& page, int64_t first, float* scores) const {
    const std::byte* ahead = first == 0 ? page.head + key_bytes_ : nullptr;
    const auto* keys = reinterpret_cast<const uint16_t*>(page.head);
    const uint16_t* q = queries_ + first * row_;
    __m512 sum[kRows][kVectors];
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i)
      sum[i / kVectors][i % kVectors] = _mm512_setzero_ps();
    for (int64_t f = 0; f < t_.e; f += 2) {
      const uint16_t* row = keys + f * kPageTokens;
      if (ahead)
        prefetch(ahead + f * kPageTokens * KvBF16::kBytes, 2 * kPageTokens * KvBF16::kBytes);
      __m512i k[kVectors];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        k[v] = pairs(row + 16 * v, f + 1 < t_.e ? row + kPageTokens + 16 * v : nullptr);
      }
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const __m512i a = broadcast_pair(q + i * row_ + f);
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) sum[i][v] = dot(k[v], a, sum[i][v]);
      }
    }
#pragma GCC unroll 24
    for (int i = 0; i < kRows * kVectors; ++i) {
      _mm512_storeu_ps(scores + i * 16, sum[i / kVectors][i % kVectors]);
    }
  }

  // acc_i += sum over the unmasked positions of p_i * v.
  template <int kRows>
  void accumulate_values(const Page& page, int64_t first, MaskRange range,
                         const float* scores) const {
    for (int64_t i = 0; i < kRows * kPageTokens; i += 16) {
      store_bf16(weights_ + i, load(scores + i));
    }
    const auto* values = reinterpret_cast<const uint16_t*>(page.head + key_bytes_);
    add_values<kRows, tile_vectors(kRows, 8)>(values, first, 0, range,
                                              first == 0 ? page.next : nullptr);
  }

 private:
  // Features from `feature` on, 16 * kBlocks at a time and the rest in fewer.
  template <int kRows, int kBlocks>
  void add_values(const uint16_t* values, int64_t first, int64_t feature, MaskRange range,
                  const std::byte* ahead) const {
    for (; feature + 16 * kBlocks <= row_; feature += 16 * kBlocks) {
      float* sums = t_.acc + first * row_ + feature;
      __m512 acc[kRows][kBlocks];
#pragma GCC unroll 24
      for (int i = 0; i < kRows * kBlocks; ++i) {
        acc[i / kBlocks][i % kBlocks] =
            _mm512_loadu_ps(sums + i / kBlocks * row_ + 16 * (i % kBlocks));
      }
      for (int64_t s = range.low / 2 * 2; s < range.high; s += 2) {
        const uint16_t* row = values + s * row_ + feature;
        const uint16_t* even = s >= range.low ? row : nullptr;
        const uint16_t* odd = s + 1 < range.high ? row + row_ : nullptr;
        if (ahead) {
          const std::byte* at = ahead + (s * row_ + feature) * KvBF16::kBytes;
          prefetch(at, 16 * kBlocks * KvBF16::kBytes);
          prefetch(at + row_ * KvBF16::kBytes, 16 * kBlocks * KvBF16::kBytes);
        }
        __m512i v[kBlocks];
#pragma GCC unroll 8
        for (int b = 0; b < kBlocks; ++b) {
          v[b] = pairs(even ? even + 16 * b : nullptr, odd ? odd + 16 * b : nullptr);
        }
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
          const __m512i p = broadcast_pair(weights_ + i * kPageTokens + s);
#pragma GCC unroll 8
          for (int b = 0; b < kBlocks; ++b) acc[i][b] = dot(v[b], p, acc[i][b]);
        }
      }
#pragma GCC unroll 24
      for (int i = 0; i < kRows * kBlocks; ++i) {
        _mm512_storeu_ps(sums + i / kBlocks * row_ + 16 * (i % kBlocks),
                         acc[i / kBlocks][i % kBlocks]);
      }
    }
    if constexpr (kBlocks > 1) {
      add_values<kRows, kBlocks / 2>(values, first, feature, range, ahead);
    }
  }

  const AttentionTask& t_;
  int64_t row_;  // elements of a position's values, and of a query
  int64_t key_bytes_;
  uint16_t* weights_;  // [row of a tile][page]
  uint16_t* queries_;  // [query vector][padded e]
};

}  // namespace

constinit const Kernels kAttention = [] {
  Kernels kernels;
  kernels.kv[static_cast<size_t>(KvType::kBF16)].attend = attend<PairProducts>;
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
