#include "cpu/requantize.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "cpu/isa.h"
#include "platform/processor.h"
#include "platform/thread_pool.h"

namespace llama_rt::cpu {
namespace {

// Floats that a thread decodes before it encodes them: half of a second-level cache.
constexpr int64_t kPieceElements = 65536;

auto encoder(const Kernels& kernels, DType dtype) {
  const auto encode = kernels.encode[static_cast<size_t>(dtype)];
  if (!encode) {
    throw DTypeError("nothing can be written as " + std::string(info(dtype).name) + " yet");
  }
  return encode;
}

// Refuses what a block has no code for; `count` a multiple of 32.
void check_finite(const float* values, int64_t count) {
  using Bits = uint32_t __attribute__((vector_size(16)));
  constexpr uint32_t kExponent = 0x7f800000;
  Bits bits, found{};
  for (int64_t i = 0; i < count; i += 4) {
    std::memcpy(&bits, values + i, sizeof(bits));
    found |= reinterpret_cast<Bits>((bits & kExponent) == kExponent);
  }
  if ((found[0] | found[1] | found[2] | found[3]) != 0) {
    throw CheckpointError("holds a value that is NaN or infinite, which no quantized format has");
  }
}

}  // namespace

void requantize(const RequantizeTask& task, int threads) {
  const Kernels& kernels = kernels_for(choose_isa(""));
  const auto decode = kernels.decode[static_cast<size_t>(task.from)];
  const auto encode = encoder(kernels, task.to);
  const int64_t from_bytes = row_bytes(task.from, task.k), to_bytes = row_bytes(task.to, task.k);
  if (task.rows <= 0 || task.k <= 0) return;
  const int64_t piece = std::clamp<int64_t>(kPieceElements / task.k, 1, task.rows);
  const int count = threads > 0 ? threads : cpu_info().default_threads;
  std::vector<std::vector<float>> scratch(static_cast<size_t>(count));
  parallel_for(count, (task.rows + piece - 1) / piece, [&](int64_t begin, int64_t end, int worker) {
    std::vector<float>& values = scratch[static_cast<size_t>(worker)];
    values.resize(static_cast<size_t>(piece * task.k));
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * piece, last = std::min(first + piece, task.rows);
      for (int64_t row = first; row < last; ++row) {
        const int64_t source = task.order ? task.order[row] : row;
        decode(task.data + source * from_bytes, task.k, values.data() + (row - first) * task.k);
      }
      if (info(task.to).block_elements > 1) check_finite(values.data(), (last - first) * task.k);
      if (!task.importance) {
        encode(values.data(), nullptr, (last - first) * task.k, task.out + first * to_bytes);
        continue;
      }
      for (int64_t row = first; row < last; ++row) {
        encode(values.data() + (row - first) * task.k, task.importance, task.k,
               task.out + row * to_bytes);
      }
    }
  });
}

void encode_floats(DType dtype, const float* values, const float* importance, int64_t count,
                   std::byte* out, const std::string& isa) {
  encoder(kernels_for(choose_isa(isa)), dtype)(values, importance, count, out);
}

}  // namespace llama_rt::cpu
