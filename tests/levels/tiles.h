// The tile intrinsics in plain C++, as the manual describes the instructions (Intel SDM volume 2:
// LDTILECFG, TILELOADD, TILESTORED, TDPBF16PS). Included before the sources of the amx level, so
// that they run on processors without tiles. Misuse that would fault ends the process.
#pragma once

#include <immintrin.h>

#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tiles {

struct Config {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
struct State {
  Config config{};  // palette 0: tiles may not be used
  alignas(64) uint8_t data[8][16][64];
};
inline thread_local State state;

inline void require(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "tile instruction: %s\n", what);
  std::abort();
}

inline void load_config(const void* from) {
  Config config;
  std::memcpy(&config, from, sizeof(config));
  require(config.palette == 1 && config.start_row == 0, "palette or start row");
  for (const uint8_t byte : config.reserved) require(byte == 0, "reserved byte");
  for (int i = 0; i < 16; ++i) {
    const int most = i < 8 ? 1 : 0;
    require(config.row_bytes[i] <= 64 * most && config.rows[i] <= 16 * most, "size of a tile");
    require((config.row_bytes[i] == 0) == (config.rows[i] == 0), "half an empty tile");
  }
  state = {};
  state.config = config;
}
inline void release() { state.config = {}; }

inline void zero(int tile) {
  require(state.config.palette == 1, "not configured");
  std::memset(state.data[tile], 0, sizeof(state.data[tile]));
}
inline void load(int tile, const void* base, int64_t stride) {
  zero(tile);
  for (int row = 0; row < state.config.rows[tile]; ++row) {
    std::memcpy(state.data[tile][row], static_cast<const uint8_t*>(base) + row * stride,
                state.config.row_bytes[tile]);
  }
}
inline void store(int tile, void* base, int64_t stride) {
  require(state.config.palette == 1, "not configured");
  for (int row = 0; row < state.config.rows[tile]; ++row) {
    std::memcpy(static_cast<uint8_t*>(base) + row * stride, state.data[tile][row],
                state.config.row_bytes[tile]);
  }
}

// Denormals are zeros on the way in and out.
inline float flushed(float x) { return std::fabs(x) < FLT_MIN ? std::copysign(0.0f, x) : x; }
inline float widened(uint16_t bf16) {
  const uint32_t bits = uint32_t{bf16} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return flushed(value);
}

// Even and odd k are summed apart, by fused multiply-adds, then added, then added to the tile.
inline void multiply(int sums, int left, int right) {
  const Config& config = state.config;
  require(config.palette == 1, "not configured");
  const int m = config.rows[sums], n = config.row_bytes[sums] / 4,
            pairs = config.row_bytes[left] / 4;
  require(config.rows[left] == m && config.row_bytes[right] == 4 * n && config.rows[right] == pairs,
          "sizes do not match");
  float even[16][16], odd[16][16];  // of the right operand
  uint16_t words[32];
  for (int k = 0; k < pairs; ++k) {
    std::memcpy(words, state.data[right][k], sizeof(words));
    for (int j = 0; j < n; ++j) {
      even[k][j] = widened(words[2 * j]);
      odd[k][j] = widened(words[2 * j + 1]);
    }
  }
  for (int i = 0; i < m; ++i) {
    float first[16] = {}, second[16] = {}, total[16];
    std::memcpy(words, state.data[left][i], sizeof(words));
    for (int k = 0; k < pairs; ++k) {
      const float a = widened(words[2 * k]), b = widened(words[2 * k + 1]);
      for (int j = 0; j < n; ++j) first[j] = flushed(std::fma(a, even[k][j], first[j]));
      for (int j = 0; j < n; ++j) second[j] = flushed(std::fma(b, odd[k][j], second[j]));
    }
    std::memcpy(total, state.data[sums][i], sizeof(total));
    for (int j = 0; j < n; ++j) {
      total[j] = flushed(flushed(total[j]) + flushed(first[j] + second[j]));
    }
    std::memcpy(state.data[sums][i], total, static_cast<size_t>(4 * n));
  }
}

}  // namespace tiles

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig(config) tiles::load_config(config)
#define _tile_release() tiles::release()
#define _tile_zero(tile) tiles::zero(tile)
#define _tile_loadd(tile, base, stride) tiles::load(tile, base, stride)
#define _tile_stored(tile, base, stride) tiles::store(tile, base, stride)
#define _tile_dpbf16ps(sums, left, right) tiles::multiply(sums, left, right)
