#include "model/transformer.h"

#include <cmath>

#include "core/error.h"
#include "model/adapters/adapted.h"

namespace llama_rt {
Model::Model(std::shared_ptr<Backend> backend, const ModelConfig& config, Repack repack)
    : backend_(std::move(backend)),
      config_((config.validate(), config)),
      weights_(backend_, config, repack) {}

void Model::finish() {
  weights_.finish();
  rope_ = std::make_unique<RopeTable>(config_.rope, config_.head_dim, weights_.rope_divisors());
}

void Model::require_finished() const {
  if (!rope_)
    throw CheckpointError("the model is not finished: call finish() after the last add()");
}

size_t Model::workspace_bytes(int64_t n) const {
  const int64_t q = config_.n_heads * config_.head_dim;
  const int64_t kv = config_.n_kv_heads * config_.head_dim;
  size_t bytes = 0;
  for (const int64_t width :
       {config_.dim, config_.dim, q, q, kv, kv, config_.ffn_dim, config_.ffn_dim}) {
    bytes += Workspace::aligned(static_cast<size_t>(n * width) * sizeof(float));
  }
  return bytes;
}

BlockBuffers Model::buffers(Workspace& workspace, int64_t n) const {
  const ModelConfig& c = config_;
  workspace.reset();
  BlockBuffers b;
  b.x = workspace.f32(Shape(n, c.dim));
  b.normed = workspace.f32(Shape(n, c.dim));
  b.q = workspace.f32(Shape(n, c.n_heads * c.head_dim));
  b.attended = workspace.f32(Shape(n, c.n_heads * c.head_dim));
  b.k = workspace.f32(Shape(n, c.n_kv_heads * c.head_dim));
  b.v = workspace.f32(Shape(n, c.n_kv_heads * c.head_dim));
  b.hidden = workspace.f32(Shape(n, c.ffn_dim));
  b.up = workspace.f32(Shape(n, c.ffn_dim));
  return b;
}

AttentionSpec Model::attention_spec() const {
  return {config_.n_heads, 1.0f / std::sqrt(static_cast<float>(config_.head_dim)),
          config_.sliding_window};
}

// x += attention(norm(x)); x += ffn(norm(x))
void Model::block(int64_t layer, const Rotation& rotation, const KvView& kv,
                  const BlockBuffers& buffers) const {
  const ModelConfig& c = config_;
  const LayerWeights& w = weights_.layers()[static_cast<size_t>(layer)];
  const View q = heads_of(buffers.q, c.n_heads, c.head_dim);
  Backend& b = *backend_;
  b.qkv(buffers.x, w.attention, c.norm_eps, rotation, kv, buffers.normed, q,
        heads_of(buffers.k, c.n_kv_heads, c.head_dim),
        heads_of(buffers.v, c.n_kv_heads, c.head_dim));
  b.attention(q, kv, attention_spec(), heads_of(buffers.attended, c.n_heads, c.head_dim));
  b.project_add(buffers.attended, w.attention_output, w.attention_output_bias, buffers.x);
  b.gated(buffers.x, w.ffn, c.norm_eps, buffers.normed, buffers.up, buffers.hidden);
  b.project_add(buffers.hidden, w.ffn_down, w.ffn_down_bias, buffers.x);
}

void Model::forward(const StagedBatch& batch, Workspace& workspace, const KvLayout& layout,
                    std::byte* cache, const Interrupt& interrupt, View states) const {
  const BlockBuffers b = buffers(workspace, batch.tokens.shape[0]);
  backend_->embed(weights_.embedding(), batch.tokens, b.x);
  if (batch.adapted) batch.adapted->embed(batch.tokens, b.x);
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    interrupt.check();
    const KvView kv{&layout, cache, i, batch.segments, batch.table};
    if (batch.adapted) {
      batch.adapted->run(i, batch.rotation, kv, b);
    } else {
      block(i, batch.rotation, kv, b);
    }
  }
  interrupt.check();
  // The wanted rows move together before the last norm; `normed` is free by now.
  const View wanted = f32_view(b.normed.f32(), states.shape);
  backend_->gather_rows(b.x, batch.outputs, wanted);
  backend_->rms_norm(wanted, weights_.norm(), config_.norm_eps, states);
}

void Model::project(View states, View logits) const {
  const Linear job[] = {{&weights_.output(), nullptr, logits}};
  backend_->matmul(states, job);
}

}  // namespace llama_rt
