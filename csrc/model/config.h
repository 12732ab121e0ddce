// What a LLaMA's graph needs to know: sizes, epsilon, rotary rule. Parsing belongs to Python.
#pragma once

#include <cstdint>
#include <string>

#include "backend/specs.h"

namespace llama_rt {

enum class RopeRule : uint8_t { kNone, kLinear, kLlama3, kYarn };

struct RopeConfig {
  double theta = 10000.0;
  RopeStyle style = RopeStyle::kInterleaved;
  RopeRule rule = RopeRule::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  double original_context = 0;  // tokens
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double attention_factor = 1.0;  // multiplies cosines and sines
  bool truncate = true;           // YaRN: whole-numbered corner frequencies
};

struct ModelConfig {
  int64_t dim = 0;  // d
  int64_t n_layers = 0;
  int64_t n_heads = 0;     // h
  int64_t n_kv_heads = 0;  // g
  int64_t head_dim = 0;    // e
  int64_t ffn_dim = 0;     // f
  int64_t vocab_size = 0;  // v
  float norm_eps = 1e-5f;
  int64_t sliding_window = 0;  // positions; 0: none
  bool qk_norm = false;        // an RMS norm of each head of q and k before rotation
  RopeConfig rope;

  // Throws ConfigError naming the field.
  void validate() const;
};

}  // namespace llama_rt
