#include "cpu/isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <iterator>
#include <span>

#include "core/error.h"
#include "cpu/levels.h"
#include "cpu/self_check.h"
#include "platform/cpu_info.h"

namespace llama_rt::cpu {

// `inline`: the arrays of levels that this build lacks, or another architecture has, are not
// emitted.
inline constexpr const Kernels* kScalarTables[] = {
    &scalar::kElementwise, &scalar::kDequantizedMatmul, &scalar::kAttention,
    &scalar::kEncode,      &scalar::kEncodeK,           &scalar::kScan};
inline constexpr const Kernels* kAvx2Tables[] = {
    &avx2::kElementwise,       &avx2::kDequantizedMatmul,
    &avx2::kAttention,         &avx2::kEncode,
    &avx2::kEncodeK,           &avx2::kScan,
    &avx2::kActivationFormats, &avx2::kFloatPacking,
    &avx2::kQuantizedPacking,  &avx2::kFloatMatmul,
    &avx2::kQuantizedMatmul};
inline constexpr const Kernels* kAvx2VnniTables[] = {&avx2_vnni::kQuantizedMatmul};
inline constexpr const Kernels* kAvx512Tables[] = {
    &avx512::kElementwise, &avx512::kDequantizedMatmul, &avx512::kAttention,
    &avx512::kEncode,      &avx512::kEncodeK,           &avx512::kScan,
    &avx512::kFloatMatmul, &avx512::kQuantizedMatmul};
inline constexpr const Kernels* kAvx512Bf16Tables[] = {&avx512_bf16::kFloatMatmul,
                                                       &avx512_bf16::kAttention};
inline constexpr const Kernels* kAmxTables[] = {&amx::kTiledAttention, &amx::kTiledFloatMatmul,
                                                &amx::kTiledQuantizedMatmul};
inline constexpr const Kernels* kNeonTables[] = {
    &neon::kElementwise,       &neon::kDequantizedMatmul,
    &neon::kAttention,         &neon::kEncode,
    &neon::kEncodeK,           &neon::kScan,
    &neon::kActivationFormats, &neon::kFloatPacking,
    &neon::kQuantizedPacking,  &neon::kFloatMatmul,
    &neon::kQuantizedMatmul};
inline constexpr const Kernels* kNeonDotprodTables[] = {&neon_dotprod::kQuantizedMatmul};
inline constexpr const Kernels* kNeonI8mmTables[] = {&neon_i8mm::kQuantizedMatmul};

namespace {

using Tables = std::span<const Kernels* const>;

struct Level {
  Isa isa;
  std::string_view name;
  Isa parent;  // whose kernels it keeps where it has none of its own; scalar's is itself
  bool (*supported)(const CpuInfo& cpu);
  Tables tables;  // empty: not in this build
};

// By the value of Isa. LLAMA_RT_HAS_<level> is 1 if this build holds the level, 0 if not.
constexpr Level kLevels[] = {
    {Isa::kScalar, "scalar", Isa::kScalar, [](const CpuInfo&) { return true; }, kScalarTables},
#define LEVEL(isa, name, parent)                                              \
  {Isa::isa, #name, Isa::parent, [](const CpuInfo& cpu) { return cpu.name; }, \
   LLAMA_RT_HAS_##name ? Tables(isa##Tables) : Tables()},
#include "cpu/isa_list.inc"
};

const Level& level_of(Isa isa) { return kLevels[static_cast<size_t>(isa)]; }

using AllKernels = std::array<Kernels, std::size(kLevels)>;

AllKernels registered() {
  AllKernels all;
  for (const Level& level : kLevels) {
    Kernels& kernels = all[static_cast<size_t>(level.isa)];
    kernels = all[static_cast<size_t>(level.parent)];
    for (const Kernels* table : level.tables) register_kernels(kernels, *table);
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
      levels.unused.push_back({level.name, reason});
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
