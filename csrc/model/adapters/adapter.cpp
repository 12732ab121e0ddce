#include "model/adapters/adapter.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "backend/staging.h"
#include "core/error.h"
#include "core/tensor.h"

namespace llama_rt {
namespace {

constexpr const char* kProjectionNames[kProjections] = {"wq", "wk", "wv", "wo", "w1", "w3", "w2"};

std::string place(int64_t layer, Projection projection) {
  return "layer " + std::to_string(layer) + " " + kProjectionNames[static_cast<size_t>(projection)];
}

void require_shape(const std::string& what, const Shape& got, const Shape& expected) {
  if (!(got == expected)) {
    throw ShapeError("adapter: " + what + " must be " + expected.text() + ", got " + got.text());
  }
}

void require_length(const std::string& what, size_t got, int64_t expected) {
  require_shape(what, Shape(static_cast<int64_t>(got)), Shape(expected));
}

// A matrix as f16 times a power of two, which joins `scale`, so that the largest value is near 1
// and small ones keep their bits. Where that would round and may not (`lossy`): as it is.
Tensor halved(const Tensor& matrix, bool lossy, float& scale) {
  std::vector<float> values = to_floats(matrix);
  float largest = 0.0f;
  for (const float v : values) largest = std::max(largest, std::fabs(v));
  const int exponent = largest > 0.0f ? std::ilogb(largest) : 0;
  for (float& v : values) v = std::ldexp(v, -exponent);
  const auto count = static_cast<int64_t>(values.size());
  auto storage = Storage::allocate(static_cast<size_t>(row_bytes(DType::kF16, count)));
  encode_halves(values.data(), count, reinterpret_cast<uint16_t*>(storage->data()));
  Tensor halves(storage, DType::kF16, matrix.view.shape, "lora");
  if (!lossy && to_floats(halves) != values) return matrix;
  scale = std::ldexp(scale, exponent);
  return halves;
}

}  // namespace

Adapter::Adapter(std::shared_ptr<const Model> model) : model_(std::move(model)) {
  model_->require_finished();
  const ModelConfig& c = model_->config();
  layers_.resize(static_cast<size_t>(c.n_layers));
  layout_ = model_->backend().kv_layout(KvType::kF16, c.n_layers, c.n_kv_heads, c.head_dim);
}

AdapterLayer& Adapter::at(int64_t layer) {
  if (layer < 0 || layer >= model_->config().n_layers) {
    throw ShapeError("adapter: layer " + std::to_string(layer) + " of a model of " +
                     std::to_string(model_->config().n_layers) + " layers");
  }
  return layers_[static_cast<size_t>(layer)];
}

const Weight& Adapter::base(int64_t layer, Projection projection) const {
  const LayerWeights& w = model_->weights().layers()[static_cast<size_t>(layer)];
  switch (projection) {
    case Projection::kWq:
      return w.attention.q;
    case Projection::kWk:
      return w.attention.k;
    case Projection::kWv:
      return w.attention.v;
    case Projection::kWo:
      return w.attention_output;
    case Projection::kW1:
      return w.ffn.gate;
    case Projection::kW3:
      return w.ffn.up;
    case Projection::kW2:
      break;
  }
  return w.ffn_down;
}

void Adapter::add_lora(int64_t layer, Projection projection, const Tensor& a, const Tensor& b,
                       float scale) {
  LinearDelta& delta = at(layer).linear[static_cast<size_t>(projection)];
  const Weight& w = base(layer, projection);
  const int64_t rank = a.view.shape[0];
  require_shape(place(layer, projection) + " lora A", a.view.shape, Shape(rank, w.cols));
  require_shape(place(layer, projection) + " lora B", b.view.shape, Shape(w.rows, rank));
  if (delta.lora()) throw CheckpointError("adapter: " + place(layer, projection) + " came twice");
  delta.scale = scale;
  delta.a = to_device(a, Role::kLinear, w, delta.scale);
  delta.b = to_device(b, Role::kLinear, w, delta.scale);
  max_rank_ = std::max(max_rank_, rank);
}

void Adapter::add_output_lora(const Tensor& a, const Tensor& b, float scale) {
  const Weight& w = model_->weights().output();
  const int64_t rank = a.view.shape[0];
  require_shape("output lora A", a.view.shape, Shape(rank, w.cols));
  require_shape("output lora B", b.view.shape, Shape(w.rows, rank));
  if (output_.lora()) throw CheckpointError("adapter: output came twice");
  output_.scale = scale;
  output_.a = to_device(a, Role::kLinear, w, output_.scale);
  output_.b = to_device(b, Role::kOutput, w, output_.scale);
  max_rank_ = std::max(max_rank_, rank);
}

void Adapter::add_embedding_lora(const Tensor& a, const Tensor& b, float scale) {
  const Weight& w = model_->weights().embedding();
  const int64_t rank = a.view.shape[1];
  require_shape("embedding lora A", a.view.shape, Shape(w.rows, rank));
  require_shape("embedding lora B", b.view.shape, Shape(w.cols, rank));
  if (embedding_.a.rows > 0) throw CheckpointError("adapter: embedding came twice");
  embedding_.scale = scale;
  embedding_.a = to_device(a, Role::kEmbedding, w, embedding_.scale);
  embedding_.b = to_device(b, Role::kLinear, w, embedding_.scale);
  max_rank_ = std::max(max_rank_, rank);
}

// A factor of the product that is added to `base`; a power of two taken out of it joins `scale`.
Weight Adapter::to_device(const Tensor& matrix, Role role, const Weight& base, float& scale) {
  const Tensor kept = halved(matrix, base.dtype != DType::kF32, scale);
  Weight weight = model_->backend().prepare(kept, role, Repack::kAuto);
  bytes_ += weight.held_bytes();
  return weight;
}

void Adapter::add_input_scale(int64_t layer, Projection projection, std::span<const float> scale) {
  require_length(place(layer, projection) + " scale", scale.size(), base(layer, projection).cols);
  at(layer).linear[static_cast<size_t>(projection)].input_scale =
      model_->backend().to_device(scale);
}

void Adapter::add_bias(int64_t layer, Projection projection, std::span<const float> bias) {
  require_length(place(layer, projection) + " bias", bias.size(), base(layer, projection).rows);
  at(layer).linear[static_cast<size_t>(projection)].bias = model_->backend().to_device(bias);
}

void Adapter::replace_norm(int64_t layer, Norm norm, std::span<const float> gain) {
  require_length("layer " + std::to_string(layer) + " norm", gain.size(), model_->config().dim);
  at(layer).norm[static_cast<size_t>(norm)] = model_->backend().to_device(gain);
}

// Keys or values of the prefix [length, d]: W (P * scale) + bias.
std::shared_ptr<Storage> Adapter::project(const LinearDelta& delta, const Weight& weight,
                                          const float* bias, View prefix) const {
  Backend& backend = model_->backend();
  const int64_t length = prefix.shape[0];
  auto floats = [&backend](Shape shape) {
    auto storage = backend.allocate(static_cast<size_t>(shape.elements()) * sizeof(float));
    return std::pair(storage, f32_view(reinterpret_cast<float*>(storage->data()), shape));
  };
  const auto [storage, out] = floats(Shape(length, weight.rows));
  const auto [scaled_storage, scaled] = floats(prefix.shape);
  View in = prefix;
  if (!delta.input_scale.empty()) {
    backend.scale_columns(prefix, delta.input_scale.data(), scaled);
    in = scaled;
  }
  const Linear job[] = {{&weight, bias, out}};
  backend.matmul(in, job);
  if (!delta.bias.empty()) backend.add_row(delta.bias.data(), 1.0f, out);
  return storage;
}

void Adapter::add_prefix(int64_t layer, const Tensor& prefix, std::span<const float> gate) {
  AdapterLayer& target = at(layer);
  const ModelConfig& c = model_->config();
  const int64_t length = prefix.view.shape[0];
  require_shape("layer " + std::to_string(layer) + " prefix", prefix.view.shape,
                Shape(length, c.dim));
  require_length("layer " + std::to_string(layer) + " gate", gate.size(), c.n_heads);
  if (length < 1 || length > kPageTokens) {
    throw CapacityError("adapter: a prefix of " + std::to_string(length) +
                        " positions, between 1 and " + std::to_string(kPageTokens) +
                        " are supported");
  }
  if (c.qk_norm) throw ConfigError("adapter: a prefix for a model that norms q and k");
  const QkvWeights& w = model_->weights().layers()[static_cast<size_t>(layer)].attention;
  const auto& deltas = target.linear;
  Backend& backend = model_->backend();
  if (!page_) {
    page_ = backend.allocate(static_cast<size_t>(layout_.page_bytes()));
    bytes_ += layout_.page_bytes();
  }
  const Vector floats = backend.to_device(to_floats(prefix));
  const View in = f32_view(const_cast<float*>(floats.data()), prefix.view.shape);
  constexpr int32_t kPage[] = {0};
  const Segment all[] = {{0, length, 0, kPage}};
  Staging staging(backend);
  staging.begin(Staging::segment_bytes(length, 1, 1));
  const SegmentTable table = staging.segments(all, 1);
  staging.send();
  const auto heads = [&](const std::shared_ptr<Storage>& rows) {
    return f32_view(reinterpret_cast<float*>(rows->data()),
                    Shape(length, c.n_kv_heads, c.head_dim));
  };
  backend.step([&] {
    const auto k = project(deltas[static_cast<size_t>(Projection::kWk)], w.k, w.k_bias, in);
    const auto v = project(deltas[static_cast<size_t>(Projection::kWv)], w.v, w.v_bias, in);
    backend.store_kv(heads(k), heads(v), prefixes(layer, all, table));
  });
  target.prefix.length = length;
  target.prefix.gate = backend.to_device(gate);
}

}  // namespace llama_rt
