#include "backend/staging.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace llama_rt {

void Staging::begin(size_t bytes) {
  used_ = 0;
  if (device_ && device_->bytes() >= bytes) return;
  const size_t room = std::max<size_t>(bytes + bytes / 2, 4096);
  device_ = backend_.allocate(room);
  ++generation_;
  if (backend_.host_memory()) {
    host_ = device_->data();
  } else {
    image_.resize(room);
    host_ = image_.data();
  }
}

size_t Staging::advance(size_t bytes) {
  if (!device_ || used_ + bytes > device_->bytes()) {
    throw CapacityError("staging of " + std::to_string(device_ ? device_->bytes() : 0) +
                        " bytes is too small for " + std::to_string(used_ + bytes));
  }
  used_ += bytes;
  return used_ - bytes;
}

SegmentTable Staging::segments(std::span<const Segment> segments, int64_t page_stride) {
  const auto count = static_cast<int64_t>(segments.size());
  const int64_t rows = count > 0 ? segments.back().first_row + segments.back().rows : 0;
  const auto positions = take<int32_t>(rows), segment_of = take<int32_t>(rows);
  const auto first_row = take<int32_t>(count + 1), pages = take<int32_t>(count * page_stride);
  for (int64_t i = 0; i < count; ++i) {
    const Segment& s = segments[static_cast<size_t>(i)];
    first_row.host[i] = static_cast<int32_t>(s.first_row);
    for (int64_t r = 0; r < s.rows; ++r) {
      positions.host[s.first_row + r] = static_cast<int32_t>(s.past + r);
      segment_of.host[s.first_row + r] = static_cast<int32_t>(i);
    }
    const auto held = std::min(static_cast<int64_t>(s.pages.size()), page_stride);
    int32_t* row = pages.host + i * page_stride;
    std::fill(std::copy_n(s.pages.begin(), held, row), row + page_stride, 0);
  }
  first_row.host[count] = static_cast<int32_t>(rows);
  return {positions.device, segment_of.device, first_row.device, pages.device, page_stride};
}

void Staging::send() {
  if (!backend_.host_memory() && used_ > 0) backend_.upload(device_->data(), host_, used_);
}

}  // namespace llama_rt
