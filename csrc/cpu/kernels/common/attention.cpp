// The products of attention in float32, for every type of the cache.
#include "cpu/kernels/common/attention.h"

#include "cpu/kernel_table.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

// What attend() needs: scores of a page and sums of its values, for kRows query vectors. The cache
// is read once, in order, by tasks of few vectors: while keys are read, the page's values are asked
// for, and the next page's keys meanwhile.
template <class Kv>
class PageProducts {
 public:
  explicit PageProducts(const AttentionTask& task)
      : t_(task),
        row_bytes_(padded(task.e) * Kv::kBytes),
        key_bytes_(task.e * kPageTokens * Kv::kBytes),
        weights_(task.scratch + kQueryRows * kPageTokens) {}

  // scores[i][page] = q_i . k, unscaled, of all positions.
  template <int kRows>
  void score(const Page& page, int64_t first, float* scores) const {
    constexpr int kVectors = tile_vectors(Kv::kScaled ? 2 * kRows : kRows, kPageTokens / 16);
    const float* q[kRows];
#pragma GCC unroll 8
    for (int i = 0; i < kRows; ++i) q[i] = query(t_, first + i);
    for (int64_t lane = 0; lane < kPageTokens; lane += 16 * kVectors) {
      F32x16 sum[kRows][kVectors] = {};
      const std::byte* ahead = first == 0 && lane == 0 ? page.head + key_bytes_ : nullptr;
      if constexpr (Kv::kScaled) {
        for (int64_t g = 0; g < scale_groups(t_.e); ++g) {
          F32x16 part[kRows][kVectors] = {};
          const int64_t begin = g * kScaleGroup;
          const int64_t end = begin + kScaleGroup < t_.e ? begin + kScaleGroup : t_.e;
          add_keys(page.head, begin, end, lane, q, ahead, part);
          const float* scales = Kv::key_scales(page.head, t_.e) + g * kPageTokens + lane;
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            const F32x16 scale = load(scales + 16 * v);
#pragma GCC unroll 8
            for (int i = 0; i < kRows; ++i) sum[i][v] = fma(part[i][v], scale, sum[i][v]);
          }
        }
      } else {
        add_keys(page.head, 0, t_.e, lane, q, ahead, sum);
      }
#pragma GCC unroll 24
      for (int i = 0; i < kRows * kVectors; ++i) {
        store(scores + i / kVectors * kPageTokens + lane + 16 * (i % kVectors),
              sum[i / kVectors][i % kVectors]);
      }
    }
  }

  // acc_i += sum over the unmasked positions of p_i * v.
  template <int kRows>
  void accumulate_values(const Page& page, int64_t first, MaskRange range,
                         const float* scores) const {
    const std::byte* ahead = first == 0 ? page.next : nullptr;
    if constexpr (Kv::kScaled) {
      scores = scaled<kRows>(page.head, scores);
      if (ahead) prefetch(ahead + 2 * key_bytes_, Kv::head_bytes(t_.e) - 2 * key_bytes_);
    }
    add_values<kRows, tile_vectors(kRows, 8)>(page.head, first, 0, range, scores, ahead);
  }

 private:
  // sum += q . k over features [begin, end) for the positions from `lane` on.
  template <int kRows, int kVectors>
  void add_keys(const std::byte* head, int64_t begin, int64_t end, int64_t lane,
                const float* const (&q)[kRows], const std::byte* ahead,
                F32x16 (&sum)[kRows][kVectors]) const {
    for (int64_t f = begin; f < end; ++f) {
      if (ahead) prefetch(ahead + f * kPageTokens * Kv::kBytes, kPageTokens * Kv::kBytes);
      F32x16 k[kVectors];
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) k[v] = Kv::key(head, f, lane + 16 * v);
#pragma GCC unroll 8
      for (int i = 0; i < kRows; ++i) {
        const F32x16 a = set1(q[i][f]);
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) sum[i][v] = fma(a, k[v], sum[i][v]);
      }
    }
  }

  // Values' scales move into the weights: [row][group][page].
  template <int kRows>
  const float* scaled(const std::byte* head, const float* scores) const {
    const int64_t groups = scale_groups(t_.e);
    const float* scales = Kv::value_scales(head, t_.e);
    for (int64_t i = 0; i < kRows * groups; ++i) {
      for (int64_t s = 0; s < kPageTokens; s += 16) {
        const F32x16 scale = load(scales + i % groups * kPageTokens + s);
        store(weights_ + i * kPageTokens + s,
              mul(load(scores + i / groups * kPageTokens + s), scale));
      }
    }
    return weights_;
  }

  // Features from `feature` on, 16 * kBlocks at a time and the rest in fewer.
  template <int kRows, int kBlocks>
  void add_values(const std::byte* head, int64_t first, int64_t feature, MaskRange range,
                  const float* weights, const std::byte* ahead) const {
    for (; feature + 16 * kBlocks <= padded(t_.e); feature += 16 * kBlocks) {
      F32x16 acc[kRows][kBlocks];
      float* sums = t_.acc + first * padded(t_.e) + feature;
#pragma GCC unroll 24
      for (int i = 0; i < kRows * kBlocks; ++i) {
        acc[i / kBlocks][i % kBlocks] =
            load(sums + i / kBlocks * padded(t_.e) + 16 * (i % kBlocks));
      }
      for (int64_t s = range.low; s < range.high; ++s) {
        if (ahead)
          prefetch(ahead + s * row_bytes_ + feature * Kv::kBytes, 16 * kBlocks * Kv::kBytes);
        F32x16 v[kBlocks];
#pragma GCC unroll 8
        for (int b = 0; b < kBlocks; ++b) v[b] = Kv::value(head, t_.e, s, feature + 16 * b);
#pragma GCC unroll 8
        for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 8
          for (int b = 0; b < kBlocks; ++b) {
            acc[i][b] = fma(set1(weight<kRows>(weights, i, feature + 16 * b, s)), v[b], acc[i][b]);
          }
        }
      }
#pragma GCC unroll 24
      for (int i = 0; i < kRows * kBlocks; ++i) {
        store(sums + i / kBlocks * padded(t_.e) + 16 * (i % kBlocks),
              acc[i / kBlocks][i % kBlocks]);
      }
    }
    if constexpr (kBlocks > 1) {
      add_values<kRows, kBlocks / 2>(head, first, feature, range, weights, ahead);
    }
  }
  template <int kRows>
  float weight(const float* weights, int row, int64_t feature, int64_t s) const {
    if constexpr (Kv::kScaled) {
      return weights[(row * scale_groups(t_.e) + feature / kScaleGroup) * kPageTokens + s];
    } else {
      return weights[row * kPageTokens + s];
    }
  }

  const AttentionTask& t_;
  int64_t row_bytes_;  // of a position's values
  int64_t key_bytes_;  // of a page's
  float* weights_;
};

template <class Kv>
constexpr KvFormat format() {
  return {[](int64_t e) noexcept { return (Kv::head_bytes(e) + 63) / 64 * 64; },
          [](const StoreKvTask& t) noexcept { Kv::put(t); },
          attend<PageProducts<Kv>>,
          {}};
}

}  // namespace

constinit const Kernels kAttention = [] {
  Kernels kernels;
  kernels.kv[static_cast<size_t>(KvType::kF32)] = format<KvF32>();
  kernels.kv[static_cast<size_t>(KvType::kF16)] = format<KvF16>();
  kernels.kv[static_cast<size_t>(KvType::kBF16)] = format<KvBF16>();
  kernels.kv[static_cast<size_t>(KvType::kQ8)] = format<KvQ8>();
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
