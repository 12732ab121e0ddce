#include "cpu/isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <span>

#include "core/error.h"
#include "cpu/kernel_table.h"
#include "platform/processor.h"

namespace llama_rt::cpu {

namespace {

using Tables = std::span<const std::reference_wrapper<const Kernels>>;

struct Level {
  Isa isa;
  std::string_view name;
  Isa parent;  // whose kernels it keeps where it has none of its own; scalar's is itself
  bool (*supported)(const CpuInfo& cpu);
  Tables tables;  // empty: not in this build
};

// By the value of Isa. LLAMA_RT_HAS_<level> is 1 if this build holds the level, 0 if not.
constexpr Level kLevels[] = {
    {Isa::kScalar, "scalar", Isa::kScalar, [](const CpuInfo&) { return true; }, scalar::kTables},
#define LEVEL(isa, name, parent)                                              \
  {Isa::isa, #name, Isa::parent, [](const CpuInfo& cpu) { return cpu.name; }, \
   LLAMA_RT_HAS_##name ? Tables(name::kTables) : Tables()},
#include "cpu/isa_list.inc"
};

const Level& level_of(Isa isa) { return kLevels[static_cast<size_t>(isa)]; }

using AllKernels = std::array<Kernels, std::size(kLevels)>;

AllKernels registered() {
  AllKernels all;
  for (const Level& level : kLevels) {
    Kernels& kernels = all[static_cast<size_t>(level.isa)];
    kernels = all[static_cast<size_t>(level.parent)];
    for (const Kernels& table : level.tables) register_kernels(kernels, table);
    kernels.isa = level.isa;
  }
  return all;
}

struct Levels {
  std::vector<Isa> usable;
  std::vector<UnusedLevel> unused;
};

bool contains(const std::vector<Isa>& levels, Isa isa) {
  return std::ranges::find(levels, isa) != levels.end();
}

Levels check_levels() {
  Levels levels{{Isa::kScalar}, {}};
  for (const Level& level : kLevels) {
    if (level.isa == Isa::kScalar || !level.supported(cpu_info())) continue;
    std::string reason;
    if (level.tables.empty()) {
      reason = "not in this build";
    } else if (!contains(levels.usable, level.parent)) {
      reason = "it builds on " + std::string(isa_name(level.parent)) + ", which is not used";
    } else {
      reason = self_check(kernels_for(level.isa), kernels_for(Isa::kScalar));
    }
    if (reason.empty()) {
      levels.usable.push_back(level.isa);
    } else {
      levels.unused.push_back({level.name, reason, !level.tables.empty()});
    }
  }
  return levels;
}

const Levels& checked_levels() {
  static const Levels levels = check_levels();
  return levels;
}

}  // namespace

std::string_view isa_name(Isa isa) { return level_of(isa).name; }

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Level& level : kLevels) names.emplace_back(level.name);
  return names;
}

const std::vector<Isa>& usable_levels() { return checked_levels().usable; }
const std::vector<UnusedLevel>& unused_levels() { return checked_levels().unused; }

Isa choose_isa(const std::string& cap) {
  const char* from_environment = cap.empty() ? std::getenv("LLAMA_RT_ISA") : nullptr;
  const std::string name = from_environment ? from_environment : cap;
  const std::vector<Isa>& usable = usable_levels();
  if (name.empty()) return usable.back();
  const auto* level = std::ranges::find(kLevels, name, &Level::name);
  if (level == std::end(kLevels)) {
    std::string known;
    for (const std::string& one : isa_names()) known += (known.empty() ? "" : ", ") + one;
    throw ConfigError("unknown isa '" + name + "', expected one of " + known);
  }
  return *std::ranges::find_if(usable.rbegin(), usable.rend(),
                               [&](Isa isa) { return isa <= level->isa; });
}

const Kernels& kernels_for(Isa isa) {
  static const AllKernels all = registered();
  return all[static_cast<size_t>(isa)];
}

}  // namespace llama_rt::cpu
