// x86-64: CPUID, the register state that the system saves, and MXCSR.
#include <cpuid.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <initializer_list>
#include <string_view>

#include "platform/processor.h"
#include "platform/system.h"

namespace llama_rt {
namespace {

struct Registers {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

bool has_bits(uint64_t value, uint64_t mask) { return (value & mask) == mask; }

constexpr uint64_t bits(std::initializer_list<int> positions) {
  uint64_t mask = 0;
  for (int p : positions) mask |= uint64_t{1} << p;
  return mask;
}

// XCR0: which register state the operating system saves. Only call with OSXSAVE set.
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t{high} << 32 | low;
}

// Zen 4 reads a stream at the memory's speed by itself, and 10 to 25 % slower when every line is
// asked for ahead as well; on Granite Rapids asking is worth a sixth (docs/performance_story.md).
bool prefetches_alone() {
  constexpr uint32_t kAuth = 0x68747541;  // "Auth", the beginning of "AuthenticAMD"
  return cpuid(0, 0).ebx == kAuth;
}

constexpr uint32_t kStatusFlags = 0x3f;  // of MXCSR: sticky, they stay per thread

}  // namespace

// Bit positions: Intel SDM volume 2, CPUID leaves 1 and 7; volume 1, section 13.3 for XCR0.
void detect_isa(CpuInfo& info) {
  info.prefetches = prefetches_alone();
  const Registers leaf1 = cpuid(1, 0), leaf7 = cpuid(7, 0), leaf7_1 = cpuid(7, 1);
  constexpr uint64_t kFma = 12, kOsxsave = 27, kAvx = 28, kF16c = 29;
  if (!has_bits(leaf1.ecx, uint64_t{1} << kOsxsave)) return;
  const uint64_t state = saved_state();
  constexpr uint64_t kYmm = bits({1, 2});            // SSE, AVX
  constexpr uint64_t kZmm = kYmm | bits({5, 6, 7});  // opmask, ZMM_Hi256, Hi16_ZMM
  constexpr uint64_t kTiles = bits({17, 18});        // XTILECFG, XTILEDATA
  info.avx2 = has_bits(state, kYmm) && has_bits(leaf1.ecx, bits({kFma, kAvx, kF16c})) &&
              has_bits(leaf7.ebx, bits({5, 8}));  // AVX2, BMI2
  info.avx2_vnni = info.avx2 && has_bits(leaf7_1.eax, bits({4}));
  info.avx512 = info.avx2 && has_bits(state, kZmm) &&
                has_bits(leaf7.ebx, bits({16, 17, 30, 31})) &&  // F, DQ, BW, VL
                has_bits(leaf7.ecx, bits({11}));                // VNNI
  info.avx512_bf16 = info.avx512 && has_bits(leaf7_1.eax, bits({5}));
  info.amx = info.avx512_bf16 && has_bits(state, kTiles) &&
             has_bits(leaf7.ecx, bits({1})) &&           // VBMI
             has_bits(leaf7.edx, bits({22, 24, 25})) &&  // BF16, TILE, INT8
             request_tile_permission();
}

std::string processor_name() {
  if (cpuid(0x80000000u, 0).eax < 0x80000004u) return {};
  std::array<char, 49> text{};
  for (uint32_t i = 0; i < 3; ++i) {
    const Registers r = cpuid(0x80000002u + i, 0);
    std::memcpy(text.data() + 16 * i, &r, sizeof(r));
  }
  const std::string_view all(text.data());
  const size_t begin = std::min(all.find_first_not_of(' '), all.size());
  const size_t end = all.find_last_not_of(' ');
  return std::string(all.substr(begin, end == std::string_view::npos ? 0 : end + 1 - begin));
}

void spin_pause() { _mm_pause(); }

uint64_t fp_control() { return _mm_getcsr() & ~kStatusFlags; }

void set_fp_control(uint64_t control) {
  const uint32_t now = _mm_getcsr(), wanted = static_cast<uint32_t>(control);
  if ((now & ~kStatusFlags) != wanted) _mm_setcsr((now & kStatusFlags) | wanted);
}

}  // namespace llama_rt
