// One product of the amx level as a C function: packs, converts and multiplies as the backend does.
#include <cstdlib>
#include <memory>

#include "cpu/kernel_table.h"

namespace {

using namespace llama_rt;
using namespace llama_rt::cpu;

struct Free {
  void operator()(std::byte* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<std::byte, Free>;

// Filled with bytes that are NaN in every type, so that what is read before it is written shows.
Bytes allocate(int64_t bytes) {
  const auto size = static_cast<size_t>((bytes + 63) / 64 * 64);
  Bytes memory(static_cast<std::byte*>(std::aligned_alloc(64, size)));
  std::memset(memory.get(), 0xff, size);
  return memory;
}

}  // namespace

// `rows` [count, row_bytes] of dtype number `dtype` (see core/dtype.h) times `x` [n, k], into `out`
// at `out_stride` floats. The panels are multiplied in `parts` calls. False: tiles were left in
// use.
extern "C" __attribute__((visibility("default"))) bool product(
    int dtype, const std::byte* rows, int64_t row_bytes, int64_t count, int64_t k, const float* x,
    int64_t n, const float* bias, bool accumulate, int64_t parts, float* out, int64_t out_stride) {
  Kernels kernels;
  register_kernels(kernels, avx2::kFloatPacking);
  register_kernels(kernels, avx2::kQuantizedPacking);
  register_kernels(kernels, amx::kTiledFloatMatmul);
  register_kernels(kernels, amx::kTiledQuantizedMatmul);
  const PackedFormat& format = kernels.packed[static_cast<size_t>(dtype)];
  const ActivationFormat& inputs = kernels.activations[static_cast<size_t>(format.gemm.activation)];

  PackedMatmulTask task;
  task.panel_bytes = format.panel_bytes(k);
  const int64_t panels = (count + kPanelRows - 1) / kPanelRows;
  const Bytes weight = allocate(panels * task.panel_bytes);
  for (int64_t p = 0; p < panels; ++p) {
    const int64_t left = count - p * kPanelRows;
    format.pack(rows + p * kPanelRows * row_bytes, row_bytes,
                static_cast<int>(left < kPanelRows ? left : kPanelRows), k,
                weight.get() + p * task.panel_bytes);
  }
  const int64_t lines = inputs.row_bytes(k) / 64;
  const int64_t tokens = (n + inputs.block - 1) / inputs.block * inputs.block;
  const Bytes converted = allocate(tokens * lines * 64);
  for (int64_t i = 0; i < n; ++i) {
    const int64_t line = i / inputs.block * lines * inputs.block + i % inputs.block;
    inputs.convert(x + i * k, k, converted.get() + line * 64);
  }
  task.weight = weight.get();
  task.k = k;
  task.rows = count;
  task.x = converted.get();
  task.n = n;
  task.bias = bias;
  task.accumulate = accumulate;
  task.out = out;
  task.out_stride = out_stride;
  for (int64_t part = 0; part < parts; ++part) {
    const Bytes scratch = allocate(format.gemm.scratch_bytes);
    task.scratch = scratch.get();
    task.first_panel = panels * part / parts;
    task.last_panel = panels * (part + 1) / parts;
    if (task.first_panel < task.last_panel) format.gemm.multiply(task);
  }
  return tiles::state.config.palette == 0;
}
