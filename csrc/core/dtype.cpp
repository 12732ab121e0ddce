#include "core/dtype.h"

#include <array>
#include <limits>
#include <string>

#include "core/error.h"

namespace llama_rt {
namespace {

constexpr std::array<DTypeInfo, kDTypes> kTable = {{
#define LLAMA_RT_ROW(id, name, block, elements, gguf, activation, encodable) \
  {DType::k##id, name, elements, sizeof(block), gguf, Activation::activation, encodable},
    LLAMA_RT_DTYPES(LLAMA_RT_ROW)
#undef LLAMA_RT_ROW
}};

}  // namespace

std::span<const DTypeInfo> dtypes() noexcept { return kTable; }

const DTypeInfo& info(DType dtype) noexcept { return kTable[static_cast<size_t>(dtype)]; }

const DTypeInfo& dtype_named(std::string_view name) {
  std::string choices;
  for (const DTypeInfo& row : kTable) {
    if (row.name == name) return row;
    choices += (choices.empty() ? "" : ", ") + std::string(row.name);
  }
  throw DTypeError("unknown element type '" + std::string(name) + "', expected one of " + choices);
}

int64_t row_bytes(DType dtype, int64_t elements) {
  const DTypeInfo& row = info(dtype);
  if (elements < 0 || elements % row.block_elements != 0) {
    throw ShapeError("a row of " + std::to_string(elements) +
                     " elements is not a whole number of " + std::string(row.name) + " blocks of " +
                     std::to_string(row.block_elements));
  }
  const int64_t blocks = elements / row.block_elements;
  if (blocks > std::numeric_limits<int64_t>::max() / row.block_bytes) {
    throw ShapeError("a row of " + std::to_string(elements) + " elements is too long");
  }
  return blocks * row.block_bytes;
}

}  // namespace llama_rt
