// Floats -> elements and blocks of 32. q8_0 is rounded as llama.cpp does, byte for byte; the
// formats of fewer bits search for the scale of least error.
#include "cpu/kernels/common/encode.h"

#include "cpu/kernel_table.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

template <class Element>
void encode_elements(const float* x, const float*, int64_t count, std::byte* out) noexcept {
  auto* elements = reinterpret_cast<Element*>(out);
  for (int64_t i = 0; i < count; ++i) encode_element(x[i], elements[i]);
}

inline void pack_nibbles(const uint8_t* codes, uint8_t* qs) {
  for (int j = 0; j < 16; ++j) {
    qs[j] = static_cast<uint8_t>((codes[j] & 15) | (codes[j + 16] & 15) << 4);
  }
}

inline void pack_fifth_bits(const uint8_t* codes, uint8_t* qh) {
  for (int byte = 0; byte < 4; ++byte) {
    int bits = 0;
    for (int i = 0; i < 8; ++i) bits |= (codes[8 * byte + i] >> 4) << i;
    qh[byte] = static_cast<uint8_t>(bits);
  }
}

inline void pack(const uint8_t* codes, BlockQ4_0& b) { pack_nibbles(codes, b.qs); }
inline void pack(const uint8_t* codes, BlockQ4_1& b) { pack_nibbles(codes, b.qs); }
inline void pack(const uint8_t* codes, BlockQ5_0& b) {
  pack_nibbles(codes, b.qs);
  pack_fifth_bits(codes, b.qh);
}
inline void pack(const uint8_t* codes, BlockQ5_1& b) {
  pack_nibbles(codes, b.qs);
  pack_fifth_bits(codes, b.qh);
}

// Sixteen blocks: d * q, q in [-kLevels, kLevels - 1].
template <class Block, int kLevels>
void encode_symmetric(const float* x, const float* importance, int64_t count,
                      std::byte* out) noexcept {
  encode_batches<Block, kBlock, 16>({x, importance}, count, out, [](Values from, Block* blocks) {
    const Groups<kBlock> groups(from.x);
    F32x16 w[kBlock];
    error_weights(groups.values, from.importance, w);
    float scale[16];
    store(scale, fit_symmetric(groups.values, w, kLevels));
    for (int g = 0; g < 16; ++g) {
      uint8_t codes[kBlock];
      blocks[g].d = float_to_half(scale[g]);
      round_codes(from.x + kBlock * g, kBlock, half_to_float(blocks[g].d), 0, -kLevels, kLevels - 1,
                  codes);
      pack(codes, blocks[g]);
    }
  });
}

// Sixteen blocks: d * q + m, q in [0, kLevels].
template <class Block, int kLevels>
void encode_affine(const float* x, const float* importance, int64_t count,
                   std::byte* out) noexcept {
  encode_batches<Block, kBlock, 16>({x, importance}, count, out, [](Values from, Block* blocks) {
    const Groups<kBlock> groups(from.x);
    F32x16 w[kBlock];
    error_weights(groups.values, from.importance, w);
    const AffineFit fit = fit_affine(groups.values, w, kLevels, true);
    float scale[16], min[16];
    store(scale, fit.scale);
    store(min, fit.min);
    for (int g = 0; g < 16; ++g) {
      uint8_t codes[kBlock];
      blocks[g].d = float_to_half(scale[g]);
      blocks[g].m = float_to_half(-min[g]);
      round_codes(from.x + kBlock * g, kBlock, half_to_float(blocks[g].d),
                  -half_to_float(blocks[g].m), 0, kLevels, codes);
      pack(codes, blocks[g]);
    }
  });
}

// The scale is the largest magnitude over 127; halves round away from zero.
inline void encode_block(const float* x, BlockQ8_0& b) {
  const F32x16 low = load(x), high = load(x + 16);
  const float d = reduce_max(max(absolute(low), absolute(high))) / 127.0f;
  b.d = float_to_half(d);
  const F32x16 inverse = set1(d != 0.0f ? 1.0f / d : 0.0f);
  float scaled[kBlock];
  store(scaled, mul(low, inverse));
  store(scaled + 16, mul(high, inverse));
  for (int e = 0; e < kBlock; ++e) {
    // What is not within +-127 is NaN: of a NaN, or of a scale without an inverse.
    const float v = scaled[e] >= -127.5f && scaled[e] <= 127.5f ? scaled[e] : 0.0f;
    const int whole = static_cast<int>(v);
    const float rest = v - static_cast<float>(whole);
    b.qs[e] = static_cast<int8_t>(whole + (rest >= 0.5f ? 1 : 0) - (rest <= -0.5f ? 1 : 0));
  }
}

void encode_q8_0(const float* x, const float*, int64_t count, std::byte* out) noexcept {
  auto* blocks = reinterpret_cast<BlockQ8_0*>(out);
  for (int64_t b = 0; b < count / kBlock; ++b) encode_block(x + kBlock * b, blocks[b]);
}

}  // namespace

constinit const Kernels kEncode = [] {
  Kernels kernels;
  const auto slot = [&](DType dtype) -> auto& {
    return kernels.encode[static_cast<size_t>(dtype)];
  };
  slot(DType::kF32) = encode_elements<BlockF32>;
  slot(DType::kF16) = encode_elements<BlockF16>;
  slot(DType::kBF16) = encode_elements<BlockBF16>;
  slot(DType::kQ4_0) = encode_symmetric<BlockQ4_0, 8>;
  slot(DType::kQ4_1) = encode_affine<BlockQ4_1, 15>;
  slot(DType::kQ5_0) = encode_symmetric<BlockQ5_0, 16>;
  slot(DType::kQ5_1) = encode_affine<BlockQ5_1, 31>;
  slot(DType::kQ8_0) = encode_q8_0;
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
