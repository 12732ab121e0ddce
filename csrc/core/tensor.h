// Shape, View, Storage, Tensor: what memory looks like, and who keeps it alive.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace llama_rt {

// Up to three extents, slowest first; the last one is contiguous.
struct Shape {
  std::array<int64_t, 3> extent{};
  int rank = 0;

  Shape() = default;
  explicit Shape(int64_t a) : extent{a, 0, 0}, rank(1) {}
  Shape(int64_t a, int64_t b) : extent{a, b, 0}, rank(2) {}
  Shape(int64_t a, int64_t b, int64_t c) : extent{a, b, c}, rank(3) {}

  int64_t operator[](int i) const { return extent[static_cast<size_t>(i)]; }
  int64_t rows() const;  // product of all but the last extent
  int64_t row() const;   // the last extent
  int64_t elements() const { return rows() * row(); }
  bool operator==(const Shape& other) const = default;
  std::string text() const;  // "[3, 4]"
};

// Memory as a matrix of contiguous rows; owns nothing, trivially copyable.
struct View {
  std::byte* data = nullptr;
  DType dtype = DType::kF32;
  Shape shape;
  int64_t row_stride = 0;  // bytes from one row to the next

  float* f32(int64_t row = 0) const { return reinterpret_cast<float*>(data + row * row_stride); }
};

// A float32 view over contiguous memory.
View f32_view(float* data, Shape shape);

// Bytes on one device, freed by whoever made them.
class Storage {
 public:
  // Memory that belongs to someone else; `release` is called once when it is no longer needed.
  static std::shared_ptr<Storage> borrow(std::byte* data, size_t bytes,
                                         std::function<void()> release);
  // Host memory of the C++ heap, 64-byte aligned; throws std::bad_alloc.
  static std::shared_ptr<Storage> allocate(size_t bytes);

  Storage(std::byte* data, size_t bytes, std::function<void()> release);
  ~Storage();
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;

  std::byte* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_;
  size_t bytes_;
  std::function<void()> release_;
};

// A view and the storage that keeps it alive. Construction is the one place that checks shape and
// element type against the byte length; nothing later trusts a file.
struct Tensor {
  View view;
  std::shared_ptr<Storage> storage;

  Tensor() = default;
  // Throws ShapeError, naming `what`, unless `storage` holds exactly `shape` elements of `dtype`.
  Tensor(std::shared_ptr<Storage> storage, DType dtype, Shape shape, const std::string& what);
};

// Stored elements to float32, for small tensors: matmuls have their own decoding in each backend.
// `count` elements; they must fill whole blocks.
void decode_floats(DType dtype, const std::byte* data, int64_t count, float* out);
// Rounded to IEEE halves.
void encode_halves(const float* values, int64_t count, uint16_t* out);

// A whole tensor as float32.
std::vector<float> to_floats(const Tensor& tensor);

}  // namespace llama_rt
