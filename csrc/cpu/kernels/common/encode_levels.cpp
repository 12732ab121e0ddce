// Floats -> IQ4_NL and IQ4_XS: codes that stand for sixteen unequal levels. A group's scale is
// searched among those that bring its extreme near either end of the levels.
#include "core/dtype.h"
#include "cpu/kernel_table.h"
#include "cpu/kernels/common/encode.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

constexpr int kLevels = 16;

// value(i) of the level i that is nearest to v, of the lower one between two.
template <class Value>
inline F32x16 chosen(F32x16 v, Value value) {
  F32x16 found = set1(value(0));
  for (int i = 1; i < kLevels; ++i) {
    const float middle = 0.5f * static_cast<float>(kIq4Levels[i - 1] + kIq4Levels[i]);
    found = select_greater(v, set1(middle), set1(value(i)), found);
  }
  return found;
}
inline F32x16 nearest_level(F32x16 v) {
  return chosen(v, [](int i) { return static_cast<float>(kIq4Levels[i]); });
}
// Codes of 32 values under a scale.
inline void level_codes(const float* x, float scale, uint8_t* codes) {
  const F32x16 inverse = inverse_of(set1(scale));
  for (int i = 0; i < kBlock; i += 16) {
    float lanes[16];
    store(lanes, chosen(mul(load(x + i), inverse), [](int c) { return static_cast<float>(c); }));
    for (int j = 0; j < 16; ++j) codes[i + j] = static_cast<uint8_t>(static_cast<int>(lanes[j]));
  }
}
inline void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) qs[j] = static_cast<uint8_t>(codes[j] | codes[j + 16] << 4);
}

// Sums of w x q and w q^2 of each group's nearest levels under 1 / scale.
struct Sums {
  F32x16 xq, qq;
};
inline Sums sums_of(const F32x16 (&x)[kBlock], const F32x16 (&w)[kBlock], F32x16 inverse) {
  Sums sums{zero(), zero()};
  for (int i = 0; i < kBlock; ++i) {
    const F32x16 q = nearest_level(mul(x[i], inverse));
    const F32x16 wq = mul(w[i], q);
    sums.xq = muladd(wq, x[i], sums.xq);
    sums.qq = muladd(wq, q, sums.qq);
  }
  return sums;
}

// x ~ scale * level for sixteen groups.
inline F32x16 fit_levels(const F32x16 (&x)[kBlock], const F32x16 (&w)[kBlock]) {
  F32x16 extreme = zero(), magnitude = zero();
  for (const F32x16 v : x) {
    const F32x16 a = absolute(v);
    extreme = select_greater(a, magnitude, v, extreme);
    magnitude = max(a, magnitude);
  }
  const F32x16 inverse_extreme = inverse_of(extreme);
  F32x16 best_scale = zero(), best_gain = zero();
  constexpr int kSteps = 9;
  for (int step = 0; step < 2 * kSteps; ++step) {
    const float shift = 4.0f * static_cast<float>(step % kSteps - kSteps / 2);
    const float end = step < kSteps ? static_cast<float>(kIq4Levels[0]) - shift
                                    : static_cast<float>(kIq4Levels[kLevels - 1]) + shift;
    const Sums sums = sums_of(x, w, mul(set1(end), inverse_extreme));
    // The error is sum(w x^2) - xq^2 / qq, so the larger the last term the better.
    const F32x16 scale = mul(sums.xq, inverse_of(sums.qq));
    const F32x16 gain = mul(sums.xq, scale);
    best_scale = select_greater(gain, best_gain, scale, best_scale);
    best_gain = select_greater(gain, best_gain, gain, best_gain);
  }
  return best_scale;
}

void encode_iq4_nl(const float* x, const float* importance, int64_t count,
                   std::byte* out) noexcept {
  encode_batches<BlockIQ4_NL, kBlock, 16>(
      {x, importance}, count, out, [](Values from, BlockIQ4_NL* blocks) {
        const Groups<kBlock> groups(from.x);
        F32x16 w[kBlock];
        error_weights(groups.values, from.importance, w);
        float scale[16];
        store(scale, fit_levels(groups.values, w));
        for (int g = 0; g < 16; ++g) {
          uint8_t codes[kBlock];
          blocks[g].d = float_to_half(scale[g]);
          level_codes(from.x + kBlock * g, half_to_float(blocks[g].d), codes);
          pack_nibbles(codes, blocks[g].qs);
        }
      });
}

// --- two blocks of eight groups: x ~ d * scale * level, scale in [-32, 31] ---

constexpr int kGroups = kSuperBlock / kBlock;
constexpr float kLeast = -32.0f, kMost = 31.0f;

// d of each group's block, such that its extreme scale becomes -32; as a half holds it.
inline void first_steps(F32x16 fit, float* d) {
  float lanes[16];
  store(lanes, fit);
  for (int first = 0; first < 16; first += kGroups) {
    float extreme = 0;
    for (int g = first; g < first + kGroups; ++g) {
      if (__builtin_fabsf(lanes[g]) > __builtin_fabsf(extreme)) extreme = lanes[g];
    }
    for (int g = first; g < first + kGroups; ++g) {
      d[g] = half_to_float(float_to_half(extreme / kLeast));
    }
  }
}

// The best of each scale and its neighbours; d that then suits each block best.
inline F32x16 improve(const F32x16 (&x)[kBlock], const F32x16 (&w)[kBlock], F32x16 start,
                      float* d) {
  const F32x16 step = load(d);
  F32x16 best = start, most = set1(-3e38f), xq = zero(), qq = zero();
  for (float shift = -1; shift <= 1; ++shift) {
    const F32x16 s = min(max(add(start, set1(shift)), set1(kLeast)), set1(kMost));
    const F32x16 scale = mul(step, s);
    const Sums sums = sums_of(x, w, inverse_of(scale));
    // Less error is more of 2 scale xq - scale^2 qq.
    const F32x16 gain = mul(scale, sub(mul(set1(2.0f), sums.xq), mul(scale, sums.qq)));
    best = select_greater(gain, most, s, best);
    xq = select_greater(gain, most, mul(s, sums.xq), xq);
    qq = select_greater(gain, most, mul(mul(s, s), sums.qq), qq);
    most = max(gain, most);
  }
  float lanes[2][16];
  store(lanes[0], xq), store(lanes[1], qq);
  for (int first = 0; first < 16; first += kGroups) {
    float a = 0, b = 0;
    for (int g = first; g < first + kGroups; ++g) a += lanes[0][g], b += lanes[1][g];
    for (int g = first; g < first + kGroups; ++g) {
      if (b > 1e-30f) d[g] = half_to_float(float_to_half(a / b));
    }
  }
  return best;
}

void encode_iq4_xs(const float* x, const float* importance, int64_t count,
                   std::byte* out) noexcept {
  encode_batches<BlockIQ4_XS, kSuperBlock, 2>(
      {x, importance}, count, out, [](Values from, BlockIQ4_XS* blocks) {
        const Groups<kBlock> groups(from.x);
        F32x16 w[kBlock];
        error_weights(groups.values, from.importance, w);
        const F32x16 fit = fit_levels(groups.values, w);
        float d[16], scale[16];
        first_steps(fit, d);
        const F32x16 whole = nearest(mul(fit, inverse_of(load(d))), set1(kLeast), set1(kMost));
        store(scale, improve(groups.values, w, whole, d));
        for (int i = 0; i < 2; ++i) {
          blocks[i] = {};
          blocks[i].d = float_to_half(d[kGroups * i]);
        }
        for (int g = 0; g < 16; ++g) {
          BlockIQ4_XS& b = blocks[g / kGroups];
          const int s = g % kGroups, code = static_cast<int>(scale[g]) + 32;
          b.scales_l[s / 2] = static_cast<uint8_t>(b.scales_l[s / 2] | (code & 15) << (s % 2 * 4));
          b.scales_h = static_cast<uint16_t>(b.scales_h | (code >> 4) << (2 * s));
          uint8_t codes[kBlock];
          level_codes(from.x + kBlock * g, d[g] * scale[g], codes);
          pack_nibbles(codes, b.qs + 16 * s);
        }
      });
}

}  // namespace

constinit const Kernels kEncodeLevels = [] {
  Kernels kernels;
  kernels.encode[static_cast<size_t>(DType::kIQ4_NL)] = encode_iq4_nl;
  kernels.encode[static_cast<size_t>(DType::kIQ4_XS)] = encode_iq4_xs;
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
