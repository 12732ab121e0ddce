// Stored rows in another format: for conversion and for quantizing at load. The bytes depend on
// neither ISA level nor threads.
#pragma once

#include "cpu/kernel_table.h"

namespace llama_rt::cpu {

struct RequantizeTask {
  DType from = DType::kF32;
  DType to = DType::kF32;
  const std::byte* data = nullptr;  // all source rows
  int64_t rows = 0;
  int64_t k = 0;                      // elements of a row, whole blocks of both formats
  const int64_t* order = nullptr;     // source row of each new row; null: as they are
  const float* importance = nullptr;  // [k], how much an error in a column counts; null: alike
  std::byte* out = nullptr;
};

// `task.rows` new rows on `threads` threads (0 for the default). Throws DTypeError when `to` has no
// encoder, CheckpointError when it has blocks and a value is not finite.
void requantize(const RequantizeTask& task, int threads);

// `count` elements, whole blocks, on ISA level `isa` ("" for the best). Throws DTypeError likewise.
// `importance` has `count` elements, or is null.
void encode_floats(DType dtype, const float* values, const float* importance, int64_t count,
                   std::byte* out, const std::string& isa);

}  // namespace llama_rt::cpu
