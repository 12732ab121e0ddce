// The loops around a tile of packed weights, and where its sums go. A few tokens: every panel once,
// as a stream. Many: blocks of tokens, panels and k that stay in the caches, the sums of a block
// kept beside them between its chunks of k, which changes none of their bits.
#pragma once

#include "cpu/kernel_table.h"
#include LLAMA_RT_SIMD

namespace llama_rt::cpu::LLAMA_RT_LEVEL {

inline constexpr int64_t kBlockTokens = 128;
inline constexpr int64_t kBlockPanels = 8;

// A range of k, counted in steps of the layout (units or lines).
struct Chunk {
  int64_t begin = 0;
  int64_t end = 0;
  bool last = true;
  float* sums = nullptr;  // of the block, [panel][token][16]; null where one chunk is everything
  int64_t first_panel = 0;
  int64_t first_token = 0;

  LLAMA_RT_INLINE float* at(int64_t panel, int part, int64_t token) const {
    return sums + ((panel - first_panel) * kBlockTokens + token - first_token) * kPanelRows +
           part * kLanes;
  }
};

// The sum that a tile goes on with.
LLAMA_RT_INLINE F take(const Chunk& chunk, int64_t panel, int part, int64_t token) {
  return chunk.begin == 0 ? f_zero() : f_load(chunk.at(panel, part, token));
}

// The lanes of the last rows that exist.
inline __attribute__((noinline)) void put_partial(const PackedMatmulTask& task, int64_t row,
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
LLAMA_RT_INLINE void put(const PackedMatmulTask& task, const Chunk& chunk, int64_t panel, int part,
                         int64_t token, F sum) {
  if (!chunk.last) {
    f_store(chunk.at(panel, part, token), sum);
    return;
  }
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

// Panels [panel, panel_end) x tokens [token, token_end) of a chunk, in tiles of up to kMost tokens.
// `Kernel::tile<T>(task, chunk, panel, panels, token)` does `panels` <= Kernel::kPanels panels.
template <class Kernel, int kMost>
LLAMA_RT_INLINE void tiles(const PackedMatmulTask& task, const Chunk& chunk, int64_t panel,
                           int64_t panels, int64_t token, int64_t token_end) {
  for (; token_end - token >= kMost; token += kMost) {
    Kernel::template tile<kMost>(task, chunk, panel, panels, token);
  }
  if constexpr (kMost > 1) {
    constexpr int kNext = kMost > 4 ? 4 : kMost > 2 ? 2 : 1;
    tiles<Kernel, kNext>(task, chunk, panel, panels, token, token_end);
  }
}
template <class Kernel>
inline __attribute__((noinline)) void tiles_of_panels(const PackedMatmulTask& task,
                                                      const Chunk& chunk, int64_t panel,
                                                      int64_t panel_end, int64_t token,
                                                      int64_t token_end) noexcept {
  for (; panel < panel_end; panel += Kernel::kPanels) {
    const int64_t left = panel_end - panel;
    tiles<Kernel, Kernel::kMostTokens>(
        task, chunk, panel, left < Kernel::kPanels ? left : Kernel::kPanels, token, token_end);
  }
}

// Kernel::kChunk: steps of k that a block keeps in the first-level cache.
template <class Kernel>
void multiply_panels(const PackedMatmulTask& task) noexcept {
  const int64_t steps = Kernel::steps(task);
  Chunk chunk;
  chunk.end = steps;
  if (task.n <= Kernel::kMostTokens) {
    tiles_of_panels<Kernel>(task, chunk, task.first_panel, task.last_panel, 0, task.n);
    return;
  }
  alignas(64) float sums[kBlockPanels * kBlockTokens * kPanelRows];
  chunk.sums = sums;
  for (int64_t token = 0; token < task.n; token += kBlockTokens) {
    const int64_t token_end = token + kBlockTokens < task.n ? token + kBlockTokens : task.n;
    for (int64_t panel = task.first_panel; panel < task.last_panel; panel += kBlockPanels) {
      const int64_t left = task.last_panel - panel;
      const int64_t panel_end = panel + (left < kBlockPanels ? left : kBlockPanels);
      chunk.first_panel = panel;
      chunk.first_token = token;
      for (int64_t step = 0; step < steps; step += Kernel::kChunk) {
        chunk.begin = step;
        chunk.last = steps - step <= Kernel::kChunk;
        chunk.end = chunk.last ? steps : step + Kernel::kChunk;
        tiles_of_panels<Kernel>(task, chunk, panel, panel_end, token, token_end);
      }
    }
  }
}

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
