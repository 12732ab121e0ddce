#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include "core/error.h"

namespace llama_rt {
namespace {

constexpr double kTwoPi = 2.0 * std::numbers::pi;

// Llama 3.1: long wavelengths are divided by the factor, short ones kept, between them a blend.
double llama3(double frequency, const RopeConfig& c) {
  const double wavelength = kTwoPi / frequency;
  if (wavelength < c.original_context / c.high_freq_factor) return frequency;
  if (wavelength > c.original_context / c.low_freq_factor) return frequency / c.factor;
  const double smooth = (c.original_context / wavelength - c.low_freq_factor) /
                        (c.high_freq_factor - c.low_freq_factor);
  return (1.0 - smooth) * frequency / c.factor + smooth * frequency;
}

// YaRN: the index of the frequency that turns `rotations` times within the original context.
double yarn_corner(double rotations, const RopeConfig& c, double head_dim) {
  return head_dim * std::log(c.original_context / (kTwoPi * rotations)) / (2.0 * std::log(c.theta));
}

std::vector<double> yarn(std::vector<double> frequencies, const RopeConfig& c, double head_dim) {
  double low = yarn_corner(c.beta_fast, c, head_dim);
  double high = yarn_corner(c.beta_slow, c, head_dim);
  if (c.truncate) low = std::floor(low), high = std::ceil(high);
  low = std::max(low, 0.0);
  high = std::min(high, head_dim - 1.0);
  if (low == high) high += 0.001;
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double scaled = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = scaled * frequencies[i] / c.factor + (1.0 - scaled) * frequencies[i];
  }
  return frequencies;
}

}  // namespace

RopeTable::RopeTable(const RopeConfig& config, int64_t head_dim, std::span<const float> divisors)
    : attention_factor_(config.attention_factor) {
  const auto width = static_cast<double>(head_dim);
  for (int64_t i = 0; i < head_dim / 2; ++i) {
    frequencies_.push_back(std::pow(config.theta, -2.0 * static_cast<double>(i) / width));
  }
  switch (config.rule) {
    case RopeRule::kNone:
      break;
    case RopeRule::kLinear:
      for (double& f : frequencies_) f /= config.factor;
      break;
    case RopeRule::kLlama3:
      for (double& f : frequencies_) f = llama3(f, config);
      break;
    case RopeRule::kYarn:
      frequencies_ = yarn(std::move(frequencies_), config, width);
      break;
  }
  if (divisors.empty()) return;
  if (divisors.size() != frequencies_.size()) {
    throw ShapeError("rope.divisors must have " + std::to_string(frequencies_.size()) +
                     " elements, got " + std::to_string(divisors.size()));
  }
  for (size_t i = 0; i < frequencies_.size(); ++i) {
    if (!(divisors[i] > 0)) throw ConfigError("rope.divisors must be positive numbers");
    frequencies_[i] /= static_cast<double>(divisors[i]);
  }
}

void RopeTable::rotate(std::span<const int32_t> positions, float* cos, float* sin) const {
  for (size_t p = 0; p < positions.size(); ++p) {
    for (size_t i = 0; i < frequencies_.size(); ++i) {
      const double angle = static_cast<double>(positions[p]) * frequencies_[i];
      *cos++ = static_cast<float>(std::cos(angle) * attention_factor_);
      *sin++ = static_cast<float>(std::sin(angle) * attention_factor_);
    }
  }
}

}  // namespace llama_rt
