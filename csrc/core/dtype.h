// THE table: every element and block type that can be stored, one row each. Everything that depends
// on a format (sizes, names, decoding kernels of every ISA level) is generated from it.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "core/blocks.h"

namespace llama_rt {

// What a packed kernel converts the activations to: float32, bf16, groups of 32 bytes with a scale,
// AMX tiles of bf16, or such tiles twice (values and what their rounding lost).
enum class Activation : uint8_t { kF32, kBF16, kQ8, kTiles, kSplitTiles };
inline constexpr int kActivations = 5;

// X(id, name, storage struct, elements per block, GGUF type number, activation, encodable)
#define LLAMA_RT_DTYPES(X)                                          \
  X(F32, "f32", BlockF32, 1, 0, kF32, true)                         \
  X(F16, "f16", BlockF16, 1, 1, kF32, true)                         \
  X(BF16, "bf16", BlockBF16, 1, 30, kBF16, true)                    \
  X(Q4_0, "q4_0", BlockQ4_0, kBlock, 2, kQ8, true)                  \
  X(Q4_1, "q4_1", BlockQ4_1, kBlock, 3, kQ8, true)                  \
  X(Q5_0, "q5_0", BlockQ5_0, kBlock, 6, kQ8, true)                  \
  X(Q5_1, "q5_1", BlockQ5_1, kBlock, 7, kQ8, true)                  \
  X(Q8_0, "q8_0", BlockQ8_0, kBlock, 8, kQ8, true)                  \
  X(Q2_K, "q2_k", BlockQ2_K, kSuperBlock, 10, kQ8, true)            \
  X(Q3_K, "q3_k", BlockQ3_K, kSuperBlock, 11, kQ8, true)            \
  X(Q4_K, "q4_k", BlockQ4_K, kSuperBlock, 12, kQ8, true)            \
  X(Q5_K, "q5_k", BlockQ5_K, kSuperBlock, 13, kQ8, true)            \
  X(Q6_K, "q6_k", BlockQ6_K, kSuperBlock, 14, kQ8, true)            \
  X(Q8_1, "q8_1", BlockQ8_1, kBlock, 9, kF32, false)                \
  X(Q8_K, "q8_k", BlockQ8_K, kSuperBlock, 15, kF32, false)          \
  X(IQ1_S, "iq1_s", BlockIQ1_S, kSuperBlock, 19, kF32, false)       \
  X(IQ1_M, "iq1_m", BlockIQ1_M, kSuperBlock, 29, kF32, false)       \
  X(IQ2_XXS, "iq2_xxs", BlockIQ2_XXS, kSuperBlock, 16, kF32, false) \
  X(IQ2_XS, "iq2_xs", BlockIQ2_XS, kSuperBlock, 17, kF32, false)    \
  X(IQ2_S, "iq2_s", BlockIQ2_S, kSuperBlock, 22, kF32, false)       \
  X(IQ3_XXS, "iq3_xxs", BlockIQ3_XXS, kSuperBlock, 18, kF32, false) \
  X(IQ3_S, "iq3_s", BlockIQ3_S, kSuperBlock, 21, kF32, false)       \
  X(IQ4_NL, "iq4_nl", BlockIQ4_NL, kBlock, 20, kQ8, true)           \
  X(IQ4_XS, "iq4_xs", BlockIQ4_XS, kSuperBlock, 23, kQ8, true)      \
  X(TQ1_0, "tq1_0", BlockTQ1_0, kSuperBlock, 34, kF32, false)       \
  X(TQ2_0, "tq2_0", BlockTQ2_0, kSuperBlock, 35, kF32, false)       \
  X(MXFP4, "mxfp4", BlockMXFP4, kBlock, 39, kF32, false)

enum class DType : uint8_t {
#define LLAMA_RT_ID(id, ...) k##id,
  LLAMA_RT_DTYPES(LLAMA_RT_ID)
#undef LLAMA_RT_ID
};

inline constexpr int kDTypes = 0
#define LLAMA_RT_COUNT(...) +1
    LLAMA_RT_DTYPES(LLAMA_RT_COUNT)
#undef LLAMA_RT_COUNT
    ;

struct DTypeInfo {
  DType id;
  std::string_view name;
  int64_t block_elements;
  int64_t block_bytes;
  int gguf_id;
  Activation activation;
  bool encodable;
};

// All rows, in the order of the enum.
std::span<const DTypeInfo> dtypes() noexcept;

const DTypeInfo& info(DType dtype) noexcept;

// The row called `name`; throws DTypeError naming the choices.
const DTypeInfo& dtype_named(std::string_view name);

// Bytes of one row of `elements`; throws ShapeError unless they fill whole blocks.
int64_t row_bytes(DType dtype, int64_t elements);

}  // namespace llama_rt
