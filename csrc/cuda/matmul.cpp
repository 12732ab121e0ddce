// Matmuls and weights: which layout a matrix gets, and which matmuls share a launch.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

Matrix matrix_of(const Weight& weight) {
  Matrix m{weight.rows, weight.cols, weight.dtype};
  if (weight.packed) {
    m.packed = static_cast<const RepackedWeight&>(*weight.packed).storage->data();
  } else {
    m.stored = weight.stored.view.data;
    m.row_bytes = weight.stored.view.row_stride;
  }
  return m;
}

MatmulTask task_of(View x, const float* gain, float eps) {
  MatmulTask task;
  task.x = x.f32();
  task.x_stride = x.row_stride / static_cast<int64_t>(sizeof(float));
  task.n = x.shape.rows();
  task.k = x.shape.row();
  task.gain = gain;
  task.eps = eps;
  return task;
}

void add_job(MatmulTask& task, const Linear& job, Heads heads = Heads::kQueries) {
  task.job[task.jobs++] = {matrix_of(*job.weight), job.bias, job.out.f32(),
                           job.out.row_stride / static_cast<int64_t>(sizeof(float)), heads};
}

// Whether two matmuls of one input can be one launch.
bool alike(const Linear& a, const Linear& b) {
  return a.weight->dtype == b.weight->dtype && !a.weight->packed == !b.weight->packed &&
         a.accumulate == b.accumulate;
}

}  // namespace

bool CudaBackend::packs(DType dtype, int64_t rows, int64_t cols, Role role, Repack repack) const {
  // An embedding is looked up row by row, which needs the stored form.
  if (role == Role::kEmbedding || repack == Repack::kNever) return false;
  const ProductFormat& format = kernels_.product[static_cast<size_t>(dtype)];
  return format.packed_bytes && format.packed_bytes(rows, cols) > 0;
}

// Rows travel through a piece of device memory to their place in the packed form.
Weight CudaBackend::do_prepare(const Tensor& matrix, Role role, Repack repack) {
  const View& view = matrix.view;
  Weight weight;
  weight.rows = view.shape[0];
  weight.cols = view.shape[1];
  weight.dtype = view.dtype;
  const Lock lock(*this);
  if (!packs(view.dtype, weight.rows, weight.cols, role, repack)) {
    auto storage = device_storage(matrix.storage->bytes(), name_);
    transfer_->up(storage->data(), view.data, storage->bytes());
    weight.stored = Tensor(std::move(storage), view.dtype, view.shape, "weight");
    return weight;
  }
  const ProductFormat& format = kernels_.product[static_cast<size_t>(view.dtype)];
  auto packed = std::make_shared<RepackedWeight>();
  packed->storage =
      device_storage(static_cast<size_t>(format.packed_bytes(weight.rows, weight.cols)), name_);
  const int64_t group = kPackRows * view.row_stride;
  const int64_t piece =
      std::max<int64_t>(1, static_cast<int64_t>(Transfer::kPiece) / group) * group;
  const auto room = static_cast<size_t>(std::min(piece, weight.rows * view.row_stride));
  if (!piece_ || piece_->bytes() < room) piece_ = device_storage(room, name_);
  PackTask task{.row_bytes = view.row_stride,
                .rows = weight.rows,
                .cols = weight.cols,
                .packed = packed->storage->data()};
  task.rows_data = piece_->data();
  for (; task.first_row < weight.rows; task.first_row += task.count) {
    task.count = std::min(piece / view.row_stride, weight.rows - task.first_row);
    transfer_->up(piece_->data(), view.data + task.first_row * view.row_stride,
                  static_cast<size_t>(task.count * view.row_stride));
    format.pack(task, stream_);
  }
  weight.packed = std::move(packed);
  packing_ = true;
  return weight;
}

// The table is on the device already.
Weight CudaBackend::reuse_resident(const Weight& table, Role role, Repack repack) {
  if (!packs(table.dtype, table.rows, table.cols, role, repack)) return table;
  const Lock lock(*this);
  const ProductFormat& format = kernels_.product[static_cast<size_t>(table.dtype)];
  auto packed = std::make_shared<RepackedWeight>();
  packed->storage =
      device_storage(static_cast<size_t>(format.packed_bytes(table.rows, table.cols)), name_);
  format.pack({.rows_data = table.stored.view.data,
               .row_bytes = table.stored.view.row_stride,
               .count = table.rows,
               .rows = table.rows,
               .cols = table.cols,
               .packed = packed->storage->data()},
              stream_);
  Weight weight = table;
  weight.stored = {};
  weight.packed = std::move(packed);
  packing_ = true;
  return weight;
}

void CudaBackend::multiply(const MatmulTask& given) {
  const Matrix& first = given.job[0].weight;
  if (!first.packed)
    return kernels_.dequantized_matmul[static_cast<size_t>(first.dtype)](given, stream_);
  const ProductFormat& format = kernels_.product[static_cast<size_t>(first.dtype)];
  MatmulTask task = given;
  task.counters = reinterpret_cast<uint32_t*>(counters_->data());
  task.reproducible = reproducible_;
  task.scratch = scratch(format.scratch_bytes ? format.scratch_bytes(task) : 0);
  (task.n <= format.matvec_inputs ? format.matvec : format.gemm)(task, stream_);
}

// All jobs, as many in one launch as share a dtype, a form and what happens to the result. With
// `append` they are q, k and v.
void CudaBackend::multiply_groups(View x, std::span<const Linear> jobs, const float* gain,
                                  float eps, const StoreKvTask* append) {
  for (size_t first = 0; first < jobs.size();) {
    MatmulTask task = task_of(x, gain, eps);
    task.epilogue = append                   ? Epilogue::kAppend
                    : jobs[first].accumulate ? Epilogue::kAdd
                                             : Epilogue::kStore;
    if (append) task.append = *append;
    size_t next = first;
    while (next < jobs.size() && task.jobs < kMaxJobs && alike(jobs[first], jobs[next])) {
      add_job(task, jobs[next], append ? static_cast<Heads>(next) : Heads::kQueries);
      ++next;
    }
    multiply(task);
    first = next;
  }
}

void CudaBackend::do_matmul(View x, std::span<const Linear> jobs) {
  multiply_groups(x, jobs, nullptr, 0);
}

void CudaBackend::gate_up_swiglu(View x, const GateUpWeights& w, float eps, View scratch, View up,
                                 View hidden) {
  if (profiling()) return Backend::gate_up_swiglu(x, w, eps, scratch, up, hidden);
  const Linear jobs[] = {{&w.gate, w.gate_bias, hidden}, {&w.up, w.up_bias, up}};
  if (!alike(jobs[0], jobs[1])) {
    multiply_groups(x, jobs, w.norm, eps);
    return do_swiglu(hidden, up, hidden);
  }
  MatmulTask task = task_of(x, w.norm, eps);
  task.epilogue = Epilogue::kSwiglu;
  for (const Linear& job : jobs) add_job(task, job);
  multiply(task);
}

}  // namespace llama_rt::cuda
