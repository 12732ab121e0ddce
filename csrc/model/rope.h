// Rotary frequencies for each scaling rule, and the rotation of a batch's positions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/config.h"

namespace llama_rt {

class RopeTable {
 public:
  // `divisors` [head_dim / 2] divide the frequencies (GGUF's rope_freqs); empty: none.
  // Formulas: transformers' modeling_rope_utils; Meta's llama3 model.py.
  RopeTable(const RopeConfig& config, int64_t head_dim, std::span<const float> divisors = {});

  // Cosines and sines [positions, head_dim / 2], scaled by the attention factor.
  void rotate(std::span<const int32_t> positions, float* cos, float* sin) const;

  int64_t half() const { return static_cast<int64_t>(frequencies_.size()); }

 private:
  std::vector<double> frequencies_;  // radians per position
  double attention_factor_;
};

}  // namespace llama_rt
