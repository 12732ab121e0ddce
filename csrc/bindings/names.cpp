// Options that Python gives by name.
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "core/error.h"

namespace llama_rt {
namespace {

template <typename T, size_t kCount>
T named(const char* argument, const std::string& name,
        const std::pair<const char*, T> (&choices)[kCount]) {
  std::string names;
  for (const auto& [choice, value] : choices) {
    if (name == choice) return value;
    names += (names.empty() ? "" : ", ") + std::string(choice);
  }
  throw ConfigError(std::string(argument) + " must be one of " + names + ", got '" + name + "'");
}

}  // namespace

KvType kv_type_named(const std::string& name) {
  return named<KvType>("kv_dtype", name,
                       {{"f16", KvType::kF16},
                        {"bf16", KvType::kBF16},
                        {"f32", KvType::kF32},
                        {"q8_0", KvType::kQ8}});
}

Repack repack_named(const std::string& name) {
  return named<Repack>(
      "repack", name,
      {{"auto", Repack::kAuto}, {"never", Repack::kNever}, {"always", Repack::kAlways}});
}

RopeStyle rope_style_named(const std::string& name) {
  return named<RopeStyle>(
      "rope_style", name,
      {{"interleaved", RopeStyle::kInterleaved}, {"halves", RopeStyle::kHalves}});
}

RopeRule rope_rule_named(const std::string& name) {
  return named<RopeRule>("rope_scaling", name,
                         {{"none", RopeRule::kNone},
                          {"linear", RopeRule::kLinear},
                          {"llama3", RopeRule::kLlama3},
                          {"yarn", RopeRule::kYarn}});
}

}  // namespace llama_rt
