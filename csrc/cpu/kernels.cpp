#include "cpu/kernels.h"

#include <algorithm>
#include <cstdlib>

#include "core/error.h"
#include "platform/cpu_info.h"

namespace llama_rt::cpu {
namespace {

struct Tier {
  Isa isa;
  std::string_view name;
  bool (*usable)(const CpuInfo& cpu);
  void (*paint)(Kernels& kernels);
  bool follows_avx2_vnni;  // false where a tier does not build on the client VNNI tier
};

#ifdef LLAMA_RT_X86
constexpr Tier kTiers[] = {
    {Isa::kScalar, "scalar", [](const CpuInfo&) { return true; }, scalar::paint, false},
    {Isa::kAvx2, "avx2", [](const CpuInfo& c) { return c.avx2; }, avx2::paint, false},
    {Isa::kAvx2Vnni, "avx2_vnni", [](const CpuInfo& c) { return c.avx2_vnni; }, avx2_vnni::paint,
     true},
    {Isa::kAvx512, "avx512", [](const CpuInfo& c) { return c.avx512; }, avx512::paint, false},
    {Isa::kAvx512Bf16, "avx512_bf16", [](const CpuInfo& c) { return c.avx512_bf16; },
     avx512_bf16::paint, false},
    {Isa::kAmx, "amx", [](const CpuInfo& c) { return c.amx; }, amx::paint, false},
};
#else
constexpr Tier kTiers[] = {
    {Isa::kScalar, "scalar", [](const CpuInfo&) { return true; }, scalar::paint, false},
};
#endif

Kernels painted(Isa isa) {
  Kernels kernels;
  for (const Tier& tier : kTiers) {
    if (tier.isa > isa || (tier.follows_avx2_vnni && tier.isa != isa)) continue;
    tier.paint(kernels);
    kernels.isa = tier.isa;
  }
  return kernels;
}

const Tier* find(std::string_view name) {
  const auto* tier = std::ranges::find(kTiers, name, &Tier::name);
  return tier == std::end(kTiers) ? nullptr : tier;
}

std::string names() {
  std::string text;
  for (const Tier& tier : kTiers) text += (text.empty() ? "" : ", ") + std::string(tier.name);
  return text;
}

}  // namespace

std::string_view isa_name(Isa isa) { return std::ranges::find(kTiers, isa, &Tier::isa)->name; }

std::vector<Isa> usable_tiers() {
  std::vector<Isa> usable;
  for (const Tier& tier : kTiers) {
    if (tier.usable(cpu_info())) usable.push_back(tier.isa);
  }
  return usable;
}

Isa choose_isa(const std::string& name) {
  const char* cap = name.empty() ? std::getenv("LLAMA_RT_ISA") : nullptr;
  const std::string asked = cap ? cap : name;
  const std::vector<Isa> usable = usable_tiers();
  if (asked.empty()) return usable.back();
  const Tier* tier = find(asked);
  if (!tier) throw ConfigError("unknown isa '" + asked + "', expected one of " + names());
  return *std::ranges::find_if(usable.rbegin(), usable.rend(),
                               [&](Isa isa) { return isa <= tier->isa; });
}

const Kernels& kernels_for(Isa isa) {
#ifdef LLAMA_RT_X86
  static const std::array<Kernels, std::size(kTiers)> tables = {
      painted(Isa::kScalar), painted(Isa::kAvx2),       painted(Isa::kAvx2Vnni),
      painted(Isa::kAvx512), painted(Isa::kAvx512Bf16), painted(Isa::kAmx)};
#else
  static const std::array<Kernels, std::size(kTiers)> tables = {painted(Isa::kScalar)};
#endif
  return tables[static_cast<size_t>(isa)];
}

}  // namespace llama_rt::cpu
