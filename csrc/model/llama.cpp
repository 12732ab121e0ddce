#include "model/llama.h"

#include <cmath>
#include <cstring>

#include "core/error.h"

namespace llama_rt {
namespace {

View heads_of(View flat, int64_t heads, int64_t e) {
  return f32_view(flat.f32(), Shape(flat.shape[0], heads, e));
}

}  // namespace

Model::Model(std::shared_ptr<Backend> backend, const ModelConfig& config, Repack repack)
    : backend_(std::move(backend)),
      config_((config.validate(), config)),
      weights_(backend_, config, repack) {}

void Model::finish() {
  weights_.finish();
  rope_ = std::make_unique<RopeTable>(config_.rope, config_.head_dim, weights_.rope_divisors());
}

void Model::require_finished() const {
  if (!rope_) throw CheckpointError("the model is not finished: call finish() after the last add()");
}

size_t Model::workspace_bytes(int64_t n) const {
  const int64_t q = config_.n_heads * config_.head_dim;
  const int64_t kv = config_.n_kv_heads * config_.head_dim;
  size_t bytes = 0;
  for (const int64_t width : {config_.dim, config_.dim, q, q, kv, kv, config_.ffn_dim,
                              config_.ffn_dim}) {
    bytes += Workspace::aligned(static_cast<size_t>(n * width) * sizeof(float));
  }
  return bytes;
}

void Model::forward(const StagedBatch& batch, Workspace& workspace, const KvLayout& layout,
                    std::byte* cache, const Interrupt& interrupt, View states) const {
  const ModelConfig& c = config_;
  const int64_t n = batch.tokens.shape[0];
  workspace.reset();
  const View x = workspace.f32(Shape(n, c.dim));        // the residual stream
  const View normed = workspace.f32(Shape(n, c.dim));
  const View q = workspace.f32(Shape(n, c.n_heads * c.head_dim));
  const View attended = workspace.f32(Shape(n, c.n_heads * c.head_dim));
  const View k = workspace.f32(Shape(n, c.n_kv_heads * c.head_dim));
  const View v = workspace.f32(Shape(n, c.n_kv_heads * c.head_dim));
  const View hidden = workspace.f32(Shape(n, c.ffn_dim));
  const View up = workspace.f32(Shape(n, c.ffn_dim));
  const View q_heads = heads_of(q, c.n_heads, c.head_dim);
  const AttentionSpec spec{c.n_heads, 1.0f / std::sqrt(static_cast<float>(c.head_dim)),
                           c.sliding_window};
  Backend& b = *backend_;

  b.embed(weights_.embedding(), batch.tokens, x);
  for (int64_t i = 0; i < c.n_layers; ++i) {
    interrupt.check();
    const LayerWeights& w = weights_.layers()[static_cast<size_t>(i)];
    const KvView kv{&layout, cache, i, batch.segments};
    b.qkv(x, w.attention, c.norm_eps, batch.rotation, kv, normed, q_heads,
          heads_of(k, c.n_kv_heads, c.head_dim), heads_of(v, c.n_kv_heads, c.head_dim));
    b.attention(q_heads, kv, spec, heads_of(attended, c.n_heads, c.head_dim));
    b.project_add(attended, w.attention_output, w.attention_output_bias, x);
    b.gated(x, w.ffn, c.norm_eps, normed, up, hidden);
    b.project_add(hidden, w.ffn_down, w.ffn_down_bias, x);
  }
  interrupt.check();
  const size_t row = static_cast<size_t>(c.dim) * sizeof(float);
  for (size_t r = 0; r < batch.outputs.size(); ++r) {
    std::memcpy(normed.f32(static_cast<int64_t>(r)), x.f32(batch.outputs[r]), row);
  }
  const View wanted = f32_view(normed.f32(), states.shape);
  b.rms_norm(wanted, weights_.norm(), c.norm_eps, states);
}

void Model::project(View states, View logits) const {
  const Linear job[] = {{&weights_.output(), nullptr, logits}};
  backend_->matmul(states, job);
}

}  // namespace llama_rt
