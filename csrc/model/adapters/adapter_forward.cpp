#include "model/adapters/adapter_forward.h"

#include <algorithm>
#include <array>

namespace llama_rt {
namespace {

// Rows [first, first + count) of a matrix or of heads.
View rows_of(View v, int64_t first, int64_t count) {
  const int64_t per_row = v.shape.elements() / v.shape[0];
  Shape shape = v.shape;
  shape.extent[0] = count;
  return f32_view(v.f32() + first * per_row, shape);
}

// A group's rows before a prefix, which is page 0 of a cache of its own.
Segment prefix_segment(const AdapterGroup& group) {
  static constexpr int32_t kPage[] = {0};
  return {0, group.rows, 0, kPage};
}

}  // namespace

AdapterForward::AdapterForward(const Model& model, std::span<const AdapterGroup> groups,
                               Workspace& scratch, Staging& staging)
    : BlockOps(model.backend(), model.config(), model.weights()),
      groups_(groups),
      scratch_(scratch) {
  for (const AdapterGroup& g : groups_) {
    tables_.push_back(staging.segments(std::array{prefix_segment(g)}, 1));
  }
}

size_t AdapterForward::stage_bytes(std::span<const AdapterGroup> groups) {
  size_t bytes = 0;
  for (const AdapterGroup& g : groups) bytes += Staging::segment_bytes(g.rows, 1, 1);
  return bytes;
}

size_t AdapterForward::scratch_bytes(const ModelConfig& c, int64_t n,
                                     std::span<const AdapterGroup> groups) {
  constexpr int64_t kTogether = 3;  // linears of one input, at most: q, k and v
  constexpr int64_t kLine = 16;     // floats to which the workspace rounds
  int64_t inner = 0;
  for (const AdapterGroup& g : groups) {
    int64_t ranks = 0;
    for (const ActiveAdapter& m : g.adapters)
      ranks += (m.adapter->max_rank() + kLine - 1) / kLine * kLine;
    inner = std::max(inner, kTogether * ranks);
  }
  const int64_t widest = std::max({c.dim, c.n_heads * c.head_dim, c.ffn_dim});
  return Workspace::aligned(static_cast<size_t>(n * (widest + inner)) * sizeof(float)) +
         Workspace::aligned(1);
}

// A group's own gain where one of its adapters replaces the norm (the last one wins).
void AdapterForward::normalise(int64_t layer, Norm norm, const float* gain, View x, View out) {
  for (const AdapterGroup& g : groups_) {
    const float* own = gain;
    for (const ActiveAdapter& m : g.adapters) {
      const auto& replacement = m.adapter->layer(layer).norm[static_cast<size_t>(norm)];
      if (!replacement.empty() && m.weight != 0.0f) own = replacement.data();
    }
    backend_.rms_norm(rows_of(x, g.first_row, g.rows), own, config_.norm_eps,
                      rows_of(out, g.first_row, g.rows));
  }
}

bool AdapterForward::scales_input(int64_t layer, Projection projection) const {
  return std::ranges::any_of(groups_, [&](const AdapterGroup& g) {
    return std::ranges::any_of(g.adapters, [&](const ActiveAdapter& m) {
      return !m.adapter->layer(layer).linear[static_cast<size_t>(projection)].input_scale.empty();
    });
  });
}

// W x for all rows at once, except where an adapter scales the input. The small products A x of a
// batch under one set of adapters share that call: they cost their bytes, not a round of the
// threads each.
void AdapterForward::linear(int64_t layer, std::span<const Projection> projections, View x,
                            std::span<const Linear> jobs) {
  scratch_.reset();
  const View scaled = scratch_.f32(x.shape);
  products_.clear(), additions_.clear();
  const auto multiply = [&](View in) {
    if (!products_.empty()) backend_.matmul(in, products_);
    products_.clear();
  };
  for (size_t i = 0; i < projections.size(); ++i) {
    if (!scales_input(layer, projections[i])) products_.push_back(jobs[i]);
  }
  if (groups_.size() > 1) multiply(x);
  for (const AdapterGroup& g : groups_) {
    const View in = rows_of(x, g.first_row, g.rows);
    for (size_t i = 0; i < projections.size(); ++i) {
      collect(layer, projections[i], g, rows_of(jobs[i].out, g.first_row, g.rows));
    }
    multiply(in);
    for (size_t i = 0; i < projections.size(); ++i) {
      if (scales_input(layer, projections[i]))
        multiply_scaled(layer, projections[i], g, in, scaled, jobs[i]);
    }
  }
  for (const Addition& addition : additions_) add(addition);
}

// What a group's adapters add to a product; the A x of it join products_.
void AdapterForward::collect(int64_t layer, Projection projection, const AdapterGroup& group,
                             View out) {
  for (const ActiveAdapter& m : group.adapters) {
    const LinearDelta& p = m.adapter->layer(layer).linear[static_cast<size_t>(projection)];
    if (m.weight == 0.0f || (!p.lora() && p.bias.empty())) continue;
    Addition& added = additions_.emplace_back();
    added.out = out;
    added.weight = m.weight;
    if (!p.bias.empty()) added.bias = p.bias.data();
    if (!p.lora()) continue;
    added.b = &p.b;
    added.factor = m.weight * p.scale;
    added.inner = scratch_.f32(Shape(group.rows, p.a.rows));
    products_.push_back({&p.a, nullptr, added.inner});
  }
}

// A group's share of a product whose input its adapters scale.
void AdapterForward::multiply_scaled(int64_t layer, Projection projection,
                                     const AdapterGroup& group, View in, View scaled,
                                     const Linear& job) {
  const View to = rows_of(scaled, group.first_row, group.rows);
  for (const ActiveAdapter& m : group.adapters) {
    const auto& p = m.adapter->layer(layer).linear[static_cast<size_t>(projection)];
    if (p.input_scale.empty()) continue;
    backend_.scale_columns(in, p.input_scale.data(), to);
    in = to;
  }
  const View out = rows_of(job.out, group.first_row, group.rows);
  const Linear jobs[] = {{job.weight, job.bias, out, job.accumulate}};
  backend_.matmul(in, jobs);
}

void AdapterForward::add(const Addition& addition) {
  if (addition.b) {
    if (addition.factor != 1.0f) backend_.scale(addition.inner, addition.factor);
    const Linear up[] = {{addition.b, nullptr, addition.out, true}};
    backend_.matmul(addition.inner, up);
  }
  if (addition.bias) backend_.add_row(addition.bias, addition.weight, addition.out);
}

void AdapterForward::embed(std::span<const int32_t> tokens, View x) {
  BlockOps::embed(tokens, x);
  for (const AdapterGroup& g : groups_) {
    for (const ActiveAdapter& m : g.adapters) {
      const EmbeddingDelta& p = m.adapter->embedding();
      if (p.a.rows == 0 || m.weight == 0.0f) continue;
      scratch_.reset();
      const View inner = scratch_.f32(Shape(g.rows, p.a.cols));
      const auto own =
          tokens.subspan(static_cast<size_t>(g.first_row), static_cast<size_t>(g.rows));
      backend_.embed(p.a, own, inner);
      add({&p.b, m.weight * p.scale, inner, nullptr, 0.0f, rows_of(x, g.first_row, g.rows)});
    }
  }
}

void AdapterForward::logits(View states, std::span<const int32_t> outputs, View logits) {
  BlockOps::logits(states, outputs, logits);
  for (const AdapterGroup& g : groups_) {
    const auto begin = std::ranges::lower_bound(outputs, g.first_row);
    const auto end = std::ranges::lower_bound(outputs, g.first_row + g.rows);
    const int64_t first = begin - outputs.begin(), count = end - begin;
    for (const ActiveAdapter& m : g.adapters) {
      const LinearDelta& p = m.adapter->output();
      if (count == 0 || !p.lora() || m.weight == 0.0f) continue;
      scratch_.reset();
      const View inner = scratch_.f32(Shape(count, p.a.rows));
      const Linear down[] = {{&p.a, nullptr, inner}};
      backend_.matmul(rows_of(states, first, count), down);
      add({&p.b, m.weight * p.scale, inner, nullptr, 0.0f, rows_of(logits, first, count)});
    }
  }
}

void AdapterForward::attend_prefix(int64_t layer, View q, View out) {
  const ModelConfig& c = config_;
  for (size_t i = 0; i < groups_.size(); ++i) {
    const AdapterGroup& g = groups_[i];
    for (const ActiveAdapter& m : g.adapters) {
      const GatedPrefix& prefix = m.adapter->layer(layer).prefix;
      if (prefix.length == 0 || m.weight == 0.0f) continue;
      const Segment all[] = {prefix_segment(g)};
      const KvView kv = m.adapter->prefixes(layer, all, tables_[i]);
      AttentionSpec spec = attention_spec();
      spec.window = 0;
      spec.length = prefix.length;
      scratch_.reset();
      const View added = scratch_.f32(Shape(g.rows, c.n_heads, c.head_dim));
      backend_.attention(rows_of(q, g.first_row, g.rows), kv, spec, added);
      backend_.add_gated(added, prefix.gate.data(), m.weight, rows_of(out, g.first_row, g.rows));
    }
  }
}

void AdapterForward::qkv(int64_t layer, const Rotation& rotation, const KvView& kv,
                         const BlockBuffers& b) {
  const ModelConfig& c = config_;
  const QkvWeights& w = layer_weights(layer).attention;
  normalise(layer, Norm::kAttention, w.norm, b.x, b.normed);
  constexpr Projection kQkv[] = {Projection::kWq, Projection::kWk, Projection::kWv};
  const Linear jobs[] = {{&w.q, w.q_bias, b.q}, {&w.k, w.k_bias, b.k}, {&w.v, w.v_bias, b.v}};
  linear(layer, kQkv, b.normed, jobs);
  backend_.norm_rope_append(heads_of(b.q, c.n_heads, c.head_dim),
                            heads_of(b.k, c.n_kv_heads, c.head_dim),
                            heads_of(b.v, c.n_kv_heads, c.head_dim), w, c.norm_eps, rotation, kv);
}

void AdapterForward::attention(int64_t layer, const KvView& kv, const BlockBuffers& b) {
  const ModelConfig& c = config_;
  BlockOps::attention(layer, kv, b);
  attend_prefix(layer, heads_of(b.q, c.n_heads, c.head_dim),
                heads_of(b.attended, c.n_heads, c.head_dim));
}

void AdapterForward::attention_output(int64_t layer, const BlockBuffers& b) {
  const LayerWeights& w = layer_weights(layer);
  constexpr Projection kOutput[] = {Projection::kWo};
  const Linear job[] = {{&w.attention_output, w.attention_output_bias, b.x, true}};
  linear(layer, kOutput, b.attended, job);
}

void AdapterForward::gate_up_swiglu(int64_t layer, const BlockBuffers& b) {
  const GateUpWeights& w = layer_weights(layer).ffn;
  normalise(layer, Norm::kFfn, w.norm, b.x, b.normed);
  constexpr Projection kGateUp[] = {Projection::kW1, Projection::kW3};
  const Linear jobs[] = {{&w.gate, w.gate_bias, b.hidden}, {&w.up, w.up_bias, b.up}};
  linear(layer, kGateUp, b.normed, jobs);
  backend_.swiglu(b.hidden, b.up, b.hidden);
}

void AdapterForward::ffn_down(int64_t layer, const BlockBuffers& b) {
  const LayerWeights& w = layer_weights(layer);
  constexpr Projection kDown[] = {Projection::kW2};
  const Linear job[] = {{&w.ffn_down, w.ffn_down_bias, b.x, true}};
  linear(layer, kDown, b.hidden, job);
}

}  // namespace llama_rt
