// The kernel table of an SM architecture: what the backend may start, and the plain structs it
// passes. A slot is a host function that queues kernels on a stream; it checks nothing, allocates
// nothing and never waits, so that its launches can be captured in a graph. All pointers are to
// device memory. Letters as in specs.h.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "backend/specs.h"
#include "core/dtype.h"

namespace llama_rt::cuda {

enum class SmArch : uint8_t { kSm80, kSm90a };

// ---- Cache --------------------------------------------------------------------------------------

// One layer of the paged cache and the batch's place in it. A head's share of a page (keys and
// values of kPageTokens positions) is kv_head_bytes (kv_layout.h) long; heads follow one another.
struct CacheTask {
  std::byte* base = nullptr;  // page p of this layer starts at base + p * page_bytes
  int64_t page_bytes = 0;
  KvType type = KvType::kF16;
  int64_t kv_heads = 0;
  int64_t e = 0;
  int64_t n = 0;                        // rows of the batch
  int64_t segments = 0;                 // sequences of the batch
  const int32_t* positions = nullptr;   // [n] of each row in its sequence
  const int32_t* segment_of = nullptr;  // [n] sequence of each row
  const int32_t* first_row = nullptr;   // [segments + 1]
  const int32_t* pages = nullptr;       // [segments, page_stride]
  int64_t page_stride = 0;
};

// Appends rows to the cache. With `cos` the keys are rotated on their way, and the queries in
// place: rope and store_kv in one pass.
struct StoreKvTask {
  CacheTask cache;
  const float* k = nullptr;  // [n, g, e]
  const float* v = nullptr;
  float* q = nullptr;          // [n, h, e] or null
  int64_t heads = 0;           // h
  const float* cos = nullptr;  // [n, e/2] or null
  const float* sin = nullptr;
  RopeStyle style = RopeStyle::kInterleaved;
};

// ---- Products ----------------------------------------------------------------------------------

// A weight [rows, cols]. `stored`: rows of blocks (core/blocks.h), row_bytes apart, or null.
// `packed`: the layout made by ProductFormat::pack, or null.
struct Matrix {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
  const std::byte* stored = nullptr;
  int64_t row_bytes = 0;
  const std::byte* packed = nullptr;
};

// Rows [first_row, first_row + count) of a stored matrix, in device memory, into its packed form.
// first_row is a multiple of kPackRows; so is count, except at the matrix's end.
struct PackTask {
  const std::byte* rows_data = nullptr;  // the first of these rows, row_bytes apart
  int64_t row_bytes = 0;
  int64_t first_row = 0;
  int64_t count = 0;
  int64_t rows = 0;  // of the whole matrix
  int64_t cols = 0;
  std::byte* packed = nullptr;  // of the whole matrix
};
inline constexpr int64_t kPackRows = 128;

enum class Heads : uint8_t { kQueries, kKeys, kValues };

struct ProductJob {
  Matrix weight;
  const float* bias = nullptr;    // [rows] or null
  float* out = nullptr;           // [n, rows]; of keys and values that are appended: unused
  int64_t out_stride = 0;         // floats
  Heads heads = Heads::kQueries;  // kAppend only
};

enum class Epilogue : uint8_t {
  kStore,   // out = x wT + bias
  kAdd,     // out += x wT + bias
  kSwiglu,  // two jobs, gate and up: job[0].out = silu(gate) * up; job[1].out may be scratch
  kAppend,  // jobs among q, k and v: what store_kv does with them; packed, in `matvec` alone
};
inline constexpr int kMaxJobs = 3;

// Products that share an input and a dtype. Where `gain` is set the input is first normalised:
// x / sqrt(mean(x^2) + eps) * gain, rounded to float32 only.
//
// What the input is rounded to depends on the weights alone: F32 and every stored form: float32.
// F16: 22 bits (two halves). All others: bfloat16. Sums are float32. `matvec` multiplies codes as
// whole numbers and scales the sums of a group; `gemm` multiplies quantized weights rounded to
// bfloat16. With `reproducible` every n goes through the kernel of few inputs, a few at a time:
// then a row has the same bits beside any others. Results never depend on timing.
struct MatmulTask {
  const float* x = nullptr;  // [n, k]
  int64_t x_stride = 0;      // floats
  int64_t n = 0;
  int64_t k = 0;
  const float* gain = nullptr;  // [k] or null
  float eps = 0;
  int jobs = 0;
  ProductJob job[kMaxJobs];
  Epilogue epilogue = Epilogue::kStore;
  StoreKvTask append;            // kAppend only; without its k, v and q, which are the jobs'
  std::byte* scratch = nullptr;  // ProductFormat::scratch_bytes, 256-byte aligned
  uint32_t* counters = nullptr;  // [kProductCounters] zeros; every task leaves them zero
  bool reproducible = false;     // a row's bits must not depend on n
};
inline constexpr int kProductCounters = 4096;
// Whether products can append to this cache: a head is whole tiles, and a value needs no others.
bool can_append(const CacheTask& cache);

// How an architecture multiplies one dtype. Every function does the whole task, in as many kernels
// as it needs. `packed_bytes` null: the stored form is used.
struct ProductFormat {
  int64_t (*packed_bytes)(int64_t rows, int64_t cols) = nullptr;  // 0: not this shape
  void (*pack)(const PackTask& task, cudaStream_t stream) = nullptr;
  void (*matvec)(const MatmulTask& task, cudaStream_t stream) = nullptr;  // packed, few inputs
  int64_t matvec_inputs = 0;                                              // at most
  void (*gemm)(const MatmulTask& task, cudaStream_t stream) = nullptr;    // packed, any n
  // Of one task with all its jobs, for either function.
  int64_t (*scratch_bytes)(const MatmulTask& task) = nullptr;
};

// ---- Element-wise ------------------------------------------------------------------------------

struct EmbedTask {  // out[i] = decoded row tokens[i], of a token below 0 any
  const std::byte* table = nullptr;
  DType dtype = DType::kF32;
  int64_t row_bytes = 0;
  int64_t d = 0;
  const int32_t* tokens = nullptr;  // [n]
  int64_t n = 0;
  float* out = nullptr;  // [n, d]
};

struct NormTask {
  const float* x = nullptr;     // [n, d]
  const float* gain = nullptr;  // [d]
  int64_t n = 0;
  int64_t d = 0;
  float eps = 0;
  float* out = nullptr;  // [n, d]; may be x
};

struct RopeTask {              // in place
  float* x = nullptr;          // [n, heads, e]
  const float* cos = nullptr;  // [n, e/2]
  const float* sin = nullptr;
  int64_t n = 0;
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

struct GatherTask {  // out[i] = x[rows[i]]
  const float* x = nullptr;
  const int32_t* rows = nullptr;  // [n]
  int64_t n = 0;
  int64_t d = 0;
  float* out = nullptr;
};

// y[i, j] = factor * x[i, j] * by[j / repeat], or that added to y; x or by may be null (ones), so
// that this serves the small ops of adapters.
struct CombineTask {
  const float* x = nullptr;
  const float* by = nullptr;
  float* y = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  int64_t repeat = 1;
  float factor = 1;
  bool accumulate = false;
};

// ---- Attention ---------------------------------------------------------------------------------

// Row i sees the positions (p - window, p] of its sequence, p = positions[i]; window 0: all before
// it; length not 0: exactly [0, length) instead.
struct AttentionTask {
  CacheTask cache;
  const float* q = nullptr;  // [n, h, e]
  float* out = nullptr;      // [n, h, e]
  int64_t heads = 0;
  float scale = 0;
  int64_t window = 0;
  int64_t length = 0;
  int64_t max_rows = 0;     // most rows of one sequence in this batch
  int64_t max_context = 0;  // no row sees a position >= this; fixes the grid of a captured step
  int multiprocessors = 0;
  bool reproducible = false;
  std::byte* scratch = nullptr;  // attention_scratch_bytes, 256-byte aligned
  uint32_t* counters = nullptr;  // [attention_counters] zeros; every task leaves them zero
};
int64_t attention_scratch_bytes(const AttentionTask& task);
inline int64_t attention_counters(const AttentionTask& task) { return task.cache.n * task.heads; }

// ---- Sampling ----------------------------------------------------------------------------------

using SampleRow = SampleSpec;
struct SampleTask {
  const float* logits = nullptr;   // [rows, vocab]
  const SampleRow* row = nullptr;  // [rows]
  int64_t rows = 0;
  int64_t vocab = 0;
  int32_t* tokens = nullptr;     // [rows]; -1 where no token can be sampled
  std::byte* scratch = nullptr;  // sample_scratch_bytes, 256-byte aligned
};
int64_t sample_scratch_bytes(int64_t rows, int64_t vocab);

// ---- The table ---------------------------------------------------------------------------------

struct Kernels {
  SmArch arch = SmArch::kSm80;
  // By DType: by decoding, any n, from the stored form; and the fast form.
  std::array<void (*)(const MatmulTask& task, cudaStream_t stream), kDTypes> dequantized_matmul{};
  std::array<ProductFormat, kDTypes> product{};
  void (*embed)(const EmbedTask& task, cudaStream_t stream) = nullptr;
  void (*rms_norm)(const NormTask& task, cudaStream_t stream) = nullptr;
  void (*rope)(const RopeTask& task, cudaStream_t stream) = nullptr;
  void (*swiglu)(const SwigluTask& task, cudaStream_t stream) = nullptr;
  void (*gather)(const GatherTask& task, cudaStream_t stream) = nullptr;
  void (*combine)(const CombineTask& task, cudaStream_t stream) = nullptr;
  void (*store_kv)(const StoreKvTask& task, cudaStream_t stream) = nullptr;
  void (*attention)(const AttentionTask& task, cudaStream_t stream) = nullptr;
  void (*sample)(const SampleTask& task, cudaStream_t stream) = nullptr;
};

// Each source of kernels fills or replaces its slots; sm90a is registered over sm80 where the build
// has it.
void register_elementwise(Kernels& kernels);  // kernels/elementwise.cu
void register_dequantized_matmul(
    Kernels& kernels);  // kernels/dequantized_matmul.cu: dequantize and multiply, every dtype
void register_matmul(Kernels& kernels);           // kernels/matmul.cu: packed forms, gemv, mma
void register_attention(Kernels& kernels);        // kernels/attention.cu: store_kv, attention
void register_sample(Kernels& kernels);           // kernels/sample.cu
void register_wgmma(Kernels& kernels);            // kernels/gemm_wgmma.cu, compiled for sm_90a only
void register_attention_wgmma(Kernels& kernels);  // kernels/attention_wgmma.cu, likewise

std::string_view sm_arch_name(SmArch arch);
// The table for a device of this compute capability.
const Kernels& kernels_for(int major, int minor);

}  // namespace llama_rt::cuda
