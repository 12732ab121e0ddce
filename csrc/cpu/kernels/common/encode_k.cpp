// Floats -> K blocks. A K block keeps few-bit scales per group: each group is fitted alone, the
// scales are rounded to multiples of the block's own, their neighbours tried, and the block's scale
// fitted again to what was chosen.
#include "cpu/kernel_table.h"
#include "cpu/kernels/common/encode.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

// Of the lanes of `groups` groups from `first` on.
inline float largest(const float* lanes, int first, int groups) {
  float best = lanes[first];
  for (int g = first + 1; g < first + groups; ++g) {
    if (lanes[g] > best) best = lanes[g];
  }
  return best;
}
inline float total(const float* lanes, int first, int groups) {
  float sum = 0;
  for (int g = first; g < first + groups; ++g) sum += lanes[g];
  return sum;
}

// --- affine: x ~ d * scale * q - dmin * min ---

// Scales and mins of sixteen groups, whole numbers of their block's d and dmin.
struct AffineScales {
  float d[16], dmin[16];  // per lane, equal within a block; as a half holds them
  F32x16 scale, min;
};

// d and dmin such that the largest scale and min are `steps`.
template <int kGroups>
inline void first_steps(const AffineFit& fit, float steps, AffineScales& s) {
  float scale[16], min[16];
  store(scale, fit.scale);
  store(min, fit.min);
  for (int g = 0; g < 16; ++g) {
    const int first = g / kGroups * kGroups;
    s.d[g] = half_to_float(float_to_half(largest(scale, first, kGroups) / steps));
    s.dmin[g] = half_to_float(float_to_half(largest(min, first, kGroups) / steps));
  }
  s.scale = nearest(mul(fit.scale, inverse_of(load(s.d))), zero(), set1(steps));
  s.min = nearest(mul(fit.min, inverse_of(load(s.dmin))), zero(), set1(steps));
}

// Of the whole numbers next to each scale, with the min that suits it, the one of least error.
template <int kCount>
inline void try_neighbours(const F32x16 (&x)[kCount], const F32x16 (&w)[kCount], float levels,
                           float steps, AffineScales& s) {
  const F32x16 d = load(s.d), dmin = load(s.dmin), inverse_dmin = inverse_of(dmin);
  const F32x16 start = s.scale, start_min = mul(dmin, s.min);
  F32x16 sum_w = zero();
  for (const F32x16 v : w) sum_w = add(sum_w, v);
  const F32x16 inverse_w = inverse_of(sum_w);
  F32x16 least = set1(3e38f);
  for (float shift = -1; shift <= 1; ++shift) {
    const F32x16 step = min(max(add(start, set1(shift)), zero()), set1(steps));
    const F32x16 scale = mul(d, step), inverse = inverse_of(scale);
    F32x16 lifted = zero();
    for (int i = 0; i < kCount; ++i) {
      const F32x16 q = nearest(mul(add(x[i], start_min), inverse), zero(), set1(levels));
      lifted = muladd(w[i], sub(mul(scale, q), x[i]), lifted);
    }
    const F32x16 whole = nearest(mul(mul(lifted, inverse_w), inverse_dmin), zero(), set1(steps));
    const F32x16 low = mul(dmin, whole);
    F32x16 error = zero();
    for (int i = 0; i < kCount; ++i) {
      const F32x16 q = nearest(mul(add(x[i], low), inverse), zero(), set1(levels));
      const F32x16 off = sub(sub(mul(scale, q), low), x[i]);
      error = muladd(mul(w[i], off), off, error);
    }
    s.scale = select_greater(least, error, step, s.scale);
    s.min = select_greater(least, error, whole, s.min);
    least = min(error, least);
  }
}

// d and dmin by least squares over a block, given every code.
template <int kGroups, int kCount>
inline void fit_steps(const F32x16 (&x)[kCount], const F32x16 (&w)[kCount], float levels,
                      AffineScales& s) {
  const F32x16 low = mul(load(s.dmin), s.min), inverse = inverse_of(mul(load(s.d), s.scale));
  F32x16 a = zero(), b = zero(), c = zero(), p = zero(), r = zero();
  for (int i = 0; i < kCount; ++i) {
    const F32x16 q = mul(s.scale, nearest(mul(add(x[i], low), inverse), zero(), set1(levels)));
    const F32x16 wq = mul(w[i], q), wm = mul(w[i], s.min);
    a = muladd(wq, q, a);
    b = muladd(wq, s.min, b);
    c = muladd(wm, s.min, c);
    p = muladd(wq, x[i], p);
    r = muladd(wm, x[i], r);
  }
  float lanes[5][16];
  store(lanes[0], a), store(lanes[1], b), store(lanes[2], c), store(lanes[3], p);
  store(lanes[4], r);
  for (int first = 0; first < 16; first += kGroups) {
    float t[5];
    for (int i = 0; i < 5; ++i) t[i] = total(lanes[i], first, kGroups);
    const float determinant = t[0] * t[2] - t[1] * t[1];
    float d = 0, dmin = 0;
    if (determinant > 1e-3f * t[0] * t[2]) {
      d = (t[3] * t[2] - t[4] * t[1]) / determinant;
      dmin = (t[3] * t[1] - t[4] * t[0]) / determinant;
    }
    for (int g = first; g < first + kGroups; ++g) {
      if (d > 0 && dmin > 0) {
        s.d[g] = half_to_float(float_to_half(d));
        s.dmin[g] = half_to_float(float_to_half(dmin));
      }
    }
  }
}

// One or two blocks of groups of kGroup, x ~ d * scale * q - dmin * min.
template <int kGroup, int kLevels, int kSteps>
struct AffineBlocks {
  static constexpr int kGroups = kSuperBlock / kGroup;
  static constexpr int kBatch = 16 / kGroups;
  uint16_t d[kBatch], dmin[kBatch];
  uint8_t scale[16], min[16];
  uint8_t codes[16 * kGroup];

  explicit AffineBlocks(Values from) {
    const Groups<kGroup> groups(from.x);
    const auto& x = groups.values;
    F32x16 w[kGroup];
    error_weights(x, from.importance, w);
    AffineScales s;
    first_steps<kGroups>(fit_affine(x, w, kLevels, false), kSteps, s);
    try_neighbours(x, w, kLevels, kSteps, s);
    fit_steps<kGroups>(x, w, kLevels, s);
    float whole[2][16];
    store(whole[0], s.scale);
    store(whole[1], s.min);
    for (int g = 0; g < 16; ++g) {
      d[g / kGroups] = float_to_half(s.d[g]);
      dmin[g / kGroups] = float_to_half(s.dmin[g]);
      scale[g] = static_cast<uint8_t>(static_cast<int>(whole[0][g]));
      min[g] = static_cast<uint8_t>(static_cast<int>(whole[1][g]));
      round_codes(from.x + kGroup * g, kGroup, s.d[g] * whole[0][g], s.dmin[g] * whole[1][g], 0,
                  kLevels, codes + kGroup * g);
    }
  }
};

// --- symmetric: x ~ d * scale * q ---

// The sixteen groups of one block; codes are offset by kLevels and unsigned.
template <int kLevels, int kSteps>
struct SymmetricBlock {
  uint16_t d;
  int8_t scale[16];  // in [-kSteps, kSteps - 1]
  uint8_t codes[kSuperBlock];

  explicit SymmetricBlock(Values from) {
    const Groups<16> groups(from.x);
    const auto& x = groups.values;
    F32x16 w[16];
    error_weights(x, from.importance, w);
    const F32x16 fit = fit_symmetric(x, w, kLevels);
    float lanes[16], extreme = 0;
    store(lanes, fit);
    for (const float lane : lanes) {
      if (__builtin_fabsf(lane) > __builtin_fabsf(extreme)) extreme = lane;
    }
    float step = half_to_float(float_to_half(extreme / static_cast<float>(-kSteps)));
    F32x16 whole = nearest(mul(fit, inverse_of(set1(step))), set1(-kSteps), set1(kSteps - 1));
    step = improve(x, w, step, whole);
    d = float_to_half(step);
    store(lanes, whole);
    for (int g = 0; g < 16; ++g) {
      scale[g] = static_cast<int8_t>(lanes[g]);
      round_codes(from.x + 16 * g, 16, step * lanes[g], 0, -kLevels, kLevels - 1, codes + 16 * g);
    }
  }

 private:
  // The best of each scale and its neighbours; returns the step that then suits the block best.
  static float improve(const F32x16 (&x)[16], const F32x16 (&w)[16], float step, F32x16& whole) {
    const F32x16 start = whole;
    F32x16 least = set1(3e38f), xq = zero(), qq = zero();
    for (float shift = -1; shift <= 1; ++shift) {
      const F32x16 s = min(max(add(start, set1(shift)), set1(-kSteps)), set1(kSteps - 1));
      const F32x16 scale = mul(set1(step), s), inverse = inverse_of(scale);
      F32x16 error = zero(), sum_xq = zero(), sum_qq = zero();
      for (int i = 0; i < 16; ++i) {
        const F32x16 q = nearest(mul(x[i], inverse), set1(-kLevels), set1(kLevels - 1));
        const F32x16 off = sub(mul(scale, q), x[i]), sq = mul(s, q);
        error = muladd(mul(w[i], off), off, error);
        sum_xq = muladd(mul(w[i], sq), x[i], sum_xq);
        sum_qq = muladd(mul(w[i], sq), sq, sum_qq);
      }
      whole = select_greater(least, error, s, whole);
      xq = select_greater(least, error, sum_xq, xq);
      qq = select_greater(least, error, sum_qq, qq);
      least = min(error, least);
    }
    const float a = reduce_add(xq), b = reduce_add(qq);
    return b > 1e-30f ? half_to_float(float_to_half(a / b)) : step;
  }
};

// --- the blocks' own bit layouts ---

inline void write(const AffineBlocks<16, 3, 15>& a, BlockQ2_K* to) {
  BlockQ2_K& b = *to;
  b.d = a.d[0], b.dmin = a.dmin[0];
  for (int g = 0; g < 16; ++g) b.scales[g] = static_cast<uint8_t>(a.scale[g] | a.min[g] << 4);
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = a.codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      b.qs[32 * half + l] =
          static_cast<uint8_t>(q[l] | q[l + 32] << 2 | q[l + 64] << 4 | q[l + 96] << 6);
    }
  }
}

inline void write(const SymmetricBlock<4, 32>& a, BlockQ3_K* to) {
  BlockQ3_K& b = *to;
  b.d = a.d;
  std::memset(b.scales, 0, sizeof(b.scales));
  for (int g = 0; g < 16; ++g) {
    const int code = a.scale[g] + 32;
    uint8_t& low = b.scales[g % 8];
    low = static_cast<uint8_t>(low | (code & 15) << (g < 8 ? 0 : 4));
    uint8_t& high = b.scales[8 + g % 4];
    high = static_cast<uint8_t>(high | (code >> 4) << (2 * (g / 4)));
  }
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = a.codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      b.qs[32 * half + l] = static_cast<uint8_t>((q[l] & 3) | (q[l + 32] & 3) << 2 |
                                                 (q[l + 64] & 3) << 4 | (q[l + 96] & 3) << 6);
    }
  }
  for (int l = 0; l < 32; ++l) {
    int bits = 0;
    for (int j = 0; j < 8; ++j) bits |= (a.codes[32 * j + l] >> 2) << j;
    b.hmask[l] = static_cast<uint8_t>(bits);
  }
}

// The 12 bytes that hold eight 6-bit scales and eight 6-bit mins (inverse of q4_k_scale_min).
inline void pack_scales(const uint8_t* scale, const uint8_t* min, uint8_t (&out)[12]) {
  for (int s = 0; s < 4; ++s) {
    out[s] = static_cast<uint8_t>(scale[s] | (scale[s + 4] >> 4) << 6);
    out[s + 4] = static_cast<uint8_t>(min[s] | (min[s + 4] >> 4) << 6);
    out[s + 8] = static_cast<uint8_t>((scale[s + 4] & 15) | (min[s + 4] & 15) << 4);
  }
}

inline void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (int pair = 0; pair < 4; ++pair) {
    const uint8_t* q = codes + 64 * pair;
    for (int l = 0; l < 32; ++l) {
      qs[32 * pair + l] = static_cast<uint8_t>((q[l] & 15) | (q[l + 32] & 15) << 4);
    }
  }
}

inline void write(const AffineBlocks<32, 15, 63>& a, BlockQ4_K* b) {
  for (int i = 0; i < 2; ++i) {
    b[i].d = a.d[i], b[i].dmin = a.dmin[i];
    pack_scales(a.scale + 8 * i, a.min + 8 * i, b[i].scales);
    pack_nibbles(a.codes + kSuperBlock * i, b[i].qs);
  }
}

inline void write(const AffineBlocks<32, 31, 63>& a, BlockQ5_K* b) {
  for (int i = 0; i < 2; ++i) {
    const uint8_t* q = a.codes + kSuperBlock * i;
    b[i].d = a.d[i], b[i].dmin = a.dmin[i];
    pack_scales(a.scale + 8 * i, a.min + 8 * i, b[i].scales);
    pack_nibbles(q, b[i].qs);
    for (int l = 0; l < 32; ++l) {
      int bits = 0;
      for (int j = 0; j < 8; ++j) bits |= (q[32 * j + l] >> 4) << j;
      b[i].qh[l] = static_cast<uint8_t>(bits);
    }
  }
}

inline void write(const SymmetricBlock<32, 128>& a, BlockQ6_K* to) {
  BlockQ6_K& b = *to;
  b.d = a.d;
  std::memcpy(b.scales, a.scale, sizeof(b.scales));
  for (int half = 0; half < 2; ++half) {
    const uint8_t* q = a.codes + 128 * half;
    for (int l = 0; l < 32; ++l) {
      b.ql[64 * half + l] = static_cast<uint8_t>((q[l] & 15) | (q[l + 64] & 15) << 4);
      b.ql[64 * half + 32 + l] = static_cast<uint8_t>((q[l + 32] & 15) | (q[l + 96] & 15) << 4);
      b.qh[32 * half + l] = static_cast<uint8_t>(q[l] >> 4 | (q[l + 32] >> 4) << 2 |
                                                 (q[l + 64] >> 4) << 4 | (q[l + 96] >> 4) << 6);
    }
  }
}

// kBatch blocks at a time, each batch fitted as a Fit.
template <class Block, int kBatch, class Fit>
void encode_blocks(const float* x, const float* importance, int64_t count,
                   std::byte* out) noexcept {
  encode_batches<Block, kSuperBlock, kBatch>(
      {x, importance}, count, out, [](Values from, Block* blocks) { write(Fit(from), blocks); });
}

}  // namespace

constinit const Kernels kEncodeK = [] {
  Kernels kernels;
  const auto slot = [&](DType dtype) -> auto& {
    return kernels.encode[static_cast<size_t>(dtype)];
  };
  slot(DType::kQ2_K) = encode_blocks<BlockQ2_K, 1, AffineBlocks<16, 3, 15>>;
  slot(DType::kQ3_K) = encode_blocks<BlockQ3_K, 1, SymmetricBlock<4, 32>>;
  slot(DType::kQ4_K) = encode_blocks<BlockQ4_K, 2, AffineBlocks<32, 15, 63>>;
  slot(DType::kQ5_K) = encode_blocks<BlockQ5_K, 2, AffineBlocks<32, 31, 63>>;
  slot(DType::kQ6_K) = encode_blocks<BlockQ6_K, 1, SymmetricBlock<32, 128>>;
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
