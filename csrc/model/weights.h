// Canonical names and shapes of a LLaMA's tensors, and the weights made from them.
#pragma once

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "model/rope.h"

namespace llama_rt {

struct LayerWeights {
  QkvWeights attention;
  Weight attention_output;
  const float* attention_output_bias = nullptr;
  GateUpWeights ffn;
  Weight ffn_down;
  const float* ffn_down_bias = nullptr;
};

// All weights of one model on one backend, taken tensor by tensor so that only one is in flight.
class Weights {
 public:
  Weights(std::shared_ptr<Backend> backend, const ModelConfig& config, Repack repack);

  // Takes a tensor under its canonical name (Meta's: layers.N.attention.wq.weight, ...).
  // Throws CheckpointError for an unknown or repeated name, ShapeError for another shape.
  void add(const std::string& name, const Tensor& tensor);
  // A matrix made in the backend's memory, of pieces of `pool` [elements]: each begins at one of
  // `starts`, counted in blocks, and goes to the pool's end, the last as far as the matrix does.
  // Throws as add; ShapeError for pieces that are not there or do not make the matrix.
  void add_pieces(const std::string& name, Shape shape, const Tensor& pool,
                  std::span<const int64_t> starts);
  // Ties the output to the embedding when it never came; throws CheckpointError naming what misses.
  void finish();
  bool finished() const { return finished_; }

  int64_t held_bytes() const;
  int64_t streamed_bytes() const;  // stored bytes that one decoded token reads

  const Weight& embedding() const { return embedding_; }
  const Weight& output() const { return output_; }
  const float* norm() const { return norm_; }
  const std::vector<LayerWeights>& layers() const { return layers_; }
  const std::vector<float>& rope_divisors() const { return rope_divisors_; }

 private:
  struct TensorSlot;
  struct Pool {  // of pieces, here and in the backend's memory
    std::shared_ptr<Storage> given, held;
  };
  TensorSlot open_slot(const std::string& name, const Shape& shape);
  TensorSlot slot_for(const std::string& name);
  TensorSlot layer_slot(LayerWeights& layer, const std::string& part);
  std::vector<std::string> required() const;
  const float* keep_vector(const Tensor& tensor);
  const std::byte* keep_pool(const Tensor& pool);

  std::shared_ptr<Backend> backend_;
  ModelConfig config_;
  Repack repack_;
  Weight embedding_, output_;
  const float* norm_ = nullptr;
  std::vector<LayerWeights> layers_;
  std::vector<float> rope_divisors_;
  std::vector<Vector> vectors_;
  std::vector<Pool> pools_;  // until finish
  std::set<std::string> seen_;
  bool finished_ = false;
};

}  // namespace llama_rt
