// Host memory: aligned and huge-page buffers, how much is free, giving source pages back.
// Owns allocation only; who touches the pages first, and so where they lie, belongs to the user.
#pragma once

#include <cstddef>
#include <cstdint>

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

// Bytes that can be allocated and touched now: the least of what the machine has (MemAvailable)
// and what the control groups leave, file cache counted as free.
uint64_t available_memory();

// Tells the system that [data, data + bytes) will not be read again soon. Loses nothing: pages of
// a shared file mapping are unmapped (they stay in the page cache and come back when touched),
// all other memory is left as it is.
void advise_dontneed(const void* data, size_t bytes);

}  // namespace llama_rt
