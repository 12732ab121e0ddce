#include "model/transformer.h"

#include "core/error.h"

namespace llama_rt {
namespace {

// x += attention(norm(x)); x += ffn(norm(x))
void block(BlockOps& ops, int64_t layer, const Rotation& rotation, const KvView& kv,
           const BlockBuffers& b) {
  ops.qkv(layer, rotation, kv, b);
  ops.attention(layer, kv, b);
  ops.attention_output(layer, b);
  ops.gate_up_swiglu(layer, b);
  ops.ffn_down(layer, b);
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

void Model::forward(const StagedBatch& batch, Workspace& workspace, const KvLayout& layout,
                    std::byte* cache, const Interrupt& interrupt, View states) const {
  const BlockBuffers b = buffers(workspace, static_cast<int64_t>(batch.tokens.size()));
  BlockOps own(*backend_, config_, weights_);
  BlockOps& ops = batch.adapter_ops ? *batch.adapter_ops : own;
  ops.embed(batch.tokens, b.x);
  for (int64_t i = 0; i < config_.n_layers; ++i) {
    interrupt.check();
    block(ops, i, batch.rotation, {&layout, cache, i, batch.segments, batch.table}, b);
  }
  interrupt.check();
  // The wanted rows move together before the last norm; `normed` is free by now.
  const View wanted = f32_view(b.normed.f32(), states.shape);
  backend_->gather_rows(b.x, batch.outputs, wanted);
  backend_->rms_norm(wanted, weights_.norm(), config_.norm_eps, states);
}

void Model::logits(const StagedBatch& batch, View states, View logits) const {
  BlockOps own(*backend_, config_, weights_);
  (batch.adapter_ops ? *batch.adapter_ops : own).logits(states, batch.host_outputs, logits);
}

}  // namespace llama_rt
