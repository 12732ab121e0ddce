// The loops around a tile of packed weights: blocks of tokens that stay in the second-level cache,
// panels, tiles of tokens; and where a tile's sums go.
#pragma once

#include "cpu/kernels.h"

namespace llama_rt::cpu::LLAMA_RT_TIER {

inline constexpr int64_t kInputBlockBytes = 512 << 10;  // converted inputs kept while panels pass

// The lanes of the last rows that exist.
inline __attribute__((noinline)) void put_partial(const PackedTask& task, int64_t row,
                                                  int64_t token, F sum) noexcept {
  float* out = task.out + token * task.out_stride;
  float lanes[kLanes];
  f_store(lanes, sum);
  for (int64_t i = 0; row + i < task.rows; ++i) {
    const float value = task.bias ? lanes[i] + task.bias[row + i] : lanes[i];
    out[row + i] = task.accumulate ? out[row + i] + value : value;
  }
}

// The sum of `part` of panel `panel` for one token.
LLAMA_RT_INLINE void put(const PackedTask& task, int64_t panel, int part, int64_t token, F sum) {
  const int64_t row = panel * kPanelRows + part * kLanes;
  if (row + kLanes > task.rows) {
    put_partial(task, row, token, sum);
    return;
  }
  float* out = task.out + token * task.out_stride + row;
  if (task.bias) sum = f_add(sum, f_load(task.bias + row));
  if (task.accumulate) sum = f_add(f_load(out), sum);
  f_store(out, sum);
}

// Tiles of up to kMost tokens: `Kernel::tile<T>(task, panel, panels, token)` multiplies `panels`
// panels from `panel` on by T tokens from `token` on.
template <class Kernel, int kMost>
LLAMA_RT_INLINE void tiles_of_panels(const PackedTask& task, int64_t panel, int64_t panels,
                                     int64_t token, int64_t end) {
  for (; end - token >= kMost; token += kMost) {
    Kernel::template tile<kMost>(task, panel, panels, token);
  }
  if constexpr (kMost > 1) {
    tiles_of_panels<Kernel, kMost / 2>(task, panel, panels, token, end);
  }
}

// kPanels: how many panels a kernel may want side by side.
template <class Kernel, int kMost, int kPanels>
void multiply_panels(const PackedTask& task, int64_t row_bytes) noexcept {
  int64_t block = kInputBlockBytes / row_bytes / kMost * kMost;
  if (block < kMost) block = kMost;
  for (int64_t token = 0; token < task.n; token += block) {
    const int64_t end = token + block < task.n ? token + block : task.n;
    for (int64_t panel = task.first_panel; panel < task.last_panel; panel += kPanels) {
      const int64_t left = task.last_panel - panel;
      tiles_of_panels<Kernel, kMost>(task, panel, left < kPanels ? left : kPanels, token, end);
    }
  }
}

}  // namespace llama_rt::cpu::LLAMA_RT_TIER
