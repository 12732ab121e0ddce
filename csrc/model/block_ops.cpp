#include "model/block_ops.h"

#include <cmath>

namespace llama_rt {

AttentionSpec BlockOps::attention_spec() const {
  return {config_.n_heads, 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
          config_.sliding_window};
}

void BlockOps::embed(std::span<const int32_t> tokens, View x) {
  backend_.embed(weights_.embedding(), tokens, x);
}

void BlockOps::qkv(int64_t layer, const Rotation& rotation, const KvView& kv,
                   const BlockBuffers& b) {
  const ModelConfig& c = config_;
  backend_.qkv(b.x, layer_weights(layer).attention, c.norm_eps, rotation, kv, b.normed,
               heads_of(b.q, c.n_heads, c.head_dim), heads_of(b.k, c.n_kv_heads, c.head_dim),
               heads_of(b.v, c.n_kv_heads, c.head_dim));
}

void BlockOps::attention(int64_t, const KvView& kv, const BlockBuffers& b) {
  const ModelConfig& c = config_;
  backend_.attention(heads_of(b.q, c.n_heads, c.head_dim), kv, attention_spec(),
                     heads_of(b.attended, c.n_heads, c.head_dim));
}

void BlockOps::attention_output(int64_t layer, const BlockBuffers& b) {
  const LayerWeights& w = layer_weights(layer);
  backend_.linear_residual(b.attended, w.attention_output, w.attention_output_bias, b.x);
}

void BlockOps::gate_up_swiglu(int64_t layer, const BlockBuffers& b) {
  backend_.gate_up_swiglu(b.x, layer_weights(layer).ffn, config_.norm_eps, b.normed, b.up,
                          b.hidden);
}

void BlockOps::ffn_down(int64_t layer, const BlockBuffers& b) {
  const LayerWeights& w = layer_weights(layer);
  backend_.linear_residual(b.hidden, w.ffn_down, w.ffn_down_bias, b.x);
}

void BlockOps::logits(View states, std::span<const int32_t>, View logits) {
  const Linear job[] = {{&weights_.output(), nullptr, logits}};
  backend_.matmul(states, job);
}

}  // namespace llama_rt
