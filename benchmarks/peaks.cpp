// What this processor's multiply instructions give with operands in registers: a JSON object of
// multiply-adds per second of all threads together, by instruction.
//   g++ -std=c++20 -O2 -pthread benchmarks/peaks.cpp -o peaks && ./peaks [threads]
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int kChains = 12;  // independent sums, enough to hide the latency of one product
constexpr int64_t kLoops = 2'000'000;
constexpr int kRuns = 5;

// Sums are named one by one: an array of them would be kept in memory.
#define EACH(what) \
  what(0) what(1) what(2) what(3) what(4) what(5) what(6) what(7) what(8) what(9) what(10) what(11)
#define DECLARE(c) auto s##c = zero;
#define MULTIPLY(c)     \
  s##c = PRODUCT(s##c); \
  asm volatile("" : "+v"(s##c));
#define REPEAT                           \
  EACH(DECLARE)                          \
  for (int64_t i = 0; i < kLoops; ++i) { \
    EACH(MULTIPLY)                       \
  }

__attribute__((target("avx2,fma"))) void fma256() {
#define PRODUCT(s) _mm256_fmadd_ps(a, a, s)
  const __m256 a = _mm256_set1_ps(0.5f), zero = _mm256_setzero_ps();
  REPEAT
#undef PRODUCT
}

__attribute__((target("avx512f"))) void fma512() {
#define PRODUCT(s) _mm512_fmadd_ps(a, a, s)
  const __m512 a = _mm512_set1_ps(0.5f), zero = _mm512_setzero_ps();
  REPEAT
#undef PRODUCT
}

__attribute__((target("avx512f,avx512vnni"))) void vnni512() {
#define PRODUCT(s) _mm512_dpbusd_epi32(s, a, a)
  const __m512i a = _mm512_set1_epi8(1), zero = _mm512_setzero_si512();
  REPEAT
#undef PRODUCT
}

__attribute__((target("avx512f,avx512bf16"))) void bf16_512() {
#define PRODUCT(s) _mm512_dpbf16_ps(s, a, a)
  const auto a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f00));
  const __m512 zero = _mm512_setzero_ps();
  REPEAT
#undef PRODUCT
}

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
TileConfig tiles;  // not on the stack: the compiler may drop stores that only the load reads

template <bool kInt8>
__attribute__((target("amx-tile,amx-int8,amx-bf16"))) void amx() {
  _tile_loadconfig(&tiles);
  for (int64_t i = 0; i < kLoops / 8; ++i) {
    if constexpr (kInt8) {
      _tile_dpbusd(0, 4, 6);
      _tile_dpbusd(1, 4, 7);
      _tile_dpbusd(2, 5, 6);
      _tile_dpbusd(3, 5, 7);
    } else {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_release();
}

bool tiles_allowed() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, arch_prctl(2)
  unsigned eax = 7, ebx, ecx = 0, edx;
  asm("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  return (edx >> 22 & 1) && (edx >> 24 & 1) && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

struct Instruction {
  const char* name;
  bool there;
  void (*run)();
  double macs;  // of one run
};

double rate(const Instruction& instruction, int threads) {
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> workers;
    for (int t = 0; t < threads; ++t) workers.emplace_back(instruction.run);
    for (auto& worker : workers) worker.join();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    best = std::max(best, instruction.macs * threads / spent.count());
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads =
      argc > 1 ? std::atoi(argv[1]) : static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const bool tiled = tiles_allowed();
  constexpr double kVectors = static_cast<double>(kLoops) * kChains;
  constexpr double kTiles = static_cast<double>(kLoops) / 8 * 4;
  const Instruction instructions[] = {
      {"fma256", __builtin_cpu_supports("fma") != 0, fma256, kVectors * 8},
      {"fma512", __builtin_cpu_supports("avx512f") != 0, fma512, kVectors * 16},
      {"vpdpbusd512", __builtin_cpu_supports("avx512vnni") != 0, vnni512, kVectors * 64},
      {"vdpbf16ps512", __builtin_cpu_supports("avx512bf16") != 0, bf16_512, kVectors * 32},
      {"amx_bf16", tiled, amx<false>, kTiles * 16 * 16 * 32},
      {"amx_int8", tiled, amx<true>, kTiles * 16 * 16 * 64},
  };
  std::string line = "{";
  for (const Instruction& i : instructions) {
    if (!i.there) continue;
    char text[64];
    std::snprintf(text, sizeof text, "%s\"%s\": %.4g", line.size() > 1 ? ", " : "", i.name,
                  rate(i, threads));
    line += text;
  }
  std::puts((line + "}").c_str());
}
