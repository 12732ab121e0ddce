// The ops that a transformer is made of, done by the backend's fused ops on the model's weights.
// There is one block (transformer.cpp), written over them; for a batch with adapters
// adapter_forward.h overrides them and adds what the adapters add.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"
#include "model/config.h"
#include "model/weights.h"

namespace llama_rt {

// [n, heads * e] as [n, heads, e].
inline View heads_of(View flat, int64_t heads, int64_t e) {
  return f32_view(flat.f32(), Shape(flat.shape[0], heads, e));
}

// The buffers of a forward pass that a block works in, [n, ...] each; x is the residual stream.
struct BlockBuffers {
  View x, normed, q, k, v, attended, hidden, up;
};

class BlockOps {
 public:
  BlockOps(Backend& backend, const ModelConfig& config, const Weights& weights)
      : backend_(backend), config_(config), weights_(weights) {}
  virtual ~BlockOps() = default;
  BlockOps(const BlockOps&) = delete;
  BlockOps& operator=(const BlockOps&) = delete;

  // x = the embeddings of tokens [n].
  virtual void embed(std::span<const int32_t> tokens, View x);
  // q, k and v of the normed x; q and k rotated, k and v appended to the cache.
  virtual void qkv(int64_t layer, const Rotation& rotation, const KvView& kv,
                   const BlockBuffers& b);
  // attended = attention of q over the cache.
  virtual void attention(int64_t layer, const KvView& kv, const BlockBuffers& b);
  // x += the output projection of attended.
  virtual void attention_output(int64_t layer, const BlockBuffers& b);
  // hidden = silu(gate) * up of the normed x.
  virtual void gate_up_swiglu(int64_t layer, const BlockBuffers& b);
  // x += the down projection of hidden.
  virtual void ffn_down(int64_t layer, const BlockBuffers& b);
  // Logits [r, v] of states [r, d]; `outputs` are the rows of the batch that they come from.
  virtual void logits(View states, std::span<const int32_t> outputs, View logits);

 protected:
  const LayerWeights& layer_weights(int64_t layer) const {
    return weights_.layers()[static_cast<size_t>(layer)];
  }
  // Of the model's self-attention: heads, 1/sqrt(e), window.
  AttentionSpec attention_spec() const;

  Backend& backend_;
  const ModelConfig& config_;
  const Weights& weights_;
};

}  // namespace llama_rt
