// A bump arena over one storage, sized once: activations of a step live here, nothing is allocated
// inside a step.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/tensor.h"

namespace llama_rt {

class Workspace {
 public:
  explicit Workspace(std::shared_ptr<Storage> storage) : storage_(std::move(storage)) {}

  void reset() { used_ = 0; }

  // Uninitialised float32 memory of `shape`, 64-byte aligned, valid until reset.
  View f32(Shape shape) {
    const size_t bytes = aligned(static_cast<size_t>(shape.elements()) * sizeof(float));
    if (used_ + bytes > storage_->bytes()) {
      throw CapacityError("workspace of " + std::to_string(storage_->bytes()) +
                          " bytes is too small for " + shape.text());
    }
    std::byte* data = storage_->data() + used_;
    used_ += bytes;
    return f32_view(reinterpret_cast<float*>(data), shape);
  }

  size_t bytes() const { return storage_->bytes(); }
  static size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

 private:
  std::shared_ptr<Storage> storage_;
  size_t used_ = 0;
};

}  // namespace llama_rt
