// The kernel table of an ISA level: what the code that splits work among threads may call, and the
// plain structs that it passes. Kernels are noexcept, check nothing and know nothing of threads.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "backend/specs.h"
#include "core/dtype.h"
#include "core/scan.h"

namespace llama_rt::cpu {

enum class Isa : uint8_t {
  kScalar,
#define LEVEL(isa, name, parent) isa,
#include "cpu/isa_list.inc"
};

// Dequantize-and-multiply fallback: rows [first_row, last_row) of a matrix times n inputs, by
// decoding them to float32.
// out[i][r] (+)= bias[r] + sum_k x[i][k] * weight[r][k], summed in an order that depends on k
// alone.
struct DequantizedMatmulTask {
  const std::byte* weight = nullptr;
  int64_t row_bytes = 0;
  int64_t k = 0;
  int64_t first_row = 0;
  int64_t last_row = 0;
  const float* x = nullptr;
  int64_t x_stride = 0;  // floats
  int64_t n = 0;
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;  // floats
  bool accumulate = false;
  float* scratch = nullptr;  // kDequantizedRows * padded k floats, this thread's own
};
inline constexpr int kDequantizedRows = 4;

// Panels of kPanelRows rows, packed so that one vector holds the same few k of all rows.
inline constexpr int kPanelRows = 16;
struct PackedMatmulTask {
  const std::byte* weight = nullptr;  // panel p starts at weight + p * panel_bytes
  int64_t panel_bytes = 0;
  int64_t k = 0;
  int64_t rows = 0;  // of the whole matrix: the last panel may be partly padding
  int64_t first_panel = 0;
  int64_t last_panel = 0;
  const std::byte* x = nullptr;  // converted activations (see ActivationFormat)
  int64_t n = 0;
  const float* bias = nullptr;
  float* out = nullptr;
  int64_t out_stride = 0;  // floats
  bool accumulate = false;
  bool prefetch = true;          // ask for weights ahead, where the processor does not by itself
  std::byte* scratch = nullptr;  // GemmKernel::scratch_bytes, 64-aligned, this thread's own
};

// GEMM (prefill) path over panels, for many inputs at once, which may round differently.
struct GemmKernel {
  void (*multiply)(const PackedMatmulTask& task) noexcept = nullptr;
  Activation activation = Activation::kF32;
  int64_t min_tokens = 0;
  int64_t min_k = 0;
  int64_t scratch_bytes = 0;
  int64_t panels = 1;  // of a call, so that it reads the inputs seldom enough
};

// How an ISA level stores and multiplies one dtype in panels; `multiply` null: it has no packed
// form.
struct PackedFormat {
  int64_t (*panel_bytes)(int64_t k) noexcept = nullptr;
  // `count` stored rows (1..16) into one panel; missing rows become zeros.
  void (*pack)(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
               std::byte* panel) noexcept = nullptr;
  void (*multiply)(const PackedMatmulTask& task) noexcept = nullptr;
  Activation activation = Activation::kF32;
  GemmKernel gemm;
};

// How an ISA level rounds inputs for packed kernels, once for all matmuls that share them. Lines
// (of 64 bytes) of `block` tokens alternate: line j of token i is line (i / block * lines + j) *
// block + i % block, where a token has `lines`. The number of tokens is rounded up to whole blocks.
struct ActivationFormat {
  int64_t (*row_bytes)(int64_t k) noexcept = nullptr;  // of one token; a multiple of 64
  void (*convert)(const float* x, int64_t k, std::byte* out) noexcept = nullptr;  // one token
  int64_t block = 1;
};

struct NormTask {
  const float* x = nullptr;
  const float* gain = nullptr;
  int64_t d = 0;
  float eps = 0;
  float* out = nullptr;
};

struct RopeTask {  // all heads of one token, in place
  float* x = nullptr;
  const float* cos = nullptr;  // [e/2]
  const float* sin = nullptr;
  int64_t heads = 0;
  int64_t e = 0;
  RopeStyle style = RopeStyle::kInterleaved;
};

struct SwigluTask {
  const float* gate = nullptr;
  const float* up = nullptr;
  float* out = nullptr;
  int64_t count = 0;
};

// One position of one KV head into its page.
struct StoreKvTask {
  const float* k = nullptr;  // [e]
  const float* v = nullptr;
  std::byte* head = nullptr;  // this head's keys and values in the page
  int64_t slot = 0;           // position within the page
  int64_t e = 0;
};

// Queries [rows] x grouped heads of one KV head against cached positions [begin, end): an
// unnormalised softmax over that range. Keys of one page are [e][page] so that positions are
// lanes; values are [page][e].
struct AttentionTask {
  const float* q = nullptr;  // row i, head h at q + i * q_stride + h * e
  int64_t q_stride = 0;      // floats
  int64_t rows = 0;          // consecutive positions past, past + 1, ...
  int64_t group = 0;         // query heads of this KV head
  int64_t e = 0;
  float scale = 0;
  int64_t past = 0;    // position of row 0
  int64_t window = 0;  // 0: none
  int64_t length = 0;  // not 0: every row sees exactly [0, length)
  int64_t begin = 0;   // first cached position of the range, a multiple of the page
  int64_t end = 0;
  int64_t last = 0;  // one past the last position that other ranges go on to; at least `end`
  const std::byte* base = nullptr;  // page i's share of this head: base + pages[i] * page_bytes
  int64_t page_bytes = 0;
  const int32_t* pages = nullptr;
  // Results per (row, head): maximum score, sum of exponentials, weighted values [e].
  float* max = nullptr;
  float* sum = nullptr;
  float* acc = nullptr;  // [rows * group, padded e]
  float* scratch = nullptr;
};
inline constexpr int64_t padded(int64_t e) { return (e + 15) / 16 * 16; }
inline constexpr int kQueryRows = 6;  // query vectors that attention takes at once
// Floats of scratch an AttentionTask needs: scores of a tile, as they are and scaled or rounded,
// and all query vectors rounded to 16 bits.
inline constexpr int64_t attention_scratch(int64_t vectors, int64_t e) {
  return kQueryRows * kPageTokens * (2 + e / 32) + vectors * padded(e) / 2;
}

// Attention for prefill: many rows at once, which may round differently. Its tasks have
// kPrefillVectors query vectors or a group, and memory for a whole multiple of 32: acc is written
// past the last vector.
struct PrefillAttention {
  void (*attend)(const AttentionTask& task) noexcept = nullptr;
  int64_t min_rows = 0;
  int64_t (*scratch_bytes)(int64_t vectors, int64_t e) noexcept = nullptr;
};
inline constexpr int64_t kPrefillVectors = 512;

struct KvFormat {
  int64_t (*head_bytes)(int64_t e) noexcept = nullptr;  // keys and values of one head in a page
  void (*store)(const StoreKvTask& task) noexcept = nullptr;
  void (*attend)(const AttentionTask& task) noexcept = nullptr;
  PrefillAttention prefill;
};

// A null slot of a level's partial table leaves what its parent has.
struct Kernels {
  Isa isa = Isa::kScalar;
  std::array<void (*)(const DequantizedMatmulTask&) noexcept, kDTypes> dequantized_matmul{};
  std::array<PackedFormat, kDTypes> packed{};
  std::array<ActivationFormat, kActivations> activations{};  // by Activation
  std::array<void (*)(const std::byte* row, int64_t k, float* out) noexcept, kDTypes> decode{};
  // Elements that fill whole blocks, and how much an error of each counts (null: by magnitude);
  // the same bytes on every ISA level.
  std::array<void (*)(const float* x, const float* importance, int64_t count,
                      std::byte* out) noexcept,
             kDTypes>
      encode{};
  std::array<KvFormat, 4> kv{};  // by KvType
  void (*rms_norm)(const NormTask& task) noexcept = nullptr;
  void (*rope)(const RopeTask& task) noexcept = nullptr;
  void (*swiglu)(const SwigluTask& task) noexcept = nullptr;
  ScanKernels scan;
};

// Replaces the slots of `kernels` that `table` fills.
void register_kernels(Kernels& kernels, const Kernels& table);

// The partial tables that make up each ISA level. They are data, initialised by the compiler
// (constinit): no function that was compiled with a level's instructions runs before that level is
// chosen; cmake/check_levels.py audits the objects. kTables lists a level's tables; being inline,
// that of a level which this build lacks is not emitted.
#define LLAMA_RT_LEVEL_TABLES(level, ...)                                           \
  namespace level {                                                                 \
  extern const Kernels __VA_ARGS__;                                                 \
  inline constexpr std::reference_wrapper<const Kernels> kTables[] = {__VA_ARGS__}; \
  }
// What kernels/common compiles for every level that has a simd.h.
#define LLAMA_RT_COMMON_TABLES \
  kElementwise, kDequantizedMatmul, kAttention, kEncode, kEncodeK, kEncodeLevels, kScan
// What kernels/gemm compiles for the levels that pack panels; those above inherit them.
#define LLAMA_RT_PANEL_TABLES kActivationFormats, kFloatPacking, kQuantizedPacking

LLAMA_RT_LEVEL_TABLES(scalar, LLAMA_RT_COMMON_TABLES)
LLAMA_RT_LEVEL_TABLES(avx2, LLAMA_RT_COMMON_TABLES, LLAMA_RT_PANEL_TABLES, kFloatMatmul,
                      kQuantizedMatmul)
LLAMA_RT_LEVEL_TABLES(avx2_vnni, kQuantizedMatmul)
LLAMA_RT_LEVEL_TABLES(avx512, LLAMA_RT_COMMON_TABLES, kFloatMatmul, kQuantizedMatmul)
LLAMA_RT_LEVEL_TABLES(avx512_bf16, kFloatMatmul, kAttention)
LLAMA_RT_LEVEL_TABLES(amx, kTiledAttention, kTiledFloatMatmul, kTiledQuantizedMatmul)
LLAMA_RT_LEVEL_TABLES(neon, LLAMA_RT_COMMON_TABLES, LLAMA_RT_PANEL_TABLES, kFloatMatmul,
                      kQuantizedMatmul)
LLAMA_RT_LEVEL_TABLES(neon_dotprod, kQuantizedMatmul)
LLAMA_RT_LEVEL_TABLES(neon_i8mm, kQuantizedMatmul)

#undef LLAMA_RT_PANEL_TABLES
#undef LLAMA_RT_COMMON_TABLES
#undef LLAMA_RT_LEVEL_TABLES

}  // namespace llama_rt::cpu
