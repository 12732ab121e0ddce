// Stored float rows -> panels (layouts: panel.h); missing rows and k become zeros. Higher
// ISA levels read the same panels and inherit these slots.
#include <cstring>

#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/panel.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

int64_t single_bytes(int64_t k) noexcept { return k * kLine; }
int64_t half_bytes(int64_t k) noexcept { return (k + 1) / 2 * kLine; }

void pack_f32(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
              std::byte* panel) noexcept {
  if (count < kPanelRows) std::memset(panel, 0, static_cast<size_t>(single_bytes(k)));
  constexpr int64_t kBlock = 64;  // k of one pass, so that its lines stay in the first-level cache
  for (int64_t first = 0; first < k; first += kBlock) {
    const int64_t end = first + kBlock < k ? first + kBlock : k;
    for (int row = 0; row < count; ++row) {
      const std::byte* from = rows + row * row_bytes;
      for (int64_t i = first; i < end; ++i) {
        std::memcpy(panel + i * kLine + 4 * row, from + 4 * i, 4);
      }
    }
  }
}

void pack_f16(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
              std::byte* panel) noexcept {
  if (count < kPanelRows || k % 2) std::memset(panel, 0, static_cast<size_t>(half_bytes(k)));
  constexpr int64_t kBlock = 128;
  for (int64_t first = 0; first < k; first += kBlock) {
    const int64_t end = first + kBlock < k ? first + kBlock : k;
    for (int row = 0; row < count; ++row) {
      const std::byte* from = rows + row * row_bytes;
      for (int64_t i = first; i < end; ++i) {
        std::memcpy(panel + i * (kLine / 2) + 2 * row, from + 2 * i, 2);
      }
    }
  }
}

void pack_bf16(const std::byte* rows, int64_t row_bytes, int count, int64_t k,
               std::byte* panel) noexcept {
  if (count < kPanelRows || k % 2) std::memset(panel, 0, static_cast<size_t>(half_bytes(k)));
  constexpr int64_t kBlock = 64;  // pairs
  for (int64_t first = 0; first < k / 2; first += kBlock) {
    const int64_t end = first + kBlock < k / 2 ? first + kBlock : k / 2;
    for (int row = 0; row < count; ++row) {
      const std::byte* from = rows + row * row_bytes;
      for (int64_t i = first; i < end; ++i) {
        std::memcpy(panel + i * kLine + 4 * row, from + 4 * i, 4);
      }
    }
  }
  if (k % 2 == 0) return;
  for (int row = 0; row < count; ++row) {
    std::memcpy(panel + k / 2 * kLine + 4 * row, rows + row * row_bytes + 2 * (k - 1), 2);
  }
}

constexpr void add(Kernels& kernels, DType dtype, int64_t (*panel_bytes)(int64_t) noexcept,
                   void (*pack)(const std::byte*, int64_t, int, int64_t, std::byte*) noexcept) {
  PackedFormat& format = kernels.packed[static_cast<size_t>(dtype)];
  format.panel_bytes = panel_bytes;
  format.pack = pack;
}

}  // namespace

constinit const Kernels kFloatPacking = [] {
  Kernels kernels;
  add(kernels, DType::kF32, single_bytes, pack_f32);
  add(kernels, DType::kF16, half_bytes, pack_f16);
  add(kernels, DType::kBF16, half_bytes, pack_bf16);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
