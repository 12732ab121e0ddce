#include <algorithm>
#include <array>
#include <cstdio>
#include <iterator>
#include <string_view>

#include "platform/processor.h"

namespace llama_rt {
namespace {

struct Part {
  uint32_t implementer, part;
  std::string_view name;
};

constexpr uint32_t kArm = 0x41, kCavium = 0x43, kFujitsu = 0x46, kHiSilicon = 0x48, kNvidia = 0x4e,
                   kQualcomm = 0x51, kApple = 0x61, kMicrosoft = 0x6d, kPhytium = 0x70,
                   kAmpere = 0xc0;

constexpr Part kParts[] = {
    {kArm, 0xd01, "Cortex-A32"},
    {kArm, 0xd02, "Cortex-A34"},
    {kArm, 0xd03, "Cortex-A53"},
    {kArm, 0xd04, "Cortex-A35"},
    {kArm, 0xd05, "Cortex-A55"},
    {kArm, 0xd06, "Cortex-A65"},
    {kArm, 0xd07, "Cortex-A57"},
    {kArm, 0xd08, "Cortex-A72"},
    {kArm, 0xd09, "Cortex-A73"},
    {kArm, 0xd0a, "Cortex-A75"},
    {kArm, 0xd0b, "Cortex-A76"},
    {kArm, 0xd0c, "Neoverse-N1"},
    {kArm, 0xd0d, "Cortex-A77"},
    {kArm, 0xd0e, "Cortex-A76AE"},
    {kArm, 0xd40, "Neoverse-V1"},
    {kArm, 0xd41, "Cortex-A78"},
    {kArm, 0xd42, "Cortex-A78AE"},
    {kArm, 0xd43, "Cortex-A65AE"},
    {kArm, 0xd44, "Cortex-X1"},
    {kArm, 0xd46, "Cortex-A510"},
    {kArm, 0xd47, "Cortex-A710"},
    {kArm, 0xd48, "Cortex-X2"},
    {kArm, 0xd49, "Neoverse-N2"},
    {kArm, 0xd4a, "Neoverse-E1"},
    {kArm, 0xd4b, "Cortex-A78C"},
    {kArm, 0xd4c, "Cortex-X1C"},
    {kArm, 0xd4d, "Cortex-A715"},
    {kArm, 0xd4e, "Cortex-X3"},
    {kArm, 0xd4f, "Neoverse-V2"},
    {kArm, 0xd80, "Cortex-A520"},
    {kArm, 0xd81, "Cortex-A720"},
    {kArm, 0xd82, "Cortex-X4"},
    {kArm, 0xd83, "Neoverse-V3AE"},
    {kArm, 0xd84, "Neoverse-V3"},
    {kArm, 0xd85, "Cortex-X925"},
    {kArm, 0xd87, "Cortex-A725"},
    {kArm, 0xd8e, "Neoverse-N3"},
    {kCavium, 0x0a1, "ThunderX"},
    {kCavium, 0x0af, "ThunderX2-99xx"},
    {kCavium, 0x0b8, "ThunderX3-T110"},
    {kFujitsu, 0x001, "A64FX"},
    {kHiSilicon, 0xd01, "TaiShan-v110"},
    {kHiSilicon, 0xd02, "TaiShan-v120"},
    {kNvidia, 0x004, "Carmel"},
    {kQualcomm, 0x001, "Oryon"},
    {kQualcomm, 0x800, "Kryo-2XX-Gold"},
    {kQualcomm, 0x801, "Kryo-2XX-Silver"},
    {kQualcomm, 0x802, "Kryo-3XX-Gold"},
    {kQualcomm, 0x803, "Kryo-3XX-Silver"},
    {kQualcomm, 0x804, "Kryo-4XX-Gold"},
    {kQualcomm, 0x805, "Kryo-4XX-Silver"},
    {kQualcomm, 0xc00, "Falkor"},
    {kApple, 0x022, "Icestorm-M1"},
    {kApple, 0x023, "Firestorm-M1"},
    {kApple, 0x024, "Icestorm-M1-Pro"},
    {kApple, 0x025, "Firestorm-M1-Pro"},
    {kApple, 0x028, "Icestorm-M1-Max"},
    {kApple, 0x029, "Firestorm-M1-Max"},
    {kApple, 0x032, "Blizzard-M2"},
    {kApple, 0x033, "Avalanche-M2"},
    {kApple, 0x034, "Blizzard-M2-Pro"},
    {kApple, 0x035, "Avalanche-M2-Pro"},
    {kApple, 0x038, "Blizzard-M2-Max"},
    {kApple, 0x039, "Avalanche-M2-Max"},
    {kMicrosoft, 0xd49, "Azure-Cobalt-100"},
    {kPhytium, 0x663, "FTC663"},
    {kPhytium, 0x862, "FTC862"},
    {kAmpere, 0xac3, "Ampere-1"},
    {kAmpere, 0xac4, "Ampere-1a"},
};

}  // namespace

std::string arm_part_name(uint64_t midr) {
  const auto implementer = static_cast<uint32_t>(midr >> 24 & 0xff);
  const auto part = static_cast<uint32_t>(midr >> 4 & 0xfff);
  const auto* known = std::ranges::find_if(
      kParts, [&](const Part& p) { return p.implementer == implementer && p.part == part; });
  if (known != std::end(kParts)) return std::string(known->name);
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "ARM (implementer 0x%02x, part 0x%03x)", implementer,
                part);
  return text.data();
}

}  // namespace llama_rt
