// Block -> floats, one function per format, evaluated left to right in float32 so that the result
// equals the reference decoder bit for bit. No include guard and no namespace: a ISA level (or a
// device) includes this inside its own namespace, so the same source is compiled for each.
// Needs <cstdint>, <cstring> and core/blocks.h before it.

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}

// IEEE half -> float, denormals and NaN included, in integer arithmetic (no F16C needed).
inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t magnitude = half & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 moves the exponent's bias from 15 to 127 and normalises denormals exactly.
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000u);
  return bits_to_float(sign | float_to_bits(scaled));
}

inline float bf16_to_float(uint16_t bits) {
  return bits_to_float(static_cast<uint32_t>(bits) << 16);
}

inline void decode_block(const BlockF32& b, float* y) { y[0] = b.value; }
inline void decode_block(const BlockF16& b, float* y) { y[0] = half_to_float(b.bits); }
inline void decode_block(const BlockBF16& b, float* y) { y[0] = bf16_to_float(b.bits); }

inline void decode_block(const BlockQ4_0& b, float* y) {
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((b.qs[j] & 15) - 8);
    y[j + 16] = d * static_cast<float>((b.qs[j] >> 4) - 8);
  }
}

inline void decode_block(const BlockQ4_1& b, float* y) {
  const float d = half_to_float(b.d);
  const float m = half_to_float(b.m);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>(b.qs[j] & 15) + m;
    y[j + 16] = d * static_cast<float>(b.qs[j] >> 4) + m;
  }
}

// The fifth bit of element e, as 0 or 16.
inline int fifth_bit(const uint8_t (&qh)[4], int e) { return ((qh[e / 8] >> (e % 8)) & 1) << 4; }

inline void decode_block(const BlockQ5_0& b, float* y) {
  const float d = half_to_float(b.d);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((b.qs[j] & 15) + fifth_bit(b.qh, j) - 16);
    y[j + 16] = d * static_cast<float>((b.qs[j] >> 4) + fifth_bit(b.qh, j + 16) - 16);
  }
}

inline void decode_block(const BlockQ5_1& b, float* y) {
  const float d = half_to_float(b.d);
  const float m = half_to_float(b.m);
  for (int j = 0; j < 16; ++j) {
    y[j] = d * static_cast<float>((b.qs[j] & 15) + fifth_bit(b.qh, j)) + m;
    y[j + 16] = d * static_cast<float>((b.qs[j] >> 4) + fifth_bit(b.qh, j + 16)) + m;
  }
}

inline void decode_block(const BlockQ8_0& b, float* y) {
  const float d = half_to_float(b.d);
  for (int e = 0; e < 32; ++e) y[e] = d * static_cast<float>(b.qs[e]);
}

inline void decode_block(const BlockQ2_K& b, float* y) {
  const float d = half_to_float(b.d);
  const float dmin = half_to_float(b.dmin);
  for (int g = 0; g < 16; ++g) {
    const int half = g / 8, shift = 2 * (g % 8 / 2);
    const float scale = d * static_cast<float>(b.scales[g] & 15);
    const float min = dmin * static_cast<float>(b.scales[g] >> 4);
    const uint8_t* qs = b.qs + 32 * half + 16 * (g % 2);
    for (int i = 0; i < 16; ++i) {
      y[16 * g + i] = scale * static_cast<float>((qs[i] >> shift) & 3) - min;
    }
  }
}

// The 6-bit signed scale of group g of a Q3_K block.
inline int q3_k_scale(const uint8_t (&scales)[12], int g) {
  const int low = g < 8 ? scales[g] & 15 : scales[g - 8] >> 4;
  const int high = (scales[8 + g % 4] >> (2 * (g / 4))) & 3;
  return (low | high << 4) - 32;
}

inline void decode_block(const BlockQ3_K& b, float* y) {
  const float d = half_to_float(b.d);
  for (int g = 0; g < 16; ++g) {
    const int half = g / 8, j = g % 8 / 2, first = 16 * (g % 2);
    const float scale = d * static_cast<float>(q3_k_scale(b.scales, g));
    for (int i = first; i < first + 16; ++i) {
      const int low = (b.qs[32 * half + i] >> (2 * j)) & 3;
      const int high = (b.hmask[i] >> (4 * half + j)) & 1;
      y[128 * half + 32 * j + i] = scale * static_cast<float>(low - (high ? 0 : 4));
    }
  }
}

// The 6-bit scale and min of group s (0..7) of a Q4_K or Q5_K block.
inline void q4_k_scale_min(const uint8_t (&packed)[12], int s, int* scale, int* min) {
  if (s < 4) {
    *scale = packed[s] & 63;
    *min = packed[s + 4] & 63;
  } else {
    *scale = (packed[s + 4] & 15) | (packed[s - 4] >> 6) << 4;
    *min = (packed[s + 4] >> 4) | (packed[s] >> 6) << 4;
  }
}

inline void decode_block(const BlockQ4_K& b, float* y) {
  const float d = half_to_float(b.d);
  const float dmin = half_to_float(b.dmin);
  for (int s = 0; s < 8; ++s) {
    int sc, mn;
    q4_k_scale_min(b.scales, s, &sc, &mn);
    const float scale = d * static_cast<float>(sc);
    const float min = dmin * static_cast<float>(mn);
    const uint8_t* qs = b.qs + 32 * (s / 2);
    const int shift = 4 * (s % 2);
    for (int l = 0; l < 32; ++l) {
      y[32 * s + l] = scale * static_cast<float>((qs[l] >> shift) & 15) - min;
    }
  }
}

inline void decode_block(const BlockQ5_K& b, float* y) {
  const float d = half_to_float(b.d);
  const float dmin = half_to_float(b.dmin);
  for (int s = 0; s < 8; ++s) {
    int sc, mn;
    q4_k_scale_min(b.scales, s, &sc, &mn);
    const float scale = d * static_cast<float>(sc);
    const float min = dmin * static_cast<float>(mn);
    const uint8_t* qs = b.qs + 32 * (s / 2);
    const int shift = 4 * (s % 2);
    for (int l = 0; l < 32; ++l) {
      const int q = ((qs[l] >> shift) & 15) + (((b.qh[l] >> s) & 1) << 4);
      y[32 * s + l] = scale * static_cast<float>(q) - min;
    }
  }
}

inline void decode_block(const BlockQ6_K& b, float* y) {
  const float d = half_to_float(b.d);
  for (int g = 0; g < 16; ++g) {
    const int half = g / 8, t = g % 8 / 2, first = 16 * (g % 2);
    const float scale = d * static_cast<float>(b.scales[g]);
    for (int l = first; l < first + 16; ++l) {
      const int low = (b.ql[64 * half + 32 * (t % 2) + l] >> (t < 2 ? 0 : 4)) & 15;
      const int high = (b.qh[32 * half + l] >> (2 * t)) & 3;
      y[128 * half + 32 * t + l] = scale * static_cast<float>((low | high << 4) - 32);
    }
  }
}

inline void decode_block(const BlockQ8_1& b, float* y) {
  const float d = half_to_float(b.d);
  for (int e = 0; e < 32; ++e) y[e] = d * static_cast<float>(b.qs[e]);
}

inline void decode_block(const BlockQ8_K& b, float* y) {
  for (int e = 0; e < 256; ++e) y[e] = b.d * static_cast<float>(b.qs[e]);
}

#define LLAMA_RT_CODEBOOK inline constexpr
#define LLAMA_RT_DECODER inline
#include "core/codebook_blocks.inl"
#undef LLAMA_RT_DECODER
#undef LLAMA_RT_CODEBOOK

#define LLAMA_RT_DECODE(Block, elements)                   \
  inline void decode_block(const Block& b, float* y) {     \
    for (int octet = 0; octet < (elements) / 8; ++octet) { \
      const float scale = codebook_scale(b, octet);        \
      for (int e = 8 * octet; e < 8 * octet + 8; ++e) {    \
        y[e] = scale * codebook_level(b, e);               \
      }                                                    \
    }                                                      \
  }
LLAMA_RT_CODEBOOK_BLOCKS(LLAMA_RT_DECODE)
#undef LLAMA_RT_DECODE

// `count` elements from consecutive blocks; `count` fills whole blocks.
template <class Block, int kElements>
inline void decode_row(const void* row, int64_t count, float* y) {
  for (int64_t b = 0; b * kElements < count; ++b) {
    decode_block(block_at<Block>(row, b), y + b * kElements);
  }
}

// Floats -> elements; blocks are encoded by the CPU's levels.

// float -> IEEE half, round to nearest even; overflow becomes infinity, NaN stays a quiet NaN.
inline uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);
  if (magnitude < 0x38800000u) {  // below 2^-14: adding 0.5 puts the rounded bits at the bottom
    const float shifted = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000u));
  }
  const uint32_t odd = (magnitude >> 13) & 1u;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
}

// float -> bfloat16, round to nearest even, NaN kept quiet.
inline uint16_t float_to_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 64u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline void encode_element(float x, BlockF32& e) { e.value = x; }
inline void encode_element(float x, BlockF16& e) { e.bits = float_to_half(x); }
inline void encode_element(float x, BlockBF16& e) { e.bits = float_to_bf16(x); }

// `(int)v` with a NaN or an overflow made harmless.
inline int truncate_to(float v, int low, int high) {
  if (!(v > static_cast<float>(low))) return low;
  return v < static_cast<float>(high) ? static_cast<int>(v) : high;
}
