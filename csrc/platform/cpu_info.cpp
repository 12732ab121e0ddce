#include "platform/cpu_info.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <set>
#include <string_view>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "platform/cgroup.h"

namespace llama_rt {
namespace {

constexpr int kMaxThreads = 1024;

#if defined(__x86_64__)

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

// Linux hands out the 8 KiB of tile state per process and only on request (since 5.16).
bool request_tile_permission() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long kReqXcompPerm = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kXtileData = 18;         // its bit in XCR0
  return syscall(SYS_arch_prctl, kReqXcompPerm, kXtileData) == 0;
#else
  return false;
#endif
}

// Bit positions: Intel SDM volume 2, CPUID leaves 1 and 7; volume 1, section 13.3 for XCR0.
void detect_tiers(CpuInfo& info) {
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

// Zen 4 reads a stream at the memory's speed by itself, and 10 to 25 % slower when every line is
// asked for ahead as well; on Granite Rapids asking is worth a sixth (docs/performance.md).
bool prefetches_alone() {
  constexpr uint32_t kAuth = 0x68747541;  // "Auth", the beginning of "AuthenticAMD"
  return cpuid(0, 0).ebx == kAuth;
}

std::string brand_string() {
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

#else

void detect_tiers(CpuInfo&) {}
bool prefetches_alone() { return false; }
std::string brand_string() { return {}; }

#endif

// The CPUs in the calling thread's affinity mask; the mask has no fixed size, so it is asked for
// with larger and larger buffers.
std::vector<int> affinity() {
  std::vector<int> cpus;
  for (int capacity = 1024; capacity <= 1 << 20; capacity *= 2) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(
        CPU_ALLOC(static_cast<size_t>(capacity)), [](cpu_set_t* s) { CPU_FREE(s); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(capacity));
    if (!set) break;
    if (sched_getaffinity(0, bytes, set.get()) != 0) continue;
    for (int cpu = 0; cpu < capacity; ++cpu) {
      if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set.get())) cpus.push_back(cpu);
    }
    break;
  }
  return cpus;
}

// CPUs that share a core list the same siblings; without topology every CPU is its own core.
int count_cores(const std::vector<int>& cpus) {
  std::set<std::string> cores;
  for (const int cpu : cpus) {
    const std::string number = std::to_string(cpu);
    const auto siblings =
        read_text_file("/sys/devices/system/cpu/cpu" + number + "/topology/thread_siblings_list");
    cores.insert(siblings && !siblings->empty() ? *siblings : "cpu" + number);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

CpuInfo detect() {
  CpuInfo info;
  detect_tiers(info);
  info.prefetches = prefetches_alone();
  info.model = brand_string();
  const std::vector<int> cpus = affinity();
  info.cores = std::max(1, static_cast<int>(cpus.size()));
  info.physical_cores = count_cores(cpus);
  info.quota = cgroup_quota("");
  info.default_threads = info.physical_cores;
  if (info.quota > 0) {
    const double whole = std::max(1.0, std::floor(info.quota));
    info.default_threads = static_cast<int>(std::min<double>(info.default_threads, whole));
  }
  const int asked = parse_thread_count(std::getenv("LLAMA_RT_THREADS"));
  if (asked > 0) info.default_threads = asked;
  return info;
}

}  // namespace

std::vector<std::string> CpuInfo::tiers() const {
  std::vector<std::string> names{"scalar"};
  if (avx2) names.emplace_back("avx2");
  if (avx2_vnni) names.emplace_back("avx2_vnni");
  if (avx512) names.emplace_back("avx512");
  if (avx512_bf16) names.emplace_back("avx512_bf16");
  if (amx) names.emplace_back("amx");
  return names;
}

const CpuInfo& cpu_info() {
  static const CpuInfo info = detect();
  return info;
}

int parse_thread_count(const char* text) {
  if (text == nullptr) return 0;
  const std::string_view digits(text);
  int value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const bool whole = error == std::errc{} && end == digits.data() + digits.size();
  return whole && value >= 1 && value <= kMaxThreads ? value : 0;
}

}  // namespace llama_rt
