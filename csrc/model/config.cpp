#include "model/config.h"

#include <cmath>

#include "core/error.h"

namespace llama_rt {
namespace {

void require(bool ok, const std::string& message) {
  if (!ok) throw ConfigError(message);
}

// Far above any published model; keeps products of two extents inside 64 bits.
constexpr int64_t kLargest = int64_t{1} << 28;

void require_size(int64_t value, const char* field) {
  require(value > 0 && value <= kLargest,
          std::string(field) + " must be between 1 and 2^28, got " + std::to_string(value));
}

void require_positive(double value, const char* field) {
  require(std::isfinite(value) && value > 0,
          std::string(field) + " must be a positive number, got " + std::to_string(value));
}

}  // namespace

void ModelConfig::validate() const {
  require_size(dim, "dim");
  require_size(n_layers, "n_layers");
  require_size(n_heads, "n_heads");
  require_size(n_kv_heads, "n_kv_heads");
  require_size(head_dim, "head_dim");
  require_size(ffn_dim, "ffn_dim");
  require_size(vocab_size, "vocab_size");
  require(n_heads % n_kv_heads == 0, "n_heads (" + std::to_string(n_heads) +
                                         ") must be a multiple of n_kv_heads (" +
                                         std::to_string(n_kv_heads) + ")");
  require(head_dim % 2 == 0, "head_dim must be even, got " + std::to_string(head_dim));
  require(n_heads * head_dim <= kLargest, "n_heads * head_dim is too large");
  require(sliding_window >= 0, "sliding_window must not be negative");
  require(std::isfinite(norm_eps) && norm_eps >= 0, "norm_eps must be a number >= 0");
  require_positive(rope.theta, "rope_theta");
  require_positive(rope.factor, "rope_factor");
  require_positive(rope.attention_factor, "rope_attention_factor");
  if (rope.rule == RopeRule::kLlama3 || rope.rule == RopeRule::kYarn) {
    require_positive(rope.original_context, "rope_original_context");
  }
  if (rope.rule == RopeRule::kLlama3) {
    require(rope.high_freq_factor > rope.low_freq_factor && rope.low_freq_factor > 0,
            "rope_high_freq_factor must exceed rope_low_freq_factor > 0");
  }
}

}  // namespace llama_rt
