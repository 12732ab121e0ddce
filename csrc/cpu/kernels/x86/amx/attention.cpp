// Attention of many query vectors on the matrix unit: blocks of 32 against one page of the cache
// after another, with a running maximum (online softmax). Scores and weighted values are tile
// products; what is f16 in the cache is multiplied in two parts, so that its precision stays.
#include "cpu/kernels/common/attention.h"

#include "cpu/kernel_table.h"
#include "cpu/kernels/x86/amx/tiles.h"

namespace llama_rt::cpu::LLAMA_RT_LEVEL {
namespace {

constexpr int64_t kMinRows = 16;             // from here on packing a page costs less than it saves
constexpr int64_t kBlock = 2 * kTileTokens;  // query vectors of a product
constexpr int64_t kPanels = kPageTokens / kPanelRows;       // of 16 positions
constexpr int64_t kPageTiles = kPageTokens / kTileK;        // of 32 positions
constexpr int64_t kScoresBytes = 2 * kPanels * kTileBytes;  // of a block and a page
constexpr int64_t kLineBytes = 64;
constexpr float kLog2E = 1.44269504088896341f;

int64_t whole_blocks(int64_t vectors) { return (vectors + kBlock - 1) / kBlock * kBlock; }
int64_t tiles_of(int64_t e) { return (e + kTileK - 1) / kTileK; }

// 2^x within 2^-22, by a Chebyshev fit of 2^f, |f| <= 1/2; zero outside `lanes`.
LLAMA_RT_INLINE F exp2(F x, __mmask16 lanes) {
  x = _mm512_max_ps(f_set(-200.0f), x);  // NaN stays
  const F n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const F f = _mm512_sub_ps(x, n);
  F p = f_fma(f, f_set(1.34004327e-3f), f_set(9.67603736e-3f));
  p = f_fma(p, f, f_set(5.55032715e-2f));
  p = f_fma(p, f, f_set(2.40221068e-1f));
  p = f_fma(p, f, f_set(6.93147182e-1f));
  p = f_fma(p, f, f_set(1.0f));
  return _mm512_maskz_scalef_ps(lanes, p, n);
}

// Where the parts of a task's scratch begin, in bytes; operands in two parts have the low one's
// tiles after the high one's.
template <int kParts>
struct Layout {
  int64_t features;     // tiles of 32 features
  int64_t query_block;  // bytes of 16 query vectors
  int64_t key_panel;    // of 16 positions
  int64_t value_panel;  // of 16 features
  int64_t keys, values, scores, weights, sums, end;

  Layout(int64_t vectors, int64_t e)
      : features(tiles_of(e)),
        query_block(kParts * features * kTileBytes),
        key_panel(query_block),
        value_panel(kParts * kPageTiles * kTileBytes),
        keys(whole_blocks(vectors) / kTileTokens * query_block),
        values(keys + kPanels * key_panel),
        scores(values + padded(e) / kPanelRows * value_panel),
        weights(scores + 2 * kScoresBytes),
        sums(weights + 2 * value_panel),
        end(sums + whole_blocks(vectors) * kPanelRows * int64_t{sizeof(float)}) {}
};

template <class Kv, int kParts>
class TileAttention {
 public:
  explicit TileAttention(const AttentionTask& task)
      : t_(task),
        vectors_(task.rows * task.group),
        row_(padded(task.e)),
        layout_(vectors_, task.e),
        scratch_(reinterpret_cast<std::byte*>(task.scratch)),
        sums_(reinterpret_cast<float*>(scratch_ + layout_.sums)),
        scale_(task.scale * kLog2E) {}

  void run() {
    pack_queries();
    const int64_t blocks = whole_blocks(vectors_);
    for (int64_t i = 0; i < vectors_; ++i) t_.max[i] = -__builtin_inff();
    std::memset(sums_, 0, static_cast<size_t>(blocks * kPanelRows) * sizeof(float));
    std::memset(t_.acc, 0, static_cast<size_t>(blocks * row_) * sizeof(float));
    for (int64_t start = t_.begin; start < t_.end; start += kPageTokens) attend_page(start);
    for (int64_t i = 0; i < vectors_; ++i) {
      t_.sum[i] = _mm512_reduce_add_ps(f_load(sums_ + i * kPanelRows));
      t_.max[i] /= kLog2E;
    }
  }

 private:
  // What the vectors of the block that begins with `first` see of the page, together.
  MaskRange mask_of_block(int64_t first, int64_t start) const {
    const int64_t last = first + kBlock < vectors_ ? first + kBlock - 1 : vectors_ - 1;
    return {mask_range(t_, first, start).low, mask_range(t_, last, start).high};
  }
  // Whether each vector of the block sees all of the page.
  bool unmasked_block(int64_t first, int64_t start) const {
    const int64_t last = first + kBlock - 1;
    return last < vectors_ && mask_range(t_, first, start).high == kPageTokens &&
           mask_range(t_, last, start).low == 0;
  }
  MaskRange mask_of_row(int64_t i, int64_t start, bool all) const {
    if (all) return {0, kPageTokens};
    return i < vectors_ ? mask_range(t_, i, start) : MaskRange{0, 0};
  }
  // The first block from `first` on that sees something of the page.
  int64_t next_block(int64_t first, int64_t start) const {
    while (first < vectors_ && mask_of_block(first, start).none()) first += kBlock;
    return first;
  }

  // Scores of the next block are multiplied while this one's are turned into weights.
  void attend_page(int64_t start) {
    int64_t first = next_block(0, start);
    if (first >= vectors_) return;
    const std::byte* head = t_.base + t_.pages[start / kPageTokens] * t_.page_bytes;
    pack_keys(head);
    pack_values(head, t_.end - start < kPageTokens ? t_.end - start : kPageTokens);
    memory_barrier();
    auto nothing = [] {};
    score(first, start, 0, nothing);
    for (int buffer = 0; first < vectors_; buffer ^= 1) {
      const int64_t next = next_block(first + kBlock, start);
      const bool all = unmasked_block(first, start);
      int64_t row = 0;
      auto soften_rows = [&] {
        for (int i = 0; i < kRowsOfStep && row < kBlock; ++i, ++row) {
          online_softmax(first + row, row, mask_of_row(first + row, start, all), buffer);
        }
      };
      if (next < vectors_) score(next, start, buffer ^ 1, soften_rows);
      while (row < kBlock) soften_rows();
      memory_barrier();
      accumulate_values(first, mask_of_block(first, start));
      first = next;
    }
  }

  template <class Between>
  void score(int64_t first, int64_t start, int buffer, Between& between) const {
    const MaskRange range = mask_of_block(first, start);
    TileTask tiles{};
    tiles.inputs = scratch_ + first / kTileTokens * layout_.query_block;
    tiles.inputs_stride = layout_.query_block;
    tiles.inputs_low = tiles.weights_low = layout_.features * kTileBytes;
    tiles.weights_stride = layout_.key_panel;
    tiles.steps = layout_.features;
    tiles.row_bytes = 64;
    tiles.panel_bytes = kTileBytes;
    tiles.block_bytes = kPanels * kTileBytes;
    for (int64_t panel = range.low / kTileK * 2; panel * kPanelRows < range.high; panel += 2) {
      tiles.weights = scratch_ + layout_.keys + panel * layout_.key_panel;
      tiles.to = scores(buffer) + panel * kTileFloats;
      multiply_tile_block<2, 2, kParts>(tiles, between);
    }
  }
  float* scores(int buffer) const {
    return reinterpret_cast<float*>(scratch_ + layout_.scores + buffer * kScoresBytes);
  }

  // Row `row` of the block's scores, of vector i, becomes weights, zero where masked; what
  // was summed before is rescaled when the maximum grew.
  void online_softmax(int64_t i, int64_t row, MaskRange range, int buffer) const {
    std::byte* line = scratch_ + layout_.weights + row / kTileTokens * layout_.value_panel +
                      row % kTileTokens * kLineBytes;
    const int64_t low = kPageTiles * kTileBytes;
    if (range.none()) {
      for (int64_t tile = 0; tile < kParts * kPageTiles; ++tile) {
        _mm512_store_si512(line + tile * kTileBytes, i_zero());
      }
      return;
    }
    const uint64_t bits = ~uint64_t{0} >> (kPageTokens - range.high) & ~uint64_t{0} << range.low;
    const float* from =
        scores(buffer) + row / kTileTokens * kPanels * kTileFloats + row % kTileTokens * kPanelRows;
    F x[kPanels];
    __mmask16 lanes[kPanels];
    F largest_vector = f_set(t_.max[i]);
#pragma GCC unroll 4
    for (int v = 0; v < kPanels; ++v) {
      lanes[v] = static_cast<__mmask16>(bits >> (16 * v));
      x[v] = f_mul(_mm512_maskz_loadu_ps(lanes[v], from + v * kTileFloats), f_set(scale_));
      largest_vector =
          _mm512_mask_max_ps(largest_vector, lanes[v], x[v], largest_vector);  // NaN does not count
    }
    if (_mm512_cmp_ps_mask(largest_vector, f_set(t_.max[i]), _CMP_GT_OQ)) {
      raise_max(i, _mm512_reduce_max_ps(largest_vector));
    }
    const F max = f_set(t_.max[i]);
    F sum = f_load(sums_ + i * kPanelRows);
#pragma GCC unroll 4
    for (int v = 0; v < kPanels; ++v) {
      x[v] = exp2(_mm512_sub_ps(x[v], max), lanes[v]);
      sum = f_add(sum, x[v]);
    }
    if (spoilt_ & bits) sum = f_set(__builtin_nanf(""));
    f_store(sums_ + i * kPanelRows, sum);
    split_row<kParts>(x[0], x[1], line, low);
    split_row<kParts>(x[2], x[3], line + kTileBytes, low);
  }

  void raise_max(int64_t i, float max) const {
    const F shrink = exp2(f_set(t_.max[i] - max), 0xffff);
    t_.max[i] = max;
    float* acc = t_.acc + i * row_;
    for (int64_t f = 0; f < row_; f += kLanes) f_store(acc + f, f_mul(f_load(acc + f), shrink));
    float* sum = sums_ + i * kPanelRows;
    f_store(sum, f_mul(f_load(sum), shrink));
  }

  // The block's weights times the values.
  void accumulate_values(int64_t first, MaskRange range) const {
    const int64_t begin = range.low / kTileK;
    TileTask tiles{};
    tiles.inputs = scratch_ + layout_.weights + begin * kTileBytes;
    tiles.inputs_stride = tiles.weights_stride = layout_.value_panel;
    tiles.inputs_low = tiles.weights_low = kPageTiles * kTileBytes;
    tiles.steps = (range.high + kTileK - 1) / kTileK - begin;
    tiles.row_bytes = row_ * int64_t{sizeof(float)};
    tiles.panel_bytes = kLineBytes;
    tiles.block_bytes = kTileTokens * tiles.row_bytes;
    auto nothing = [] {};
    for (int64_t panel = 0; panel < row_ / kPanelRows; panel += 2) {
      tiles.weights = scratch_ + layout_.values + panel * layout_.value_panel + begin * kTileBytes;
      tiles.to = t_.acc + first * row_ + panel * kPanelRows;
      tiles.from = tiles.to;
      multiply_tile_blocks<kParts>(tiles, true, panel + 1 < row_ / kPanelRows, nothing);
    }
  }

  // Vectors and features past the last are zeros.
  void pack_queries() const {
    for (int64_t i = 0; i < whole_blocks(vectors_); ++i) {
      std::byte* line =
          scratch_ + i / kTileTokens * layout_.query_block + i % kTileTokens * kLineBytes;
      const float* q = i < vectors_ ? query(t_, i) : nullptr;
      const int64_t e = q ? t_.e : 0;
      for (int64_t f = 0; f < t_.e; f += kTileK, line += kTileBytes) {
        split_row<kParts>(sixteen(q, f, e), sixteen(q, f + kLanes, e), line,
                          layout_.features * kTileBytes);
      }
    }
  }

  // Features past the last are zeros. Positions that nothing was stored at are always masked, and
  // what comes of them is masked.
  void pack_keys(const std::byte* head) const {
    for (int64_t panel = 0; panel < kPanels; ++panel) {
      std::byte* line = scratch_ + layout_.keys + panel * layout_.key_panel;
      for (int64_t f = 0; f < layout_.features * kTileK; f += 2, line += kLineBytes) {
        split_pairs<kParts>(key(head, f, panel * kPanelRows), key(head, f + 1, panel * kPanelRows),
                            line, layout_.features * kTileBytes);
      }
    }
  }
  F key(const std::byte* head, int64_t feature, int64_t position) const {
    if (feature >= t_.e) return f_zero();
    const F k = Kv::key(head, feature, position).v;
    if constexpr (Kv::kScaled) {
      const float* scales = Kv::key_scales(head, t_.e) + feature / kScaleGroup * kPageTokens;
      return f_mul(k, f_load(scales + position));
    } else {
      return k;
    }
  }

  // Zero times what is not finite would reach vectors that do not see it: such positions become
  // zeros and are remembered, as are those from `count` on.
  void pack_values(const std::byte* head, int64_t count) {
    spoilt_ = 0;
    for (int64_t s = 0; s < kPageTokens; s += 2) {
      bool first = s < count, second = s + 1 < count;
      if (!pack_value_pair(head, s, first, second)) {
        first = first && pack_value_pair(head, s, true, false);
        second = second && pack_value_pair(head, s, false, true);
        pack_value_pair(head, s, first, second);
        if (s < count && !first) spoilt_ |= uint64_t{1} << s;
        if (s + 1 < count && !second) spoilt_ |= uint64_t{2} << s;
      }
    }
  }
  // Whether all values of positions s and s + 1, as far as they are wanted, are finite.
  bool pack_value_pair(const std::byte* head, int64_t s, bool first, bool second) const {
    std::byte* line =
        scratch_ + layout_.values + s / kTileK * kTileBytes + s % kTileK / 2 * kLineBytes;
    F check = f_zero();
    for (int64_t f = 0; f < row_; f += kLanes, line += layout_.value_panel) {
      const F even = first ? value(head, s, f) : f_zero();
      const F odd = second ? value(head, s + 1, f) : f_zero();
      check = f_fma(even, f_zero(), f_fma(odd, f_zero(), check));
      split_pairs<kParts>(even, odd, line, kPageTiles * kTileBytes);
    }
    return _mm512_cmp_ps_mask(check, check, _CMP_UNORD_Q) == 0;
  }
  F value(const std::byte* head, int64_t position, int64_t feature) const {
    const F v = Kv::value(head, t_.e, position, feature).v;
    if constexpr (Kv::kScaled) {
      const float* scales = Kv::value_scales(head, t_.e) + feature / kScaleGroup * kPageTokens;
      return f_mul(v, f_set(scales[position]));
    } else {
      return v;
    }
  }

  static constexpr int kRowsOfStep = kParts == 1 ? 4 : 2;  // softened between two steps

  const AttentionTask& t_;
  int64_t vectors_;
  int64_t row_;  // floats of a row of weighted values
  Layout<kParts> layout_;
  std::byte* scratch_;
  float* sums_;  // [vector][16], of weights
  float scale_;
  uint64_t spoilt_ = 0;  // positions of the page whose values are not finite
};

template <class Kv, int kParts>
void attend_tiles(const AttentionTask& task) noexcept {
  _tile_loadconfig(&kTileConfig);
  TileAttention<Kv, kParts>(task).run();
  _tile_release();
}

template <class Kv, int kParts>
constexpr void add(Kernels& kernels, KvType type) {
  kernels.kv[static_cast<size_t>(type)].prefill = {
      attend_tiles<Kv, kParts>, kMinRows,
      [](int64_t vectors, int64_t e) noexcept { return Layout<kParts>(vectors, e).end; }};
}

}  // namespace

constinit const Kernels kTiledAttention = [] {
  Kernels kernels;
  add<KvF16, 2>(kernels, KvType::kF16);
  add<KvBF16, 1>(kernels, KvType::kBF16);
  add<KvQ8, 1>(kernels, KvType::kQ8);
  return kernels;
}();

}  // namespace llama_rt::cpu::LLAMA_RT_LEVEL
