
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "core/error.h"
#include "platform/memory.h"
#include "platform/thread_pool.h"

namespace llama_rt {
namespace {

constexpr size_t kBlock = 256;  // bytes read from one stream before turning to the next
constexpr size_t kMaxStreams = 4;
constexpr size_t kChunk = kMaxStreams * 64 * 1024;
constexpr int64_t kFilledAtOnce = 512;  // chunks: pages that are touched first come slowly

using Words = uint64_t __attribute__((vector_size(16), aligned(16), may_alias));

// Sum of the 64-bit words of [data, data + bytes), bytes a multiple of kChunk: `Streams` places
// read in turn, `Ahead` bytes prefetched (0: left to the processor) to the cache of `Locality`.
template <size_t Streams, size_t Ahead, int Locality>
uint64_t consume(const std::byte* data, size_t bytes) {
  const size_t length = bytes / Streams;
  Words sum[4] = {};
  for (size_t at = 0; at < length; at += kBlock) {
    for (size_t s = 0; s < Streams; ++s) {
      const std::byte* block = data + s * length + at;
      if constexpr (Ahead > 0) {
        for (size_t i = 0; i < kBlock; i += 64) __builtin_prefetch(block + Ahead + i, 0, Locality);
      }
      const auto* words = reinterpret_cast<const Words*>(block);
      for (size_t i = 0; i < kBlock / sizeof(Words); ++i) sum[i % 4] += words[i];
    }
  }
  const Words all = sum[0] + sum[1] + sum[2] + sum[3];
  return all[0] + all[1];
}

// Which pattern a processor likes best differs: on one, four streams with prefetches to L1 read a
// sixth more than a plain loop, on another less. All are tried; the fastest is the machine's.
constexpr uint64_t (*kPatterns[])(const std::byte*, size_t) = {
    consume<4, 1536, 3>, consume<1, 0, 3>, consume<4, 4096, 2>, consume<2, 2048, 3>};
constexpr size_t kPatternCount = sizeof(kPatterns) / sizeof(kPatterns[0]);

void check_arguments(int threads, size_t bytes, double seconds) {
  if (threads < 1) {
    throw ConfigError("read_bandwidth: threads must be at least 1, got " + std::to_string(threads));
  }
  if (bytes < kChunk) {
    throw ConfigError("read_bandwidth: buffer_bytes must be at least " + std::to_string(kChunk) +
                      ", got " + std::to_string(bytes));
  }
  if (!(seconds > 0) || seconds > 3600) {
    throw ConfigError("read_bandwidth: seconds must be in (0, 3600], got " +
                      std::to_string(seconds));
  }
  const uint64_t available = available_memory();
  if (bytes > available) {
    throw CapacityError("read_bandwidth: the buffer needs " + std::to_string(bytes) +
                        " bytes, available are " + std::to_string(available));
  }
}

}  // namespace

double read_bandwidth(int threads, size_t buffer_bytes, double seconds,
                      FunctionRef<void()> between) {
  using Clock = std::chrono::steady_clock;
  check_arguments(threads, buffer_bytes, seconds);
  const HostBuffer buffer(buffer_bytes);
  const auto chunks = static_cast<int64_t>(buffer_bytes / kChunk);
  const auto begin_of = [&](int64_t chunk) {
    return buffer.data() + static_cast<size_t>(chunk) * kChunk;
  };
  for (int64_t filled = 0; filled < chunks; filled += kFilledAtOnce) {
    between();
    parallel_for(
        threads, std::min(kFilledAtOnce, chunks - filled), [&](int64_t begin, int64_t end, int) {
          auto* words = reinterpret_cast<uint64_t*>(begin_of(filled + begin));
          const size_t count = static_cast<size_t>(end - begin) * kChunk / sizeof(uint64_t);
          for (size_t i = 0; i < count; ++i) words[i] = i * 0x9e3779b97f4a7c15u + 1;
        });
  }

  const ThreadPool::Lease lease(threads);
  std::atomic<uint64_t> total{0};
  double best = 0;
  const auto start = Clock::now();
  for (size_t pass = 0;
       pass < kPatternCount || Clock::now() - start < std::chrono::duration<double>(seconds);
       ++pass) {
    between();
    const auto pattern = kPatterns[pass % kPatternCount];
    const auto pass_start = Clock::now();
    parallel_for(threads, chunks, [&](int64_t begin, int64_t end, int) {
      total += pattern(begin_of(begin), static_cast<size_t>(end - begin) * kChunk);
    });
    const std::chrono::duration<double> elapsed = Clock::now() - pass_start;
    best =
        std::max(best, static_cast<double>(chunks) * static_cast<double>(kChunk) / elapsed.count());
  }
  // Using the sum keeps the reads: a loop whose result is dropped becomes prefetches alone.
  const volatile uint64_t sink = total.load();
  static_cast<void>(sink);
  return best;
}

}  // namespace llama_rt
