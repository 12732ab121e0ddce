// Speed of what the amx level does on the matrix unit, products by format and number of inputs and
// attention by type of cache, beside what the unit gives with resident tiles. About a minute. Needs
// a processor with tiles. Build and run from the project's folder:
//   g++ -std=c++20 -O3 -march=sapphirerapids -DLLAMA_RT_LEVEL=amx
//     -DLLAMA_RT_SIMD='"cpu/kernels/x86/avx512/simd.h"' -Icsrc benchmarks/tile_products.cpp
//     csrc/cpu/kernel_table.cpp csrc/cpu/kernels/x86/amx/*.cpp -pthread -o tile_products
//   ./tile_products [threads] [rows] [k]
// The sizes to tune are at the top of csrc/cpu/kernels/x86/amx/blocked_gemm.h: try kBlockTiles 8
// with kGemmTokens 512, and 16 and 32 with 256. What expanding the weights costs is the distance of
// a quantized format from bf16. F16 and F32 take three products for one, so a third of the unit is
// their limit.
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "cpu/kernel_table.h"
#include "cpu/kernels/gemm/panel.h"
#include "cpu/kernels/x86/amx/blocked_gemm.h"

namespace {

using namespace llama_rt;
using namespace llama_rt::cpu;
using namespace llama_rt::cpu::amx;

constexpr int kRuns = 7;

struct Format {
  const char* name;
  DType dtype;
  int64_t (*panel_bytes)(int64_t k);
};
constexpr Format kFormats[] = {
    {"bf16", DType::kBF16, [](int64_t k) { return k / 2 * kLine; }},
    {"f16", DType::kF16, [](int64_t k) { return k / 2 * kLine; }},
    {"f32", DType::kF32, [](int64_t k) { return k * kLine; }},
    {"q4_0", DType::kQ4_0, ShapeQ4_0::bytes},
    {"q4_1", DType::kQ4_1, ShapeQ4_1::bytes},
    {"q5_0", DType::kQ5_0, ShapeQ5_0::bytes},
    {"q5_1", DType::kQ5_1, ShapeQ5_1::bytes},
    {"q8_0", DType::kQ8_0, ShapeQ8_0::bytes},
    {"q2_k", DType::kQ2_K, ShapeQ2_K::bytes},
    {"q3_k", DType::kQ3_K, ShapeQ3_K::bytes},
    {"q4_k", DType::kQ4_K, ShapeQ4_K::bytes},
    {"q5_k", DType::kQ5_K, ShapeQ5_K::bytes},
    {"q6_k", DType::kQ6_K, ShapeQ6_K::bytes},
};

struct Free {
  void operator()(std::byte* p) const { std::free(p); }
};
using Bytes = std::unique_ptr<std::byte, Free>;

// Bytes that make small positive numbers of every type of scale.
Bytes filled(int64_t bytes) {
  Bytes memory(
      static_cast<std::byte*>(std::aligned_alloc(64, static_cast<size_t>((bytes + 63) / 64 * 64))));
  std::minstd_rand random(1);
  for (int64_t i = 0; i < bytes; ++i) {
    memory.get()[i] = static_cast<std::byte>(0x20 + random() % 0x1c);
  }
  return memory;
}

// Seconds of the middle of several runs, every thread doing body(thread).
template <class Body>
double seconds(int threads, Body body) {
  std::vector<double> times;
  for (int run = 0; run < kRuns; ++run) {
    const auto start = std::chrono::steady_clock::now();
    std::vector<std::thread> others;
    for (int t = 1; t < threads; ++t) others.emplace_back(body, t);
    body(0);
    for (std::thread& other : others) other.join();
    times.push_back(
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  std::ranges::nth_element(times, times.begin() + kRuns / 2);
  return times[kRuns / 2];
}

// Operations per second with four tiles of sums and nothing to load.
double peak(int threads) {
  constexpr int64_t kSteps = 2'000'000;
  const Bytes zeros = filled(kTileBytes);
  const double time = seconds(threads, [&](int) {
    _tile_loadconfig(&kTileConfig);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_loadd(4, zeros.get(), 64);
    _tile_loadd(5, zeros.get(), 64);
    _tile_loadd(6, zeros.get(), 64);
    _tile_loadd(7, zeros.get(), 64);
    for (int64_t i = 0; i < kSteps; ++i) {
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_release();
  });
  return threads * 4.0 * kSteps * 2 * 16 * 16 * 32 / time;
}

double speed(const Format& format, int threads, int64_t rows, int64_t k, int64_t n) {
  Kernels kernels;
  register_kernels(kernels, kTiledFloatMatmul);
  register_kernels(kernels, kTiledQuantizedMatmul);
  const GemmKernel& wide = kernels.packed[static_cast<size_t>(format.dtype)].gemm;
  const ActivationFormat& inputs = kernels.activations[static_cast<size_t>(wide.activation)];
  const int64_t panels = rows / kPanelRows, panel_bytes = format.panel_bytes(k);
  const Bytes weight = filled(panels * panel_bytes);
  const Bytes x = filled((n + 15) / 16 * 16 * inputs.row_bytes(k));
  const Bytes out = filled(n * rows * 4);
  std::vector<Bytes> scratch;
  for (int t = 0; t < threads; ++t) scratch.push_back(filled(kGemmScratch));
  const double time = seconds(threads, [&](int thread) {
    const int64_t begin = panels * thread / threads, end = panels * (thread + 1) / threads;
    for (int64_t panel = begin; panel < end; panel += kGemmPanels) {  // as the backend cuts them
      PackedMatmulTask task;
      task.weight = weight.get();
      task.panel_bytes = panel_bytes;
      task.k = k;
      task.rows = rows;
      task.first_panel = panel;
      task.last_panel = std::min(panel + kGemmPanels, end);
      task.x = x.get();
      task.n = n;
      task.out = reinterpret_cast<float*>(out.get());
      task.out_stride = rows;
      task.scratch = scratch[static_cast<size_t>(thread)].get();
      wide.multiply(task);
    }
  });
  return 2.0 * static_cast<double>(n * k * panels * kPanelRows) / time;
}

// Of 32 heads of width 128: 512 queries behind `past` positions, causal.
double attention_speed(KvType type, int64_t element_bytes, int threads, int64_t past) {
  Kernels kernels;
  register_kernels(kernels, kTiledAttention);
  const PrefillAttention& wide = kernels.kv[static_cast<size_t>(type)].prefill;
  constexpr int64_t kHeads = 32, kWidth = 128, kRows = 512,
                    kUnits = kHeads * kRows / kPrefillVectors;
  const int64_t pages = (past + kRows) / kPageTokens;
  // The 8-bit type has a scale for each position and 32 features.
  const int64_t head_bytes = kPageTokens * 2 * (kWidth * element_bytes + kWidth / 32 * 4);
  const Bytes cache = filled(pages * kHeads * head_bytes);
  const Bytes q = filled(kRows * kHeads * kWidth * 4);
  std::vector<int32_t> order(static_cast<size_t>(pages));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::vector<Bytes> scratch, acc;
  for (int t = 0; t < threads; ++t) {
    scratch.push_back(filled(wide.scratch_bytes(kPrefillVectors, kWidth)));
    acc.push_back(filled(kPrefillVectors * (kWidth + 2) * 4));
  }
  const double time = seconds(threads, [&](int thread) {
    const auto own = static_cast<size_t>(thread);
    for (int64_t unit = thread; unit < kUnits; unit += threads) {
      const int64_t head = unit % kHeads, row = unit / kHeads * kPrefillVectors;
      AttentionTask task;
      task.q = reinterpret_cast<const float*>(q.get()) + (row * kHeads + head) * kWidth;
      task.q_stride = kHeads * kWidth;
      task.rows = kPrefillVectors;
      task.group = 1;
      task.e = kWidth;
      task.scale = 0.1f;
      task.past = past + row;
      task.end = task.last = task.past + task.rows;
      task.base = cache.get() + head * head_bytes;
      task.page_bytes = kHeads * head_bytes;
      task.pages = order.data();
      task.acc = reinterpret_cast<float*>(acc[own].get());
      task.max = task.acc + kPrefillVectors * kWidth;
      task.sum = task.max + kPrefillVectors;
      task.scratch = reinterpret_cast<float*>(scratch[own].get());
      wide.attend(task);
    }
  });
  const double seen = kRows * (static_cast<double>(past) + (kRows + 1) / 2.0);
  return 4 * seen * kHeads * kWidth / time;
}

}  // namespace

int main(int argc, char** argv) {
  const int threads = argc > 1 ? std::atoi(argv[1]) : 2;
  const int64_t rows = argc > 2 ? std::atoll(argv[2]) : 11008;
  const int64_t k = argc > 3 ? std::atoll(argv[3]) : 4096;
  if (threads < 1 || rows < 16 || rows % 16 != 0 || k < 256 || k % 256 != 0) {
    std::fprintf(stderr, "threads >= 1, rows a multiple of 16, k of 256\n");
    return 1;
  }
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // arch_prctl, XCR0
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) {
    std::fprintf(stderr, "this machine has no tiles\n");
    return 1;
  }
  const double limit = peak(threads);
  std::printf("%d threads, %ld x %ld, matrix unit %.2f TFLOP/s\n%-6s", threads,
              static_cast<long>(rows), static_cast<long>(k), limit / 1e12, "");
  constexpr int64_t kTokens[] = {16, 32, 128, 256, 512};
  for (const int64_t n : kTokens) std::printf("  n = %-8ld", static_cast<long>(n));
  std::printf("\n");
  for (const Format& format : kFormats) {
    std::printf("%-6s", format.name);
    for (const int64_t n : kTokens) {
      const double reached = speed(format, threads, rows, k, n);
      std::printf("  %5.2f (%2.0f %%)", reached / 1e12, 100 * reached / limit);
      std::fflush(stdout);
    }
    std::printf("\n");
  }
  struct Cache {
    const char* name;
    KvType type;
    int64_t bytes;
  };
  std::printf("attention of 512 queries behind 0, 1536, 7680 positions, without what is masked\n");
  for (const Cache& cache : {Cache{"f16", KvType::kF16, 2}, Cache{"bf16", KvType::kBF16, 2},
                             Cache{"q8_0", KvType::kQ8, 1}}) {
    std::printf("%-6s", cache.name);
    for (const int64_t past : {0, 1536, 7680}) {
      const double reached = attention_speed(cache.type, cache.bytes, threads, past);
      std::printf("  %5.2f (%2.0f %%)", reached / 1e12, 100 * reached / limit);
      std::fflush(stdout);
    }
    std::printf("\n");
  }
}
