// Floats -> block, one function per format that can be produced; bytes equal to those of
// llama.cpp's reference quantizers. Included like decode.inl, after it. Also needs <cmath>.

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

inline void encode_block(const float* x, BlockF32& b) { b.value = x[0]; }
inline void encode_block(const float* x, BlockF16& b) { b.bits = float_to_half(x[0]); }
inline void encode_block(const float* x, BlockBF16& b) { b.bits = float_to_bf16(x[0]); }

// The reference's `(int)v` with a NaN or an overflow made harmless.
inline int truncate_to(float v, int low, int high) {
  if (!(v > static_cast<float>(low))) return low;
  return v < static_cast<float>(high) ? static_cast<int>(v) : high;
}

// The signed value of largest magnitude; of equal ones the first.
inline float signed_extreme(const float* x) {
  float extreme = 0.0f, magnitude = 0.0f;
  for (int e = 0; e < kBlock; ++e) {
    const float a = x[e] < 0 ? -x[e] : x[e];
    if (a > magnitude) magnitude = a, extreme = x[e];
  }
  return extreme;
}

inline void range_of(const float* x, float* low, float* high) {
  *low = x[0], *high = x[0];
  for (int e = 1; e < kBlock; ++e) {
    if (x[e] < *low) *low = x[e];
    if (x[e] > *high) *high = x[e];
  }
}

inline void encode_block(const float* x, BlockQ4_0& b) {
  const float d = signed_extreme(x) / -8.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  b.d = float_to_half(d);
  for (int j = 0; j < 16; ++j) {
    const int low = truncate_to(x[j] * inverse + 8.5f, 0, 15);
    const int high = truncate_to(x[j + 16] * inverse + 8.5f, 0, 15);
    b.qs[j] = static_cast<uint8_t>(low | high << 4);
  }
}

inline void encode_block(const float* x, BlockQ4_1& b) {
  float min, max;
  range_of(x, &min, &max);
  const float d = (max - min) / 15.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  b.d = float_to_half(d);
  b.m = float_to_half(min);
  for (int j = 0; j < 16; ++j) {
    const int low = truncate_to((x[j] - min) * inverse + 0.5f, 0, 15);
    const int high = truncate_to((x[j + 16] - min) * inverse + 0.5f, 0, 15);
    b.qs[j] = static_cast<uint8_t>(low | high << 4);
  }
}

inline void set_fifth_bit(uint8_t (&qh)[4], int e, int q) {
  qh[e / 8] = static_cast<uint8_t>(qh[e / 8] | ((q >> 4) & 1) << (e % 8));
}

inline void encode_block(const float* x, BlockQ5_0& b) {
  const float d = signed_extreme(x) / -16.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  b.d = float_to_half(d);
  std::memset(b.qh, 0, sizeof(b.qh));
  for (int j = 0; j < 16; ++j) {
    const int low = truncate_to(x[j] * inverse + 16.5f, 0, 31);
    const int high = truncate_to(x[j + 16] * inverse + 16.5f, 0, 31);
    b.qs[j] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
    set_fifth_bit(b.qh, j, low);
    set_fifth_bit(b.qh, j + 16, high);
  }
}

inline void encode_block(const float* x, BlockQ5_1& b) {
  float min, max;
  range_of(x, &min, &max);
  const float d = (max - min) / 31.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  b.d = float_to_half(d);
  b.m = float_to_half(min);
  std::memset(b.qh, 0, sizeof(b.qh));
  for (int j = 0; j < 16; ++j) {
    const int low = truncate_to((x[j] - min) * inverse + 0.5f, 0, 31);
    const int high = truncate_to((x[j + 16] - min) * inverse + 0.5f, 0, 31);
    b.qs[j] = static_cast<uint8_t>((low & 15) | (high & 15) << 4);
    set_fifth_bit(b.qh, j, low);
    set_fifth_bit(b.qh, j + 16, high);
  }
}

inline void encode_block(const float* x, BlockQ8_0& b) {
  const float extreme = signed_extreme(x);
  const float d = (extreme < 0 ? -extreme : extreme) / 127.0f;
  const float inverse = d != 0.0f ? 1.0f / d : 0.0f;
  b.d = float_to_half(d);
  for (int e = 0; e < kBlock; ++e) {
    const float v = x[e] * inverse;  // rounds half away from zero, as the reference does
    const float magnitude = v < 0 ? -v : v;
    const int whole = truncate_to(magnitude, 0, 127);
    const int q = whole + (magnitude - static_cast<float>(whole) >= 0.5f ? 1 : 0);
    b.qs[e] = static_cast<int8_t>(v < 0 ? -q : q);
  }
}
