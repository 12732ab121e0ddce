#include "model/weights.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "core/error.h"
#include "core/tensor.h"

namespace llama_rt {
namespace {

const std::string kLayers = "layers.";
const std::string kDivisors = "rope.divisors";

// "layers.12.attention.wq.weight" -> {12, "attention.wq.weight"}; {-1, ""} for anything else.
std::pair<int64_t, std::string> split_layer(const std::string& name) {
  if (!name.starts_with(kLayers)) return {-1, ""};
  const size_t dot = name.find('.', kLayers.size());
  if (dot == std::string::npos) return {-1, ""};
  int64_t layer = -1;
  const char* end = name.data() + dot;
  const auto [stop, error] = std::from_chars(name.data() + kLayers.size(), end, layer);
  if (error != std::errc() || stop != end) return {-1, ""};
  return {layer, name.substr(dot + 1)};
}

}  // namespace

// Where a tensor goes and the shape it must have: a matrix or a vector.
struct Weights::TensorSlot {
  Shape shape;
  Weight* matrix = nullptr;
  const float** vector = nullptr;
  Role role = Role::kLinear;
};

Weights::Weights(std::shared_ptr<Backend> backend, const ModelConfig& config, Repack repack)
    : backend_(std::move(backend)),
      config_(config),
      repack_(repack),
      layers_(static_cast<size_t>(config.n_layers)) {}

Weights::TensorSlot Weights::layer_slot(LayerWeights& layer, const std::string& part) {
  const int64_t d = config_.dim, f = config_.ffn_dim;
  const int64_t q = config_.n_heads * config_.head_dim, kv = config_.n_kv_heads * config_.head_dim;
  QkvWeights& a = layer.attention;
  GateUpWeights& ffn = layer.ffn;
  const auto matrix = [](Weight& w, int64_t rows, int64_t cols) {
    return TensorSlot{Shape(rows, cols), &w, nullptr, Role::kLinear};
  };
  const auto vector = [](const float*& v, int64_t n) {
    return TensorSlot{Shape(n), nullptr, &v, Role::kLinear};
  };
  if (part == "attention.wq.weight") return matrix(a.q, q, d);
  if (part == "attention.wk.weight") return matrix(a.k, kv, d);
  if (part == "attention.wv.weight") return matrix(a.v, kv, d);
  if (part == "attention.wo.weight") return matrix(layer.attention_output, d, q);
  if (part == "feed_forward.w1.weight") return matrix(ffn.gate, f, d);
  if (part == "feed_forward.w2.weight") return matrix(layer.ffn_down, d, f);
  if (part == "feed_forward.w3.weight") return matrix(ffn.up, f, d);
  if (part == "attention_norm.weight") return vector(a.norm, d);
  if (part == "ffn_norm.weight") return vector(ffn.norm, d);
  if (config_.qk_norm && part == "attention.q_norm.weight")
    return vector(a.q_norm, config_.head_dim);
  if (config_.qk_norm && part == "attention.k_norm.weight")
    return vector(a.k_norm, config_.head_dim);
  if (part == "attention.wq.bias") return vector(a.q_bias, q);
  if (part == "attention.wk.bias") return vector(a.k_bias, kv);
  if (part == "attention.wv.bias") return vector(a.v_bias, kv);
  if (part == "attention.wo.bias") return vector(layer.attention_output_bias, d);
  if (part == "feed_forward.w1.bias") return vector(ffn.gate_bias, f);
  if (part == "feed_forward.w2.bias") return vector(layer.ffn_down_bias, d);
  if (part == "feed_forward.w3.bias") return vector(ffn.up_bias, f);
  return {};
}

Weights::TensorSlot Weights::slot_for(const std::string& name) {
  const int64_t d = config_.dim, v = config_.vocab_size;
  if (name == "tok_embeddings.weight") {
    return {Shape(v, d), &embedding_, nullptr, Role::kEmbedding};
  }
  if (name == "output.weight") return {Shape(v, d), &output_, nullptr, Role::kOutput};
  if (name == "norm.weight") return {Shape(d), nullptr, &norm_, Role::kLinear};
  const auto [layer, part] = split_layer(name);
  if (layer < 0 || layer >= config_.n_layers) return {};
  return layer_slot(layers_[static_cast<size_t>(layer)], part);
}

const float* Weights::keep_vector(const Tensor& tensor) {
  vectors_.push_back(backend_->to_device(to_floats(tensor)));
  return vectors_.back().data();
}

// Where a tensor of this name and shape goes, if it may still come.
Weights::TensorSlot Weights::open_slot(const std::string& name, const Shape& shape) {
  if (finished_) throw CheckpointError(name + ": the model is already finished");
  const TensorSlot slot =
      name == kDivisors ? TensorSlot{Shape(config_.head_dim / 2)} : slot_for(name);
  if (slot.shape.rank == 0) throw CheckpointError("unknown tensor '" + name + "'");
  if (seen_.contains(name)) throw CheckpointError("tensor '" + name + "' came twice");
  if (shape != slot.shape) {
    throw ShapeError("tensor '" + name + "' must be " + slot.shape.text() + ", got " +
                     shape.text());
  }
  return slot;
}

void Weights::add(const std::string& name, const Tensor& tensor) {
  const TensorSlot slot = open_slot(name, tensor.view.shape);
  if (name == kDivisors) {
    rope_divisors_ = to_floats(tensor);
  } else if (slot.vector) {
    *slot.vector = keep_vector(tensor);
  } else {
    *slot.matrix = backend_->prepare(tensor, slot.role, repack_);
  }
  seen_.insert(name);
}

const std::byte* Weights::keep_pool(const Tensor& pool) {
  for (const Pool& p : pools_) {
    if (p.given->data() == pool.storage->data() && p.given->bytes() == pool.storage->bytes()) {
      return p.held->data();
    }
  }
  pools_.push_back({pool.storage, backend_->allocate(pool.storage->bytes())});
  std::byte* held = pools_.back().held->data();
  backend_->upload(held, pool.storage->data(), pool.storage->bytes());
  return held;
}

void Weights::add_pieces(const std::string& name, Shape shape, const Tensor& pool,
                         std::span<const int64_t> starts) {
  const TensorSlot slot = open_slot(name, shape);
  const std::string what = "tensor '" + name + "'";
  if (!slot.matrix) throw ShapeError(what + " is no matrix, which alone is made of pieces");
  const DType dtype = pool.view.dtype;
  const int64_t block = info(dtype).block_bytes;
  const auto held = static_cast<int64_t>(pool.storage->bytes());
  const int64_t bytes = shape.rows() * row_bytes(dtype, shape.row());
  const Tensor matrix(backend_->allocate(static_cast<size_t>(bytes)), dtype, shape, what);
  const std::byte* from = keep_pool(pool);
  int64_t written = 0;
  for (const int64_t start : starts) {
    if (start < 0 || start >= held / block) {
      throw ShapeError(what + ": a piece begins at block " + std::to_string(start) + " of " +
                       std::to_string(held / block));
    }
    const int64_t count = std::min(held - start * block, bytes - written);
    backend_->copy_bytes(matrix.view.data + written, from + start * block,
                         static_cast<size_t>(count));
    written += count;
  }
  if (written != bytes) {
    throw ShapeError(what + " needs " + std::to_string(bytes) + " bytes, its pieces have " +
                     std::to_string(written));
  }
  *slot.matrix =
      backend_->reuse_resident({shape[0], shape[1], dtype, matrix, nullptr}, slot.role, repack_);
  seen_.insert(name);
}

std::vector<std::string> Weights::required() const {
  std::vector<std::string> names = {"tok_embeddings.weight", "norm.weight"};
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    for (const char* part :
         {"attention.wq.weight", "attention.wk.weight", "attention.wv.weight",
          "attention.wo.weight", "feed_forward.w1.weight", "feed_forward.w2.weight",
          "feed_forward.w3.weight", "attention_norm.weight", "ffn_norm.weight"}) {
      names.push_back(kLayers + std::to_string(i) + "." + part);
    }
    if (!config_.qk_norm) continue;
    for (const char* part : {"attention.q_norm.weight", "attention.k_norm.weight"}) {
      names.push_back(kLayers + std::to_string(i) + "." + part);
    }
  }
  return names;
}

void Weights::finish() {
  for (const std::string& name : required()) {
    if (!seen_.contains(name)) throw CheckpointError("tensor '" + name + "' is missing");
  }
  if (!seen_.contains("output.weight")) {
    // The table stays as stored for look-ups; the product may have its own packed copy.
    output_ = backend_->reuse_resident(embedding_, Role::kOutput, repack_);
  }
  pools_.clear();
  finished_ = true;
}

int64_t Weights::held_bytes() const {
  int64_t bytes = embedding_.held_bytes();
  if (output_.stored.view.data != embedding_.stored.view.data) bytes += output_.held_bytes();
  for (const LayerWeights& l : layers_) {
    for (const Weight* w : {&l.attention.q, &l.attention.k, &l.attention.v, &l.attention_output,
                            &l.ffn.gate, &l.ffn.up, &l.ffn_down}) {
      bytes += w->held_bytes();
    }
  }
  for (const Vector& vector : vectors_) bytes += static_cast<int64_t>(vector.storage->bytes());
  return bytes;
}

int64_t Weights::streamed_bytes() const {
  int64_t bytes = output_.stored_bytes();
  for (const LayerWeights& l : layers_) {
    for (const Weight* w : {&l.attention.q, &l.attention.k, &l.attention.v, &l.attention_output,
                            &l.ffn.gate, &l.ffn.up, &l.ffn_down}) {
      bytes += w->stored_bytes();
    }
  }
  for (const Vector& vector : vectors_) bytes += static_cast<int64_t>(vector.storage->bytes());
  return bytes;
}

}  // namespace llama_rt
