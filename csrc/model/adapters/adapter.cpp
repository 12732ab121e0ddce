#include "model/adapters/adapter.h"

#include <algorithm>
#include <utility>

#include "core/codec.h"
#include "core/error.h"

namespace llama_rt {
namespace {

constexpr const char* kSlotNames[kSlots] = {"wq", "wk", "wv", "wo", "w1", "w3", "w2"};

std::string place(int64_t layer, Slot slot) {
  return "layer " + std::to_string(layer) + " " + kSlotNames[static_cast<size_t>(slot)];
}

void require_shape(const std::string& what, const Shape& got, const Shape& expected) {
  if (!(got == expected)) {
    throw ShapeError("adapter: " + what + " must be " + expected.text() + ", got " + got.text());
  }
}

void require_length(const std::string& what, size_t got, int64_t expected) {
  require_shape(what, Shape(static_cast<int64_t>(got)), Shape(expected));
}

}  // namespace

Adapter::Adapter(std::shared_ptr<const Model> model) : model_(std::move(model)) {
  model_->require_finished();
  const ModelConfig& c = model_->config();
  layers_.resize(static_cast<size_t>(c.n_layers));
  layout_ = model_->backend().kv_layout(KvType::kF32, 1, c.n_kv_heads, c.head_dim);
}

AdapterLayer& Adapter::at(int64_t layer) {
  if (layer < 0 || layer >= model_->config().n_layers) {
    throw ShapeError("adapter: layer " + std::to_string(layer) + " of a model of " +
                     std::to_string(model_->config().n_layers) + " layers");
  }
  return layers_[static_cast<size_t>(layer)];
}

// [out, in] of the base's matrix.
Shape Adapter::shape_of(Slot slot) const {
  const ModelConfig& c = model_->config();
  const int64_t q = c.n_heads * c.head_dim, kv = c.n_kv_heads * c.head_dim;
  switch (slot) {
    case Slot::kWq:
      return Shape(q, c.dim);
    case Slot::kWk:
    case Slot::kWv:
      return Shape(kv, c.dim);
    case Slot::kWo:
      return Shape(c.dim, q);
    case Slot::kW1:
    case Slot::kW3:
      return Shape(c.ffn_dim, c.dim);
    case Slot::kW2:
      return Shape(c.dim, c.ffn_dim);
  }
  return {};
}

void Adapter::add_lora(int64_t layer, Slot slot, const Tensor& a, const Tensor& b) {
  LinearPatch& patch = at(layer).linear[static_cast<size_t>(slot)];
  const Shape base = shape_of(slot);
  const int64_t rank = a.view.shape[0];
  require_shape(place(layer, slot) + " lora A", a.view.shape, Shape(rank, base[1]));
  require_shape(place(layer, slot) + " lora B", b.view.shape, Shape(base[0], rank));
  if (patch.lora()) throw CheckpointError("adapter: " + place(layer, slot) + " came twice");
  patch.a = model_->backend().prepare(a, Role::kLinear, Repack::kAuto);
  patch.b = model_->backend().prepare(b, Role::kLinear, Repack::kAuto);
  max_rank_ = std::max(max_rank_, rank);
  bytes_ += patch.a.held_bytes() + patch.b.held_bytes();
}

void Adapter::add_input_scale(int64_t layer, Slot slot, std::vector<float> scale) {
  require_length(place(layer, slot) + " scale", scale.size(), shape_of(slot)[1]);
  at(layer).linear[static_cast<size_t>(slot)].input_scale = std::move(scale);
}

void Adapter::add_bias(int64_t layer, Slot slot, std::vector<float> bias) {
  require_length(place(layer, slot) + " bias", bias.size(), shape_of(slot)[0]);
  at(layer).linear[static_cast<size_t>(slot)].bias = std::move(bias);
}

void Adapter::replace_norm(int64_t layer, Norm norm, std::vector<float> gain) {
  require_length("layer " + std::to_string(layer) + " norm", gain.size(), model_->config().dim);
  at(layer).norm[static_cast<size_t>(norm)] = std::move(gain);
}

// Keys or values of the prefix: W (P * scale) + bias.
std::vector<float> Adapter::project(const LinearPatch& patch, const Weight& weight,
                                    const float* bias, const Tensor& prefix) const {
  const int64_t length = prefix.view.shape[0];
  std::vector<float> in = to_floats(prefix);
  for (size_t i = 0; i < in.size() && !patch.input_scale.empty(); ++i) {
    in[i] *= patch.input_scale[i % patch.input_scale.size()];
  }
  std::vector<float> out(static_cast<size_t>(length * weight.rows));
  const Linear job[] = {{&weight, bias, f32_view(out.data(), Shape(length, weight.rows))}};
  model_->backend().matmul(f32_view(in.data(), prefix.view.shape), job);
  for (size_t i = 0; i < out.size() && !patch.bias.empty(); ++i) {
    out[i] += patch.bias[i % patch.bias.size()];
  }
  return out;
}

void Adapter::add_prefix(int64_t layer, const Tensor& prefix, std::vector<float> gate) {
  AdapterLayer& target = at(layer);
  const ModelConfig& c = model_->config();
  const int64_t length = prefix.view.shape[0];
  require_shape("layer " + std::to_string(layer) + " prefix", prefix.view.shape,
                Shape(length, c.dim));
  require_length("layer " + std::to_string(layer) + " gate", gate.size(), c.n_heads);
  if (length < 1 || length > layout_.page_tokens) {
    throw CapacityError("adapter: a prefix of " + std::to_string(length) +
                        " positions, between 1 and " + std::to_string(layout_.page_tokens) +
                        " are supported");
  }
  const AttentionWeights& w = model_->weights().layers()[static_cast<size_t>(layer)].attention;
  const auto& patches = target.linear;
  std::vector<float> k = project(patches[static_cast<size_t>(Slot::kWk)], w.k, w.k_bias, prefix);
  std::vector<float> v = project(patches[static_cast<size_t>(Slot::kWv)], w.v, w.v_bias, prefix);
  Backend& backend = model_->backend();
  target.prefix.page = backend.allocate(static_cast<size_t>(layout_.page_bytes()));
  constexpr int32_t kPage = 0;
  const Segment all[] = {{0, length, 0, &kPage}};
  const Shape heads(length, c.n_kv_heads, c.head_dim);
  backend.store_kv(f32_view(k.data(), heads), f32_view(v.data(), heads),
                   {&layout_, target.prefix.page->data(), 0, all});
  target.prefix.length = length;
  target.prefix.gate = std::move(gate);
  bytes_ += layout_.page_bytes();
}

}  // namespace llama_rt
