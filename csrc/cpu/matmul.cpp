// Matmul: which kernel, and which thread takes which output rows. Work is split by output rows
// only, so results do not depend on the number of threads.
#include <algorithm>
#include <limits>

#include "cpu/cpu_backend.h"
#include "platform/processor.h"
#include "platform/thread_pool.h"

namespace llama_rt::cpu {
namespace {

constexpr int64_t kLine = 64;  // bytes

// A number of shares of the work cut into equal pieces: for calls of up to `each` panels (then a
// share is a panel), as many for every thread. Pieces of more than one share have an even number.
struct Pieces {
  int64_t shares;
  int64_t count;

  Pieces(int64_t all, int64_t each, int threads) : shares(all), count(all) {
    const int64_t round = each * threads;
    if (each > 1) count = std::min(all, (all + round - 1) / round * threads);
  }
  int64_t begin(int64_t piece) const {
    if (count == shares) return piece;
    return std::min((shares * piece / count + 1) / 2 * 2, shares);
  }
};

const PanelWeight& panels_of(const Linear& job) {
  return static_cast<const PanelWeight&>(*job.weight->packed);
}

// Rounds up to whole cache lines.
size_t lines(int64_t bytes) { return (static_cast<size_t>(bytes) + 63) / 64 * 64; }

}  // namespace

// The input in the form that packed kernels take, rounded once for all jobs that share it.
const std::byte* CpuBackend::convert(View x, Activation activation) {
  const ActivationFormat& format = kernels_.activations[static_cast<size_t>(activation)];
  const int64_t n = x.shape.rows(), k = x.shape.row();
  const int64_t row = format.row_bytes(k);
  const int64_t block = format.block;
  const int64_t tokens = (n + block - 1) / block * block;
  std::byte* out = converted_[static_cast<size_t>(activation)].get(lines(tokens * row));
  constexpr int64_t kSerialTokens = 4;
  parallel_for(n < kSerialTokens ? 1 : threads_, n, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      format.convert(x.f32(i), k, out + i / block * block * row + i % block * kLine);
    }
  });
  return out;
}

CpuBackend::MatmulKernel CpuBackend::kernel_of(const Linear& job, int64_t n) const {
  const PackedFormat& format = kernels_.packed[static_cast<size_t>(job.weight->dtype)];
  const GemmKernel& gemm = format.gemm;
  const bool many = n >= gemm.min_tokens && job.weight->cols >= gemm.min_k;
  if (gemm.multiply && many && !reproducible_) {
    return {gemm.multiply, gemm.activation, gemm.scratch_bytes, gemm.panels};
  }
  return {format.multiply, format.activation, 0, 1};
}

void CpuBackend::matmul_packed(const View& x, std::span<const Linear> jobs) {
  std::array<const std::byte*, kActivations> inputs{};
  const int64_t n = x.shape.rows();
  int64_t shares = 0, together = 1, narrowest = std::numeric_limits<int64_t>::max();
  size_t scratch_bytes = 0;
  for (const Linear& job : jobs) {
    if (!job.weight->packed) continue;
    const MatmulKernel product = kernel_of(job, n);
    const std::byte*& input = inputs[static_cast<size_t>(product.activation)];
    if (!input) input = convert(x, product.activation);
    scratch_bytes = std::max(scratch_bytes, static_cast<size_t>(product.scratch_bytes));
    together = std::max(together, product.panels);
    narrowest = std::min(narrowest, panels_of(job).panel_bytes);
  }
  // Panels count by their bytes, so that a few of wider elements hold no thread up.
  const auto shares_of = [&](const PanelWeight& weight) {
    return together > 1 ? 1 : (weight.panel_bytes + narrowest / 2) / narrowest;
  };
  for (const Linear& job : jobs) {
    if (job.weight->packed) shares += panels_of(job).panels * shares_of(panels_of(job));
  }
  if (shares == 0) return;
  if (scratch_bytes > 0) {
    for (Scratch& scratch : worker_) scratch.get(scratch_bytes);
  }
  const Pieces pieces(shares, together, threads_);
  parallel_for(threads_, pieces.count, [&](int64_t piece, int64_t piece_end, int worker) {
    const int64_t begin = pieces.begin(piece), end = pieces.begin(piece_end);
    int64_t first = 0;  // of the job, among all jobs' shares
    for (const Linear& job : jobs) {
      if (!job.weight->packed) continue;
      const PanelWeight& weight = panels_of(job);
      const int64_t each = shares_of(weight);
      const auto panel_at = [&](int64_t share) {  // that begins there or next
        return std::clamp<int64_t>((share - first + each - 1) / each, 0, weight.panels);
      };
      PackedMatmulTask task;
      task.first_panel = panel_at(begin), task.last_panel = panel_at(end);
      first += weight.panels * each;
      if (task.first_panel >= task.last_panel) continue;
      const MatmulKernel product = kernel_of(job, n);
      task.weight = weight.storage->data();
      task.panel_bytes = weight.panel_bytes;
      task.k = job.weight->cols;
      task.rows = job.weight->rows;
      task.x = inputs[static_cast<size_t>(product.activation)];
      task.n = n;
      task.bias = job.bias;
      task.out = job.out.f32();
      task.out_stride = job.out.row_stride / static_cast<int64_t>(sizeof(float));
      task.accumulate = job.accumulate;
      task.prefetch = !cpu_info().prefetches;
      if (product.scratch_bytes > 0) {
        task.scratch = worker_[static_cast<size_t>(worker)].get(scratch_bytes);
      }
      product.multiply(task);
    }
  });
}

void CpuBackend::matmul_dequantized(const View& x, std::span<const Linear> jobs) {
  int64_t rows = 0;
  for (const Linear& job : jobs) rows += job.weight->packed ? 0 : job.weight->rows;
  if (rows == 0) return;
  const size_t bytes =
      static_cast<size_t>(kDequantizedRows * padded(x.shape.row())) * sizeof(float);
  for (Scratch& scratch : worker_) scratch.get(bytes);
  parallel_for(threads_, rows, [&](int64_t begin, int64_t end, int worker) {
    auto* scratch = reinterpret_cast<float*>(worker_[static_cast<size_t>(worker)].get(bytes));
    int64_t first = 0;
    for (const Linear& job : jobs) {
      const Weight& weight = *job.weight;
      if (weight.packed) continue;
      DequantizedMatmulTask task;
      task.first_row = std::max<int64_t>(begin - first, 0);
      task.last_row = std::min(end - first, weight.rows);
      first += weight.rows;
      if (task.first_row >= task.last_row) continue;
      task.weight = weight.stored.view.data;
      task.row_bytes = weight.stored.view.row_stride;
      task.k = weight.cols;
      task.x = x.f32();
      task.x_stride = x.row_stride / static_cast<int64_t>(sizeof(float));
      task.n = x.shape.rows();
      task.bias = job.bias;
      task.out = job.out.f32();
      task.out_stride = job.out.row_stride / static_cast<int64_t>(sizeof(float));
      task.accumulate = job.accumulate;
      task.scratch = scratch;
      kernels_.dequantized_matmul[static_cast<size_t>(weight.dtype)](task);
    }
  });
}

}  // namespace llama_rt::cpu
