#include "core/tensor.h"

#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "core/error.h"

namespace llama_rt {
namespace {

#include "core/codec.inl"

}  // namespace

int64_t Shape::rows() const {
  int64_t product = 1;
  for (int i = 0; i + 1 < rank; ++i) product *= (*this)[i];
  return product;
}

int64_t Shape::row() const { return rank == 0 ? 0 : (*this)[rank - 1]; }

std::string Shape::text() const {
  std::string text = "[";
  for (int i = 0; i < rank; ++i) text += (i ? ", " : "") + std::to_string((*this)[i]);
  return text + "]";
}

View f32_view(float* data, Shape shape) {
  return {reinterpret_cast<std::byte*>(data), DType::kF32, shape,
          shape.row() * static_cast<int64_t>(sizeof(float))};
}

Storage::Storage(std::byte* data, size_t bytes, std::function<void()> release)
    : data_(data), bytes_(bytes), release_(std::move(release)) {}

Storage::~Storage() {
  if (release_) release_();
}

std::shared_ptr<Storage> Storage::borrow(std::byte* data, size_t bytes,
                                         std::function<void()> release) {
  return std::make_shared<Storage>(data, bytes, std::move(release));
}

std::shared_ptr<Storage> Storage::allocate(size_t bytes) {
  constexpr std::align_val_t kAlignment{64};
  auto* data = static_cast<std::byte*>(::operator new(bytes ? bytes : 1, kAlignment));
  return std::make_shared<Storage>(data, bytes,
                                   [data] { ::operator delete(data, std::align_val_t{64}); });
}

Tensor::Tensor(std::shared_ptr<Storage> bytes, DType dtype, Shape shape, const std::string& what)
    : storage(std::move(bytes)) {
  int64_t rows = 1;
  for (int i = 0; i < shape.rank; ++i) {
    if (shape[i] < 0) throw ShapeError(what + ": negative extent in shape " + shape.text());
    if (i + 1 < shape.rank && shape[i] != 0 &&
        rows > std::numeric_limits<int64_t>::max() / shape[i]) {
      throw ShapeError(what + ": shape " + shape.text() + " is too large");
    }
    if (i + 1 < shape.rank) rows *= shape[i];
  }
  int64_t stride = 0;
  try {
    stride = row_bytes(dtype, shape.row());
  } catch (const ShapeError& error) {
    throw ShapeError(what + ": " + error.what());
  }
  const bool overflow = stride != 0 && rows > std::numeric_limits<int64_t>::max() / stride;
  if (overflow || static_cast<uint64_t>(rows * stride) != storage->bytes()) {
    throw ShapeError(what + ": shape " + shape.text() + " of " + std::string(info(dtype).name) +
                     " needs " + (overflow ? "too many" : std::to_string(rows * stride)) +
                     " bytes, got " + std::to_string(storage->bytes()));
  }
  view = {storage->data(), dtype, shape, stride};
}

void decode_floats(DType dtype, const std::byte* data, int64_t count, float* out) {
  switch (dtype) {
#define LLAMA_RT_CASE(id, name, block, elements, ...) \
  case DType::k##id:                                  \
    return decode_row<block, elements>(data, count, out);
    LLAMA_RT_DTYPES(LLAMA_RT_CASE)
#undef LLAMA_RT_CASE
  }
}

void encode_halves(const float* values, int64_t count, uint16_t* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = float_to_half(values[i]);
}

std::vector<float> to_floats(const Tensor& tensor) {
  const View& view = tensor.view;
  std::vector<float> values(static_cast<size_t>(view.shape.elements()));
  decode_floats(view.dtype, view.data, view.shape.elements(), values.data());
  return values;
}

}  // namespace llama_rt
