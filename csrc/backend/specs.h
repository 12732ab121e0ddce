// Plain structs that ops take. Shape letters: n tokens, r output rows, d model width, h query
// heads, g KV heads, e head width, k reduction length, p tokens of a page.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"

namespace llama_rt {

// What a matrix is for; a backend may lay it out by it.
enum class Role : uint8_t { kEmbedding, kLinear, kOutput };

// Whether `prepare` may copy a matrix into the layout its kernels stream.
enum class Repack : uint8_t { kAuto, kNever, kAlways };

// Base of the backend's own record of a packed matrix; opaque outside the backend that made it.
struct PackedWeight {
  virtual ~PackedWeight() = default;
  virtual int64_t bytes() const = 0;
};

// A matrix [rows, cols] claimed by one backend: as stored, packed, or (for tied tables) both.
struct Weight {
  int64_t rows = 0;
  int64_t cols = 0;
  DType dtype = DType::kF32;
  Tensor stored;                         // empty when only the packed form is kept
  std::shared_ptr<PackedWeight> packed;  // empty when the stored form is used in place

  int64_t stored_bytes() const { return rows * row_bytes(dtype, cols); }
  int64_t held_bytes() const {
    return (stored.storage ? stored_bytes() : 0) + (packed ? packed->bytes() : 0);
  }
};

// Floats in a backend's memory, such as a bias; empty when there are none.
struct Vector {
  std::shared_ptr<Storage> storage;

  const float* data() const {
    return storage ? reinterpret_cast<const float*>(storage->data()) : nullptr;
  }
  bool empty() const { return !storage; }
};

// One product of a shared input: out[n, rows] = x weightᵀ + bias, or added to what is there.
struct Linear {
  const Weight* weight = nullptr;
  const float* bias = nullptr;  // [rows] or null
  View out;                     // f32 [n, rows]
  bool accumulate = false;
};

enum class RopeStyle : uint8_t { kInterleaved, kHalves };  // pairs (2i, 2i+1) or (i, i+e/2)

enum class KvType : uint8_t { kF32, kF16, kBF16, kQ8 };

inline constexpr int64_t kPageTokens = 64;  // positions of a cache page

// Geometry of the paged cache of one backend. A page holds kPageTokens positions of one sequence
// in all layers; inside it the layout is the backend's.
struct KvLayout {
  KvType type = KvType::kF16;
  int64_t layers = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t layer_bytes = 0;  // keys and values of one layer in one page
  int64_t page_bytes() const { return layers * layer_bytes; }
};

// One sequence's share of a batch: rows [first_row, first_row + rows) are its positions
// [past, past + rows); pages[i] holds positions [i * kPageTokens, (i + 1) * kPageTokens).
struct Segment {
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t past = 0;
  std::span<const int32_t> pages;  // host memory
};

// The same in the backend's memory, for kernels that cannot read the host's; see staging.h. Sent
// after the positions before `past` were stored: kernels may read those ahead of the ops before.
struct SegmentTable {
  const int32_t* positions = nullptr;   // [n] of each row in its sequence
  const int32_t* segment_of = nullptr;  // [n] which segment a row belongs to
  const int32_t* first_row = nullptr;   // [segments + 1]
  const int32_t* pages = nullptr;       // [segments, page_stride]
  int64_t page_stride = 0;
};

// The cache as one layer's ops see it.
struct KvView {
  const KvLayout* layout = nullptr;
  std::byte* base = nullptr;  // page i starts at base + i * page_bytes()
  int64_t layer = 0;
  std::span<const Segment> segments;
  SegmentTable table;
};

struct AttentionSpec {
  int64_t heads = 0;   // query heads h; a multiple of the KV heads
  float scale = 0.0f;  // of the scores, 1/sqrt(e)
  int64_t window = 0;  // a position sees the last `window` positions; 0: all before it
  int64_t length = 0;  // not 0: every row sees exactly the positions [0, length)
};

// How to sample from one row of logits where the backend samples; the rules are the host sampler's
// (sampling/sampler.h).
struct SampleSpec {
  float temperature = 0;  // 0: the most likely token, the lowest id of equals
  int32_t top_k = 0;      // <= 0: off
  float top_p = 1;        // 1: off
  float min_p = 0;        // 0: off
  uint64_t seed = 0;
  uint64_t counter = 0;  // counter of the random number
};

// Names a step by all that its ops depend on besides the contents of buffers: equal keys mean equal
// calls with equal addresses, so that a backend may record a step and replay it.
struct GraphKey {
  uint64_t owner = 0;  // whose buffers, and since when; 0: never to be replayed
  int64_t rows = 0;
  int64_t segments = 0;
  int64_t outputs = 0;
  int64_t page_stride = 0;
  int64_t output = 0;    // what happens to the last states
  bool sampled = false;  // whether the tokens are those that the step before sampled

  bool operator==(const GraphKey&) const = default;
};

}  // namespace llama_rt
