// The ops that a transformer is made of. There is one block (transformer.cpp), written over them: a
// plain batch runs it with the backend's fused ops, a batch with adapters with adapter_forward.h,
// which does the same and adds what the adapters add.
#pragma once

#include <cstdint>
#include <span>

#include "backend/backend.h"

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
  virtual ~BlockOps() = default;

  // x = the embeddings of i32 tokens [n].
  virtual void embed(std::span<const int32_t> tokens, View x) = 0;
  // q, k and v of the normed x; q and k rotated, k and v appended to the cache.
  virtual void qkv(int64_t layer, const Rotation& rotation, const KvView& kv,
                   const BlockBuffers& b) = 0;
  // attended = attention of q over the cache.
  virtual void attention(int64_t layer, const KvView& kv, const BlockBuffers& b) = 0;
  // x += the output projection of attended.
  virtual void attention_output(int64_t layer, const BlockBuffers& b) = 0;
  // hidden = silu(gate) * up of the normed x.
  virtual void gate_up_swiglu(int64_t layer, const BlockBuffers& b) = 0;
  // x += the down projection of hidden.
  virtual void ffn_down(int64_t layer, const BlockBuffers& b) = 0;
  // Logits [r, v] of states [r, d]; `outputs` are the rows of the batch that they come from.
  virtual void logits(View states, std::span<const int32_t> outputs, View logits) = 0;
};

}  // namespace llama_rt
