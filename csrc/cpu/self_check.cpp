#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "platform/processor.h"

namespace llama_rt::cpu {
namespace {

constexpr int64_t kK = 64;
constexpr int64_t kTokens = 16;  // as many as the GEMM path of any level asks for
// Of the largest value: a GEMM may round weights to bf16.
constexpr float kTolerance = 2e-3f;

using Values = std::vector<float>;

// Calls kernels; nothing that needs a destructor lives within a call.
class Caller {
 public:
  template <class Call>
  void operator()(Call call) {
    if (!refused_ && !runs_without_illegal_instruction(call)) refused_ = true;
  }
  bool refused() const { return refused_; }

 private:
  bool refused_ = false;
};

// Memory that kernels may ask to be aligned to a cache line, zeroed.
struct AlignedDelete {
  void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using AlignedBytes = std::unique_ptr<std::byte[], AlignedDelete>;
AlignedBytes aligned_bytes(int64_t bytes) {
  const auto size = static_cast<size_t>(bytes > 0 ? bytes : 1);
  auto* memory = static_cast<std::byte*>(::operator new(size, std::align_val_t{64}));
  std::memset(memory, 0, size);
  return AlignedBytes(memory);
}

// Tokens [kTokens, kK] of whole numbers; the largest magnitude of each group of 32 is 127.
Values inputs() {
  Values x(kTokens * kK);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = i % 32 == 0 ? 127.0f : static_cast<float>(static_cast<int>(i * 37 % 255) - 127);
  }
  return x;
}

// A panel of stored rows of multiples of 1/8, within [-1, 7/8]: two rows in turn, since encoding is
// what costs most here.
struct Matrix {
  DType dtype;
  int64_t row_bytes;
  std::vector<std::byte> rows;

  Matrix(DType type, const Kernels& scalar)
      : dtype(type),
        row_bytes(llama_rt::row_bytes(type, kK)),
        rows(static_cast<size_t>(kPanelRows * row_bytes)) {
    Values values(kK);
    for (int64_t row = 0; row < 2; ++row) {
      for (int64_t k = 0; k < kK; ++k) {
        values[static_cast<size_t>(k)] =
            static_cast<float>(k % 32 == 0 ? -8 : (k * 5 + row * 3) % 15 - 7) / 8.0f;
      }
      scalar.encode[static_cast<size_t>(type)](values.data(), nullptr, kK,
                                               rows.data() + row * row_bytes);
    }
    for (int64_t row = 2; row < kPanelRows; ++row) {
      std::memcpy(rows.data() + row * row_bytes, rows.data() + row % 2 * row_bytes,
                  static_cast<size_t>(row_bytes));
    }
  }
};

// [kTokens, kPanelRows] by decoding the rows.
Values dequantized_matmul(Caller& call, const Kernels& kernels, const Matrix& w, const Values& x) {
  Values out(kTokens * kPanelRows), scratch(kDequantizedRows * kK);
  DequantizedMatmulTask task;
  task.weight = w.rows.data();
  task.row_bytes = w.row_bytes;
  task.k = kK;
  task.last_row = kPanelRows;
  task.x = x.data();
  task.x_stride = kK;
  task.n = kTokens;
  task.out = out.data();
  task.out_stride = kPanelRows;
  task.scratch = scratch.data();
  call([&] { kernels.dequantized_matmul[static_cast<size_t>(w.dtype)](task); });
  return out;
}

struct MatmulKernel {
  void (*multiply)(const PackedMatmulTask& task) noexcept;
  Activation activation;
  int64_t scratch_bytes;
};

// The same from a panel.
Values packed_product(Caller& call, const Kernels& kernels, const Matrix& w,
                      const MatmulKernel& product, const Values& x) {
  constexpr int64_t kLine = 64;
  const PackedFormat& format = kernels.packed[static_cast<size_t>(w.dtype)];
  const ActivationFormat& inputs = kernels.activations[static_cast<size_t>(product.activation)];
  int64_t panel_bytes = 0, input_bytes = 0;
  call([&] { panel_bytes = format.panel_bytes(kK), input_bytes = inputs.row_bytes(kK); });
  const AlignedBytes panel = aligned_bytes(panel_bytes);
  const AlignedBytes rounded = aligned_bytes(kTokens * input_bytes);
  const AlignedBytes scratch = aligned_bytes(product.scratch_bytes);
  Values out(kTokens * kPanelRows);
  call([&] { format.pack(w.rows.data(), w.row_bytes, kPanelRows, kK, panel.get()); });
  for (int64_t i = 0; i < kTokens; ++i) {
    std::byte* to = rounded.get() + i / inputs.block * inputs.block * input_bytes;
    call([&] { inputs.convert(x.data() + i * kK, kK, to + i % inputs.block * kLine); });
  }
  PackedMatmulTask task;
  task.weight = panel.get();
  task.panel_bytes = panel_bytes;
  task.k = kK;
  task.rows = kPanelRows;
  task.last_panel = 1;
  task.x = rounded.get();
  task.n = kTokens;
  task.out = out.data();
  task.out_stride = kPanelRows;
  task.scratch = scratch.get();
  call([&] { product.multiply(task); });
  return out;
}

Values normed(Caller& call, const Kernels& kernels, const Values& x) {
  const Values gain(kK, 1.5f);
  Values out(kK);
  const NormTask task{x.data(), gain.data(), kK, 1e-5f, out.data()};
  call([&] { kernels.rms_norm(task); });
  return out;
}

bool agree(const Values& values, const Values& expected) {
  float largest = 0;
  for (const float value : expected) largest = std::max(largest, std::fabs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!(std::fabs(values[i] - expected[i]) <= kTolerance * largest)) return false;
  }
  return true;
}

// The first op whose values differ; empty if none does.
std::string differing(Caller& call, const Kernels& kernels, const Kernels& scalar) {
  const Values x = inputs();
  if (!agree(normed(call, kernels, x), normed(call, scalar, x))) return "rms_norm";
  for (const DType dtype : {DType::kQ4_0, DType::kQ8_0, DType::kF32, DType::kBF16}) {
    const Matrix w(dtype, scalar);
    const Values expected = dequantized_matmul(call, scalar, w, x);
    const std::string name(info(dtype).name);
    if (!agree(dequantized_matmul(call, kernels, w, x), expected))
      return "the decoded product of " + name;
    const PackedFormat& format = kernels.packed[static_cast<size_t>(dtype)];
    if (format.multiply &&
        !agree(packed_product(call, kernels, w, {format.multiply, format.activation, 0}, x),
               expected)) {
      return "the product of " + name;
    }
    const GemmKernel& gemm = format.gemm;
    if (gemm.multiply &&
        !agree(packed_product(call, kernels, w,
                              {gemm.multiply, gemm.activation, gemm.scratch_bytes}, x),
               expected)) {
      return "the GEMM of " + name;
    }
  }
  return {};
}

}  // namespace

std::string self_check(const Kernels& kernels, const Kernels& scalar) {
  Caller call;
  const std::string op = differing(call, kernels, scalar);
  if (call.refused()) return "the processor refuses one of its instructions";
  return op.empty() ? op : op + " differs from scalar's";
}

}  // namespace llama_rt::cpu
