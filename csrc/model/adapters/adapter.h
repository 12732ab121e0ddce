// What an adapter adds to a LLaMA, as data: LoRA products, input scales, biases, norms, gated
// prefixes. One type serves LoRA and LLaMA-Adapter V1 and V2, alone or together; the base's weights
// are never touched.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/transformer.h"

namespace llama_rt {

// The linear layers of a block, in the order of their use.
enum class Projection : uint8_t { kWq, kWk, kWv, kWo, kW1, kW3, kW2 };
inline constexpr size_t kProjections = 7;

enum class Norm : uint8_t { kAttention, kFfn };

// y = W (x * input_scale) + scale B (A x) + bias
struct LinearDelta {
  Weight a;  // [rank, in]; rows 0: no LoRA here
  Weight b;  // [out, rank]
  float scale = 1.0f;
  Vector input_scale;  // [in] or empty
  Vector bias;         // [out] or empty

  bool lora() const { return a.rows > 0; }
  bool any() const { return lora() || !input_scale.empty() || !bias.empty(); }
};

// x += scale B a[token], for the rows of the embedding.
struct EmbeddingDelta {
  Weight a;  // [vocab, rank]; rows 0: no LoRA here
  Weight b;  // [d, rank]
  float scale = 1.0f;
};

// LLaMA-Adapter: every query also attends, with a softmax of its own, to a few learned positions;
// the result is multiplied by a gate per head and added. Keys are not rotated.
struct GatedPrefix {
  int64_t length = 0;  // positions; 0: none here
  Vector gate;         // [heads]
};

struct AdapterLayer {
  std::array<LinearDelta, kProjections> linear;
  std::array<Vector, 2> norm;  // by Norm: gain [d] that replaces the base's, or empty
  GatedPrefix prefix;
};

class Adapter {
 public:
  // For one model; `n_ctx` positions bound the length of a prefix to one page.
  explicit Adapter(std::shared_ptr<const Model> model);

  // W' = W + scale B A: a [rank, in] and b [out, rank]. Kept as f16, between powers of two, beside
  // weights that are themselves rounded; beside f32 weights only where that loses nothing.
  void add_lora(int64_t layer, Projection projection, const Tensor& a, const Tensor& b,
                float scale);
  // The same for the output: a [rank, d], b [vocab, rank].
  void add_output_lora(const Tensor& a, const Tensor& b, float scale);
  // And for the embedding: a [vocab, rank], looked up; b [d, rank].
  void add_embedding_lora(const Tensor& a, const Tensor& b, float scale);
  void add_input_scale(int64_t layer, Projection projection, std::span<const float> scale);
  void add_bias(int64_t layer, Projection projection, std::span<const float> bias);
  void replace_norm(int64_t layer, Norm norm, std::span<const float> gain);
  // `prefix` f32 [length, d] in the space of the layer's normed input; `gate` [heads] as it
  // multiplies. Scales and biases of wk and wv that belong to it must have been added before.
  void add_prefix(int64_t layer, const Tensor& prefix, std::span<const float> gate);

  const AdapterLayer& layer(int64_t i) const { return layers_[static_cast<size_t>(i)]; }
  const EmbeddingDelta& embedding() const { return embedding_; }
  const LinearDelta& output() const { return output_; }
  // Keys and values of every layer's prefix, as a cache of one page.
  KvView prefixes(int64_t layer, std::span<const Segment> segments,
                  const SegmentTable& table) const {
    return {&layout_, page_->data(), layer, segments, table};
  }
  const Model* model() const { return model_.get(); }
  int64_t max_rank() const { return max_rank_; }
  int64_t bytes() const { return bytes_; }

 private:
  AdapterLayer& at(int64_t layer);
  const Weight& base(int64_t layer, Projection projection) const;
  Weight to_device(const Tensor& matrix, Role role, const Weight& base, float& scale);
  std::shared_ptr<Storage> project(const LinearDelta& delta, const Weight& weight,
                                   const float* bias, View prefix) const;

  std::shared_ptr<const Model> model_;
  std::vector<AdapterLayer> layers_;
  EmbeddingDelta embedding_;
  LinearDelta output_;
  KvLayout layout_;
  std::shared_ptr<Storage> page_;  // made for the first prefix
  int64_t max_rank_ = 0;
  int64_t bytes_ = 0;
};

// An adapter and its weight in one request.
struct ActiveAdapter {
  const Adapter* adapter = nullptr;
  float weight = 1.0f;
};

// Consecutive rows of a batch that use the same active adapters; without any it is the plain base.
struct AdapterGroup {
  int64_t first_row = 0;
  int64_t rows = 0;
  std::vector<ActiveAdapter> adapters;
};

}  // namespace llama_rt
