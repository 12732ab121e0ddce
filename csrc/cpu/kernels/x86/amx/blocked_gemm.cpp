#include "cpu/kernels/x86/amx/blocked_gemm.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A pair of panels (or one) over a K-block. Pairs follow each other fastest, then K-blocks,
// then groups of panels, so that the inputs of a K-block serve a whole group.
struct Piece {
  int64_t group = 0;  // its first panel
  int64_t group_end = 0;
  int64_t panel = 0;
  int64_t tile = 0;  // the K-block's first

  int64_t panels() const { return min(group_end - panel, 2); }
};

// Dequantizes one piece while another is multiplied, evenly spread over that one's steps.
struct Pipeline {
  void (*work)(const HalfTile& half) noexcept = nullptr;
  HalfTile next{};
  int64_t halves = 0;  // of a panel
  int64_t panels = 0;  // left
  int64_t panel_bytes = 0;
  int64_t tile_bytes = 0;       // of a panel
  int64_t rate = 0, steps = 1;  // halves per so many steps
  int64_t due = 0;              // halves * steps

  void pace(int64_t over_steps) {
    rate = panels * halves;
    steps = over_steps;
  }
  LLAMA_RT_INLINE void step() {
    for (due += rate; due >= steps; due -= steps) half_tile();
  }
  void finish() {
    while (panels > 0) half_tile();
  }

 private:
  LLAMA_RT_INLINE void half_tile() {
    work(next);
    next.tile += next.index % 2 * kTileBytes;
    if (++next.index < halves) return;
    next.index = 0;
    next.tile += tile_bytes - halves / 2 * kTileBytes;
    next.source += panel_bytes;
    next.end += panel_bytes;
    if (--panels == 0) rate = due = 0;
  }
};

// What to prefetch after each step: of the next K-block's inputs, and of the sums that the next
// product goes on with.
template <int kParts>
struct Ahead {
  const std::byte* at = nullptr;
  int64_t stride = 0;  // to the second block of tokens
  int64_t low = 0;     // to the low part
  int64_t lines = 0;
  const std::byte* sums = nullptr;

  LLAMA_RT_INLINE void step() {
    constexpr int64_t kSumsStep = kParts == 1 ? 4 * kTileBytes / kBlockTiles : 192;
    for (int64_t i = 0; i < kSumsStep; i += 64) {
      _mm_prefetch(reinterpret_cast<const char*>(sums + i), _MM_HINT_T0);
    }
    sums += kSumsStep;
    for (int64_t i = 0; i < lines; ++i, at += 64) {
      for (int64_t part = 0; part < kParts; ++part) {
        const auto* line = reinterpret_cast<const char*>(at + part * low);
        _mm_prefetch(line, _MM_HINT_T1);
        _mm_prefetch(line + stride, _MM_HINT_T1);
      }
    }
  }
};

// All of a task's panels times some of its tokens.
template <int kParts>
class BlockedGemm {
 public:
  BlockedGemm(const PackedMatmulTask& task, const TileSource& tile_source, int64_t first,
              int64_t tokens)
      : task_(task),
        tile_source_(tile_source),
        first_token_(first),
        tokens_(tokens),
        blocks_(divide_up(tokens, kTileTokens)),
        tiles_(divide_up(task.k, kTileK)),
        part_bytes_(tile_row_bytes(task.k) * kTileTokens),
        block_bytes_(part_bytes_ * kParts),
        inputs_(task.x + first / kTileTokens * block_bytes_),
        sums_(reinterpret_cast<float*>(task.scratch)),
        staging_(reinterpret_cast<float*>(task.scratch + kSumsBytes)) {
    const int64_t panels = task.last_panel - task.first_panel;
    const int64_t groups = divide_up(panels, kGemmPanels);
    group_panels_ = divide_up(divide_up(panels, groups), 2) * 2;
  }

  void run() {
    Piece piece;
    piece.panel = piece.group = task_.first_panel;
    piece.group_end = min(piece.group + group_panels_, task_.last_panel);
    int buffer = 0;
    Pipeline pipeline = pipeline_of(piece, buffer);
    pipeline.finish();
    for (bool more = true; more; buffer ^= 1) {
      Piece next = piece;
      more = advance(next);
      pipeline = more ? pipeline_of(next, buffer ^ 1) : Pipeline();
      multiply(piece, buffer, pipeline);
      pipeline.finish();
      piece = next;
    }
  }

 private:
  static constexpr int64_t kTerms = 2 * kParts - 1;                      // products of each tile
  static constexpr int64_t kTileBufferBytes = kParts * kTilePanelBytes;  // of a panel

  int64_t steps(const Piece& piece) const { return min(tiles_ - piece.tile, kBlockTiles); }
  bool last_block(const Piece& piece) const { return piece.tile + kBlockTiles >= tiles_; }

  // Whether there is another piece.
  bool advance(Piece& piece) const {
    piece.panel += 2;
    if (piece.panel < piece.group_end) return true;
    piece.panel = piece.group;
    piece.tile += kBlockTiles;
    if (piece.tile < tiles_) return true;
    piece.tile = 0;
    piece.panel = piece.group = piece.group_end;
    piece.group_end = min(piece.group + group_panels_, task_.last_panel);
    return piece.panel < task_.last_panel;
  }

  const std::byte* source(const Piece& piece) const {
    return task_.weight + piece.panel * task_.panel_bytes + tile_source_.offset(piece.tile);
  }
  // Whether the panels' own lines serve as tiles.
  bool in_place(const Piece& piece) const {
    return tile_source_.prefetch && (piece.tile + steps(piece)) * kTileK <= task_.k;
  }
  std::byte* dequantized(int buffer) const {
    return task_.scratch + kSumsBytes + 4 * kTileBytes + buffer * 2 * kTileBufferBytes;
  }

  Pipeline pipeline_of(const Piece& piece, int buffer) const {
    Pipeline pipeline;
    pipeline.work = in_place(piece) ? tile_source_.prefetch : tile_source_.dequantize;
    pipeline.next.source = source(piece);
    pipeline.next.end = task_.weight + (piece.panel + 1) * task_.panel_bytes;
    Piece later = piece;
    pipeline.next.ahead = advance(later) ? source(later) - source(piece) : 0;
    pipeline.next.tile = dequantized(buffer);
    pipeline.halves = 2 * steps(piece);
    pipeline.panels = pipeline.halves > 0 ? piece.panels() : 0;
    pipeline.panel_bytes = task_.panel_bytes;
    pipeline.tile_bytes = kTileBufferBytes;
    return pipeline;
  }

  // Each piece of a group prefetches its share of the next K-block's inputs.
  Ahead<kParts> ahead_of(const Piece& piece, int64_t block, const float* next_sums) const {
    Ahead<kParts> ahead;
    ahead.sums = reinterpret_cast<const std::byte*>(next_sums);
    if (tiles_ <= kBlockTiles) return ahead;
    const int64_t tile = last_block(piece) ? 0 : piece.tile + kBlockTiles;
    const int64_t count = min(tiles_ - tile, kBlockTiles);
    const int64_t share = divide_up(count, divide_up(piece.group_end - piece.group, 2));
    const int64_t begin = (piece.panel - piece.group) / 2 * share;
    if (begin >= count) return ahead;
    ahead.at = inputs_ + block * block_bytes_ + (tile + begin) * kTileBytes;
    ahead.stride = block + 1 < blocks_ ? block_bytes_ : 0;
    ahead.low = part_bytes_;
    ahead.lines = divide_up(share * kTileTokens, steps(piece) * kTerms);
    return ahead;
  }

  void multiply(const Piece& piece, int buffer, Pipeline& pipeline) {
    memory_barrier();
    TileTask tiles{};
    tiles.inputs_stride = block_bytes_;
    tiles.inputs_low = part_bytes_;
    tiles.weights = in_place(piece) ? source(piece) : dequantized(buffer);
    tiles.weights_stride = in_place(piece) ? task_.panel_bytes : kTileBufferBytes;
    tiles.weights_low = kTilePanelBytes;
    tiles.steps = steps(piece);
    tiles.row_bytes = 64;
    tiles.panel_bytes = kTileBytes;
    tiles.block_bytes = 2 * kTileBytes;
    const int64_t pairs = divide_up(blocks_, 2);
    pipeline.pace(pairs * tiles.steps * kTerms);
    for (int64_t pair = 0; pair < pairs; ++pair) {
      const int64_t block = 2 * pair;
      float* slot = sums_ + ((piece.panel - piece.group) / 2 * pairs + pair) * 4 * kTileFloats;
      tiles.inputs = inputs_ + block * block_bytes_ + piece.tile * kTileBytes;
      tiles.from = piece.tile > 0 ? slot : nullptr;
      tiles.to = last_block(piece) ? staging_ : slot;
      Ahead<kParts> ahead = ahead_of(piece, block, slot + 4 * kTileFloats);
      auto between = [&] {
        ahead.step();
        pipeline.step();
      };
      multiply_tile_blocks<kParts>(tiles, block + 1 < blocks_, piece.panels() == 2, between);
      if (!last_block(piece)) continue;
      for (int64_t tile = 0; tile < 4; ++tile) put(block + tile / 2, piece.panel + tile % 2, tile);
    }
  }

  // A tile of finished sums: those of tokens and rows that exist.
  void put(int64_t block, int64_t panel, int64_t tile) const {
    const int64_t token = block * kTileTokens, row = panel * kPanelRows;
    const int64_t count = min(tokens_ - token, kTileTokens);
    if (panel >= task_.last_panel || count <= 0) return;
    const int64_t rows = min(task_.rows - row, kPanelRows);
    const auto lanes = static_cast<__mmask16>((1u << rows) - 1);
    const __m512 bias =
        task_.bias ? _mm512_maskz_loadu_ps(lanes, task_.bias + row) : _mm512_setzero_ps();
    const float* from = staging_ + tile * kTileFloats;
    float* out = task_.out + (first_token_ + token) * task_.out_stride + row;
    for (int64_t i = 0; i < count; ++i, from += kPanelRows, out += task_.out_stride) {
      __m512 sum = _mm512_add_ps(_mm512_load_ps(from), bias);
      if (task_.accumulate) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(lanes, out));
      _mm512_mask_storeu_ps(out, lanes, sum);
    }
  }

  const PackedMatmulTask& task_;
  const TileSource& tile_source_;
  int64_t first_token_;
  int64_t tokens_;
  int64_t blocks_;  // of 16 tokens
  int64_t tiles_;   // of k
  int64_t part_bytes_;
  int64_t block_bytes_;
  const std::byte* inputs_;
  float* sums_;     // [pair of panels][pair of blocks][4] tiles of a group
  float* staging_;  // [4] tiles
  int64_t group_panels_ = 0;
};

}  // namespace

template <int kParts>
void multiply_tiles(const PackedMatmulTask& task, const TileSource& tile_source) noexcept {
  _tile_loadconfig(&kTileConfig);
  const int64_t sweeps = divide_up(task.n, kGemmTokens / kParts);
  const int64_t tokens = divide_up(divide_up(task.n, sweeps), 2 * kTileTokens) * 2 * kTileTokens;
  for (int64_t first = 0; first < task.n; first += tokens) {
    BlockedGemm<kParts>(task, tile_source, first, min(task.n - first, tokens)).run();
  }
  _tile_release();
}
template void multiply_tiles<1>(const PackedMatmulTask&, const TileSource&) noexcept;
template void multiply_tiles<2>(const PackedMatmulTask&, const TileSource&) noexcept;

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
