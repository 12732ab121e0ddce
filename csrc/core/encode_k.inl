// Floats -> K blocks. A K block keeps few-bit scales per group, so its encoder fits each group by
// weighted least squares over a band of candidate steps, rounds the scales, then rounds every value
// to the scales as stored. The error weights favour large values, as in llama.cpp's k-quants.
// Included like encode.inl, after it.

// The nearest whole number within [low, high].
inline int nearest(float v, int low, int high) {
  return truncate_to(v + (v < 0 ? -0.5f : 0.5f), low, high);
}

// x ~ scale * q with q in [-levels, levels - 1]: the scale of least error weighted by x^2. The
// extreme value may lie on either end, so the scale is signed.
inline float fit_symmetric(const float* x, int n, int levels) {
  float extreme = 0, magnitude = 0;
  for (int i = 0; i < n; ++i) {
    const float a = x[i] < 0 ? -x[i] : x[i];
    if (a > magnitude) magnitude = a, extreme = x[i];
  }
  if (!(magnitude > 1e-30f)) return 0;
  float best_scale = 0, best_gain = -1;
  for (int step = -9; step <= 9; ++step) {
    const float inverse = -(static_cast<float>(levels) + 0.1f * static_cast<float>(step)) / extreme;
    float xq = 0, qq = 0;
    for (int i = 0; i < n; ++i) {
      const auto q = static_cast<float>(nearest(x[i] * inverse, -levels, levels - 1));
      const float w = x[i] * x[i];
      xq += w * x[i] * q;
      qq += w * q * q;
    }
    // The error is sum(w x^2) - xq^2 / qq, so the larger the last term the better.
    if (qq > 0 && xq * xq > best_gain * qq) best_gain = xq * xq / qq, best_scale = xq / qq;
  }
  return best_scale;
}

struct AffineFit {
  float scale;  // >= 0
  float min;    // >= 0: x ~ scale * q - min
};

// x ~ scale * q - min with q in [0, levels]: least squares weighted by w over candidate steps.
inline AffineFit fit_affine(const float* x, const float* w, int n, int levels) {
  float low = x[0], high = x[0], sum_w = 0, sum_x = 0;
  for (int i = 0; i < n; ++i) {
    if (x[i] < low) low = x[i];
    if (x[i] > high) high = x[i];
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  if (low > 0) low = 0;  // the stored min cannot lift values above zero
  if (!(high - low > 1e-30f)) return {0, -low};
  AffineFit best{(high - low) / static_cast<float>(levels), -low};
  float best_error = -1;
  for (int step = -1; step <= 21; ++step) {
    const float shift = step < 0 ? 0.0f : -1.0f + 0.1f * static_cast<float>(step);
    const float inverse = (static_cast<float>(levels) + shift) / (high - low);
    float q1 = 0, q2 = 0, xq = 0;
    for (int i = 0; i < n; ++i) {
      const auto q = static_cast<float>(nearest((x[i] - low) * inverse, 0, levels));
      q1 += w[i] * q;
      q2 += w[i] * q * q;
      xq += w[i] * q * x[i];
    }
    const float determinant = sum_w * q2 - q1 * q1;
    if (!(determinant > 0)) continue;
    AffineFit fit{(sum_w * xq - sum_x * q1) / determinant, (q1 * xq - q2 * sum_x) / determinant};
    if (fit.min < 0) fit = {xq / q2, 0};
    if (!(fit.scale > 0)) continue;
    float error = 0;
    for (int i = 0; i < n; ++i) {
      const int q = nearest((x[i] + fit.min) / fit.scale, 0, levels);
      const float d = fit.scale * static_cast<float>(q) - fit.min - x[i];
      error += w[i] * d * d;
    }
    if (best_error < 0 || error < best_error) best_error = error, best = fit;
  }
  return best;
}

// Weights of the affine fit: the spread of the whole block keeps small values from vanishing.
inline void error_weights(const float* x, int n, float* w) {
  float squares = 0;
  for (int i = 0; i < n; ++i) squares += x[i] * x[i];
  const float spread = __builtin_sqrtf(squares / static_cast<float>(n));
  for (int i = 0; i < n; ++i) w[i] = spread + (x[i] < 0 ? -x[i] : x[i]);
}

// Affine groups of one block: fitted, then their scales and mins rounded to `bits_max` steps of d
// and dmin, and every value rounded to what is stored.
template <int kGroup, int kLevels>
struct AffineBlock {
  static constexpr int kGroups = kSuperBlock / kGroup;
  uint16_t d, dmin;
  uint8_t scale[kGroups], min[kGroups];
  uint8_t q[kSuperBlock];

  AffineBlock(const float* x, int bits_max) {
    AffineFit fit[kGroups];
    float largest_scale = 0, largest_min = 0;
    for (int g = 0; g < kGroups; ++g) {
      float w[kGroup];
      error_weights(x + kGroup * g, kGroup, w);
      fit[g] = fit_affine(x + kGroup * g, w, kGroup, kLevels);
      if (fit[g].scale > largest_scale) largest_scale = fit[g].scale;
      if (fit[g].min > largest_min) largest_min = fit[g].min;
    }
    const auto steps = static_cast<float>(bits_max);
    d = float_to_half(largest_scale / steps);
    dmin = float_to_half(largest_min / steps);
    const float inverse_scale = largest_scale > 0 ? steps / largest_scale : 0;
    const float inverse_min = largest_min > 0 ? steps / largest_min : 0;
    for (int g = 0; g < kGroups; ++g) {
      scale[g] = static_cast<uint8_t>(nearest(fit[g].scale * inverse_scale, 0, bits_max));
      min[g] = static_cast<uint8_t>(nearest(fit[g].min * inverse_min, 0, bits_max));
      const float s = half_to_float(d) * static_cast<float>(scale[g]);
      const float m = half_to_float(dmin) * static_cast<float>(min[g]);
      for (int i = kGroup * g; i < kGroup * (g + 1); ++i) {
        q[i] = static_cast<uint8_t>(s > 0 ? nearest((x[i] + m) / s, 0, kLevels) : 0);
      }
    }
  }
};

// Symmetric groups of 16, likewise; q is offset by `kLevels` and unsigned.
template <int kLevels>
struct SymmetricBlock {
  uint16_t d;
  int8_t scale[16];
  uint8_t q[kSuperBlock];

  // Scales in [-steps, steps - 1].
  SymmetricBlock(const float* x, int steps) {
    float fit[16], extreme = 0, magnitude = 0;
    for (int g = 0; g < 16; ++g) {
      fit[g] = fit_symmetric(x + 16 * g, 16, kLevels);
      const float a = fit[g] < 0 ? -fit[g] : fit[g];
      if (a > magnitude) magnitude = a, extreme = fit[g];
    }
    const float exact = extreme / static_cast<float>(-steps);
    d = float_to_half(exact);
    const float inverse = exact != 0 ? 1.0f / exact : 0;
    for (int g = 0; g < 16; ++g) {
      scale[g] = static_cast<int8_t>(nearest(fit[g] * inverse, -steps, steps - 1));
      const float s = half_to_float(d) * static_cast<float>(scale[g]);
      for (int i = 16 * g; i < 16 * (g + 1); ++i) {
        const int code = s != 0 ? nearest(x[i] / s, -kLevels, kLevels - 1) : 0;
        q[i] = static_cast<uint8_t>(code + kLevels);
      }
    }
  }
};

inline void encode_block(const float* x, BlockQ2_K& b) {
  const AffineBlock<16, 3> a(x, 15);
  b.d = a.d, b.dmin = a.dmin;
  std::memset(b.qs, 0, sizeof(b.qs));
  for (int g = 0; g < 16; ++g) b.scales[g] = static_cast<uint8_t>(a.scale[g] | a.min[g] << 4);
  for (int e = 0; e < kSuperBlock; ++e) {
    uint8_t& byte = b.qs[32 * (e / 128) + e % 32];
    byte = static_cast<uint8_t>(byte | a.q[e] << (2 * (e % 128 / 32)));
  }
}

inline void encode_block(const float* x, BlockQ3_K& b) {
  const SymmetricBlock<4> a(x, 32);
  b.d = a.d;
  std::memset(b.qs, 0, sizeof(b.qs));
  std::memset(b.hmask, 0, sizeof(b.hmask));
  std::memset(b.scales, 0, sizeof(b.scales));
  for (int g = 0; g < 16; ++g) {
    const int code = a.scale[g] + 32;
    uint8_t& low = b.scales[g % 8];
    low = static_cast<uint8_t>(low | (code & 15) << (g < 8 ? 0 : 4));
    uint8_t& high = b.scales[8 + g % 4];
    high = static_cast<uint8_t>(high | (code >> 4) << (2 * (g / 4)));
  }
  for (int e = 0; e < kSuperBlock; ++e) {
    const int half = e / 128, j = e % 128 / 32, l = e % 32;
    uint8_t& low = b.qs[32 * half + l];
    low = static_cast<uint8_t>(low | (a.q[e] & 3) << (2 * j));
    b.hmask[l] = static_cast<uint8_t>(b.hmask[l] | (a.q[e] >> 2) << (4 * half + j));
  }
}

// The 12 bytes that hold eight 6-bit scales and eight 6-bit mins (inverse of q4_k_scale_min).
inline void pack_scales(const uint8_t (&scale)[8], const uint8_t (&min)[8], uint8_t (&out)[12]) {
  for (int s = 0; s < 4; ++s) {
    out[s] = static_cast<uint8_t>(scale[s] | (scale[s + 4] >> 4) << 6);
    out[s + 4] = static_cast<uint8_t>(min[s] | (min[s + 4] >> 4) << 6);
    out[s + 8] = static_cast<uint8_t>((scale[s + 4] & 15) | (min[s + 4] & 15) << 4);
  }
}

inline void encode_block(const float* x, BlockQ4_K& b) {
  const AffineBlock<32, 15> a(x, 63);
  b.d = a.d, b.dmin = a.dmin;
  pack_scales(a.scale, a.min, b.scales);
  for (int i = 0; i < 128; ++i) {
    const int e = 64 * (i / 32) + i % 32;
    b.qs[i] = static_cast<uint8_t>(a.q[e] | a.q[e + 32] << 4);
  }
}

inline void encode_block(const float* x, BlockQ5_K& b) {
  const AffineBlock<32, 31> a(x, 63);
  b.d = a.d, b.dmin = a.dmin;
  pack_scales(a.scale, a.min, b.scales);
  std::memset(b.qh, 0, sizeof(b.qh));
  for (int i = 0; i < 128; ++i) {
    const int e = 64 * (i / 32) + i % 32;
    b.qs[i] = static_cast<uint8_t>((a.q[e] & 15) | (a.q[e + 32] & 15) << 4);
  }
  for (int e = 0; e < kSuperBlock; ++e) {
    b.qh[e % 32] = static_cast<uint8_t>(b.qh[e % 32] | (a.q[e] >> 4) << (e / 32));
  }
}

inline void encode_block(const float* x, BlockQ6_K& b) {
  const SymmetricBlock<32> a(x, 128);
  b.d = a.d;
  std::memcpy(b.scales, a.scale, sizeof(b.scales));
  std::memset(b.ql, 0, sizeof(b.ql));
  std::memset(b.qh, 0, sizeof(b.qh));
  for (int e = 0; e < kSuperBlock; ++e) {
    const int half = e / 128, t = e % 128 / 32, l = e % 32;
    uint8_t& low = b.ql[64 * half + 32 * (t % 2) + l];
    low = static_cast<uint8_t>(low | (a.q[e] & 15) << (t < 2 ? 0 : 4));
    uint8_t& high = b.qh[32 * half + l];
    high = static_cast<uint8_t>(high | (a.q[e] >> 4) << (2 * t));
  }
}
