#include "model/adapters/adapted.h"

#include <algorithm>

namespace llama_rt {
namespace {

// Rows [first, first + count) of a matrix or of heads.
View rows_of(View v, int64_t first, int64_t count) {
  const int64_t per_row = v.shape.elements() / v.shape[0];
  Shape shape = v.shape;
  shape.extent[0] = count;
  return f32_view(v.f32() + first * per_row, shape);
}

View flat_of(View heads) {
  return f32_view(heads.f32(), Shape(heads.shape[0], heads.shape[1] * heads.shape[2]));
}

}  // namespace

AdaptedBlocks::AdaptedBlocks(const Model& model, std::span<const AdapterGroup> groups,
                             Workspace& scratch)
    : model_(model), backend_(model.backend()), groups_(groups), scratch_(scratch) {}

size_t AdaptedBlocks::scratch_bytes(const ModelConfig& c, int64_t n, int64_t rank) {
  const int64_t widest = std::max({c.dim, c.n_heads * c.head_dim, c.ffn_dim});
  size_t bytes = 0;
  for (const int64_t width : {widest, widest, rank}) {
    bytes += Workspace::aligned(static_cast<size_t>(n * width) * sizeof(float));
  }
  return bytes;
}

// A group's own gain where one of its adapters replaces the norm (the last one wins).
void AdaptedBlocks::normalise(int64_t layer, Norm norm, const float* gain, View x, View out) {
  for (const AdapterGroup& g : groups_) {
    const float* own = gain;
    for (const AdapterMix& m : g.mix) {
      const auto& replacement = m.adapter->layer(layer).norm[static_cast<size_t>(norm)];
      if (!replacement.empty() && m.weight != 0.0f) own = replacement.data();
    }
    backend_.rms_norm(rows_of(x, g.first_row, g.rows), own, model_.config().norm_eps,
                      rows_of(out, g.first_row, g.rows));
  }
}

bool AdaptedBlocks::scales_input(int64_t layer, Slot slot) const {
  return std::ranges::any_of(groups_, [&](const AdapterGroup& g) {
    return std::ranges::any_of(g.mix, [&](const AdapterMix& m) {
      return !m.adapter->layer(layer).linear[static_cast<size_t>(slot)].input_scale.empty();
    });
  });
}

// The base's products for all rows at once, unless an adapter scales a product's input: then that
// product runs group by group. The adapters' additions follow.
void AdaptedBlocks::linear(int64_t layer, std::span<const Slot> slots, View x,
                           std::span<const Linear> jobs) {
  std::vector<Linear> shared;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (!scales_input(layer, slots[i])) shared.push_back(jobs[i]);
  }
  if (!shared.empty()) backend_.matmul(x, shared);
  for (const AdapterGroup& g : groups_) {
    const View in = rows_of(x, g.first_row, g.rows);
    for (size_t i = 0; i < slots.size(); ++i) {
      const View out = rows_of(jobs[i].out, g.first_row, g.rows);
      if (scales_input(layer, slots[i])) {
        scratch_.reset();
        View scaled = in;
        for (const AdapterMix& m : g.mix) {
          const auto& p = m.adapter->layer(layer).linear[static_cast<size_t>(slots[i])];
          if (p.input_scale.empty()) continue;
          const View to = scratch_.f32(in.shape);
          backend_.scale_columns(scaled, p.input_scale.data(), to);
          scaled = to;
        }
        const Linear job[] = {{jobs[i].weight, jobs[i].bias, out, jobs[i].accumulate}};
        backend_.matmul(scaled, job);
      }
      for (const AdapterMix& m : g.mix) {
        scratch_.reset();
        patch(m.adapter->layer(layer).linear[static_cast<size_t>(slots[i])], m.weight, in, out);
      }
    }
  }
}

void AdaptedBlocks::patch(const LinearPatch& p, float weight, View x, View y) {
  if (!p.any() || weight == 0.0f) return;
  if (p.lora()) {
    const View inner = scratch_.f32(Shape(x.shape[0], p.a.rows));
    const Linear down[] = {{&p.a, nullptr, inner}};
    backend_.matmul(x, down);
    if (weight != 1.0f) backend_.scale(inner, weight);
    const Linear up[] = {{&p.b, nullptr, y, true}};
    backend_.matmul(inner, up);
  }
  if (!p.bias.empty()) backend_.add_row(p.bias.data(), weight, y);
}

void AdaptedBlocks::attend_prefix(int64_t layer, View q, View out) {
  constexpr int32_t kPage = 0;
  const ModelConfig& c = model_.config();
  for (const AdapterGroup& g : groups_) {
    for (const AdapterMix& m : g.mix) {
      const GatedPrefix& prefix = m.adapter->layer(layer).prefix;
      if (prefix.length == 0 || m.weight == 0.0f) continue;
      const Segment all[] = {{0, g.rows, 0, &kPage}};
      const KvView kv{&m.adapter->prefix_layout(), prefix.page->data(), 0, all};
      AttentionSpec spec = model_.attention_spec();
      spec.window = 0;
      spec.length = prefix.length;
      scratch_.reset();
      const View added = scratch_.f32(Shape(g.rows, c.n_heads, c.head_dim));
      backend_.attention(rows_of(q, g.first_row, g.rows), kv, spec, added);
      backend_.add_gated(added, prefix.gate.data(), m.weight, rows_of(out, g.first_row, g.rows));
    }
  }
}

void AdaptedBlocks::run(int64_t layer, const Rotation& rotation, const KvView& kv,
                        const BlockBuffers& b) {
  const ModelConfig& c = model_.config();
  const LayerWeights& w = model_.weights().layers()[static_cast<size_t>(layer)];
  const View q = heads_of(b.q, c.n_heads, c.head_dim);
  const View k = heads_of(b.k, c.n_kv_heads, c.head_dim);
  const View v = heads_of(b.v, c.n_kv_heads, c.head_dim);
  const View attended = heads_of(b.attended, c.n_heads, c.head_dim);

  normalise(layer, Norm::kAttention, w.attention.norm, b.x, b.normed);
  constexpr Slot kQkv[] = {Slot::kWq, Slot::kWk, Slot::kWv};
  const Linear qkv[] = {{&w.attention.q, w.attention.q_bias, b.q},
                        {&w.attention.k, w.attention.k_bias, b.k},
                        {&w.attention.v, w.attention.v_bias, b.v}};
  linear(layer, kQkv, b.normed, qkv);
  backend_.rope(q, rotation);
  backend_.rope(k, rotation);
  backend_.store_kv(k, v, kv);
  backend_.attention(q, kv, model_.attention_spec(), attended);
  attend_prefix(layer, q, attended);
  constexpr Slot kOutput[] = {Slot::kWo};
  const Linear output[] = {{&w.attention_output, w.attention_output_bias, b.x, true}};
  linear(layer, kOutput, flat_of(attended), output);

  normalise(layer, Norm::kFfn, w.ffn.norm, b.x, b.normed);
  constexpr Slot kGateUp[] = {Slot::kW1, Slot::kW3};
  const Linear gated[] = {{&w.ffn.gate, w.ffn.gate_bias, b.hidden},
                          {&w.ffn.up, w.ffn.up_bias, b.up}};
  linear(layer, kGateUp, b.normed, gated);
  backend_.swiglu(b.hidden, b.up, b.hidden);
  constexpr Slot kDown[] = {Slot::kW2};
  const Linear down[] = {{&w.ffn_down, w.ffn_down_bias, b.x, true}};
  linear(layer, kDown, b.hidden, down);
}

}  // namespace llama_rt
