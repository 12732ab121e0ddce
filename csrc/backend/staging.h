// What changes from step to step (tokens, rotations, positions, pages): written on the host, sent
// in one copy to the backend's memory, at addresses that depend on the amounts alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace llama_rt {

class Staging {
 public:
  explicit Staging(Backend& backend) : backend_(backend) {}

  // Values of one kind in both memories; the same memory where the host can write the backend's.
  template <class T>
  struct Array {
    T* host = nullptr;
    T* device = nullptr;
  };

  // Starts again, with room for `bytes` (see bytes_of).
  void begin(size_t bytes);
  template <class T>
  Array<T> take(int64_t count) {
    const size_t offset = advance(bytes_of<T>(count));
    return {reinterpret_cast<T*>(host_ + offset), reinterpret_cast<T*>(device_->data() + offset)};
  }
  // The segments as kernels read them: `page_stride` pages for each, unused ones page 0.
  SegmentTable segments(std::span<const Segment> segments, int64_t page_stride);
  // Makes what was written since `begin` visible to the ops that follow.
  void send();

  // Counts how often the addresses changed.
  uint64_t generation() const { return generation_; }

  template <class T>
  static size_t bytes_of(int64_t count) {
    return (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
  }
  static size_t segment_bytes(int64_t rows, int64_t segments, int64_t page_stride) {
    return 2 * bytes_of<int32_t>(rows) + bytes_of<int32_t>(segments + 1) +
           bytes_of<int32_t>(segments * page_stride);
  }

 private:
  static constexpr size_t kAlignment = 64;
  size_t advance(size_t bytes);

  Backend& backend_;
  std::shared_ptr<Storage> device_;
  std::vector<std::byte> image_;  // empty where the host writes in place
  std::byte* host_ = nullptr;
  size_t used_ = 0;
  uint64_t generation_ = 0;
};

}  // namespace llama_rt
