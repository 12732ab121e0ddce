#include "platform/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <new>
#include <utility>

#include "platform/system.h"

namespace llama_rt {
namespace {

size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A mapping on a 2 MiB boundary: one huge page more than needed, the ends cut off.
std::byte* map_huge(size_t bytes) {
  constexpr size_t kPage = HostBuffer::kHugePage;
  const size_t reserved = bytes + kPage;
  void* mapping =
      mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(mapping);
  const auto address = reinterpret_cast<uintptr_t>(begin);
  const size_t head = round_up(address, kPage) - address;
  if (head > 0) munmap(begin, head);
  munmap(begin + head + bytes, kPage - head);
  prefer_huge_pages(begin + head, bytes);
  return begin + head;
}

}  // namespace

HostBuffer::HostBuffer(size_t bytes) {
  if (bytes == 0) return;
  if (bytes > std::numeric_limits<size_t>::max() / 2) throw std::bad_alloc();
  if (bytes >= kHugeBytes) {
    data_ = map_huge(round_up(bytes, kHugePage));
  } else {
    data_ = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlignment}));
  }
  bytes_ = bytes;
}

HostBuffer::~HostBuffer() {
  if (data_ == nullptr) return;
  if (bytes_ >= kHugeBytes) {
    munmap(data_, round_up(bytes_, kHugePage));
  } else {
    ::operator delete(data_, std::align_val_t{kAlignment});
  }
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

std::shared_ptr<std::byte> HostArena::take(size_t bytes) {
  constexpr size_t kMapping = size_t{256} << 20, kPage = 4096;
  const std::scoped_lock lock(mutex_);
  std::shared_ptr<HostBuffer> buffer = current_.lock();
  if (!buffer || buffer->size() - used_ < bytes) {
    buffer = std::make_shared<HostBuffer>(std::max(bytes, kMapping));
    current_ = buffer;
    used_ = 0;
  }
  std::byte* data = buffer->data() + used_;
  used_ = std::min(round_up(used_ + bytes, kPage), buffer->size());
  return {std::move(buffer), data};
}

uint64_t available_memory() {
  return system_available_memory().value_or(std::numeric_limits<uint64_t>::max());
}

void advise_dontneed(const void* data, size_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = round_up(address, page);  // whole pages only: neighbours keep theirs
  const uintptr_t end = (address + bytes) / page * page;
  if (data != nullptr && begin < end) drop_file_pages(begin, end);
}

}  // namespace llama_rt
