// Host memory: aligned and huge-page buffers, how much is free and how fast it is read, giving
// source pages back. Owns allocation only; who touches the pages first, and so where they lie,
// belongs to the user.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>

#include "core/function_ref.h"

namespace llama_rt {

// Uninitialised host memory with one owner. Small buffers are 64-byte aligned; from kHugeBytes on
// they are 2 MiB aligned, untouched (zero when first read) and backed by huge pages where the
// system grants them. Touch large buffers from the threads that will read them.
class HostBuffer {
 public:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kHugePage = size_t{2} << 20;
  static constexpr size_t kHugeBytes = 2 * kHugePage;

  HostBuffer() = default;
  // Throws std::bad_alloc when the system refuses.
  explicit HostBuffer(size_t bytes);
  ~HostBuffer();
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  HostBuffer(const HostBuffer&) = delete;
  HostBuffer& operator=(const HostBuffer&) = delete;

  std::byte* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Buffers one behind the other in large mappings: each alone would end within a huge page, which
// for the matrices of a 7B model adds 8 % to their memory. A mapping lives as long as a piece of
// it; what of it was never touched takes no memory. Safe to use from several threads.
class HostArena {
 public:
  // Untouched memory on a page boundary. Throws std::bad_alloc when the system refuses.
  std::shared_ptr<std::byte> take(size_t bytes);

 private:
  std::mutex mutex_;
  std::weak_ptr<HostBuffer> current_;
  size_t used_ = 0;  // bytes of it
};

// Bytes that can be allocated and touched now: the least of what the machine has (MemAvailable)
// and what the control groups leave, file cache counted as free.
uint64_t available_memory();

// Tells the system that [data, data + bytes) will not be read again soon. Loses nothing: pages of
// a shared file mapping are unmapped (they stay in the page cache and come back when touched),
// all other memory is left as it is.
void advise_dontneed(const void* data, size_t bytes);

// Bytes per second of the fastest pass of `threads` pool threads over a buffer of `buffer_bytes`
// (huge pages, every byte read and used). Passes try several access patterns in turn, each at
// least once, and repeat for about `seconds`.
// Give at least 2 GiB to measure memory: last-level caches of 480 MiB exist.
//
// `between` is called several times a second and may throw to end the measurement.
//
// Throws ConfigError on a thread count, size or time that is not positive, CapacityError when the
// buffer does not fit the memory that is available.
double read_bandwidth(int threads, size_t buffer_bytes, double seconds,
                      FunctionRef<void()> between);

}  // namespace llama_rt
