#include "cuda/cuda_backend.h"

#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "cuda/kv_layout.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {

CudaBackend::Lock::Lock(CudaBackend& backend) : lock_(backend.mutex_) {
  check(cudaSetDevice(backend.index_), "choosing the device");
  allow_overlap(backend.device_.major >= 9);
}

CudaBackend::CudaBackend(int index, const CudaDevice& device, bool reproducible)
    : index_(index),
      name_("cuda:" + std::to_string(index)),
      device_(device),
      reproducible_(reproducible),
      kernels_(kernels_for(device.major, device.minor)) {
  const Lock lock(*this);
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "creating a stream");
  transfer_ = std::make_unique<Transfer>(stream_);
  // Enough for products, and for attention of 4096 rows of 64 heads.
  constexpr size_t kCounterBytes = size_t{1} << 20;
  static_assert(kCounterBytes >= kProductCounters * sizeof(uint32_t));
  counters_ = device_storage(kCounterBytes, name_);
  check(cudaMemsetAsync(counters_->data(), 0, kCounterBytes, stream_), "clearing counters");
}

CudaBackend::~CudaBackend() {
  (void)cudaSetDevice(index_);
  if (stream_) (void)cudaStreamSynchronize(stream_);
  graphs_.clear();
  transfer_.reset();
  if (stream_) (void)cudaStreamDestroy(stream_);
}

std::shared_ptr<Storage> CudaBackend::allocate(size_t bytes) {
  check(cudaSetDevice(index_), "choosing the device");
  return device_storage(bytes, name_);
}

void CudaBackend::copy_bytes(std::byte* to, const std::byte* from, size_t bytes) {
  const Lock lock(*this);
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_), "copying");
}

void CudaBackend::upload(std::byte* to, const void* from, size_t bytes) {
  const Lock lock(*this);
  transfer_->up(to, static_cast<const std::byte*>(from), bytes);
}

void CudaBackend::download(void* to, const std::byte* from, size_t bytes) {
  const Lock lock(*this);
  transfer_->down(to, from, bytes);
}

std::unique_ptr<ReadbackBuffer> CudaBackend::make_readback_buffer(size_t bytes) {
  check(cudaSetDevice(index_), "choosing the device");
  return std::make_unique<PinnedReadbackBuffer>(bytes);
}

void CudaBackend::start_readback(ReadbackBuffer& buffer, const std::byte* from, size_t bytes) {
  const Lock lock(*this);
  auto& pinned = static_cast<PinnedReadbackBuffer&>(buffer);
  check(cudaMemcpyAsync(pinned.data, from, bytes, cudaMemcpyDeviceToHost, stream_),
        "copying from the device");
  check(cudaEventRecord(pinned.landed, stream_), "recording an event");
}

// Others may queue their work meanwhile.
void CudaBackend::finish_readback(ReadbackBuffer& buffer, void* to, size_t bytes) {
  auto& pinned = static_cast<PinnedReadbackBuffer&>(buffer);
  check(cudaEventSynchronize(pinned.landed), "waiting for the device");
  std::memcpy(to, pinned.data, bytes);
}

void CudaBackend::synchronize() noexcept { (void)cudaStreamSynchronize(stream_); }

KvLayout CudaBackend::kv_layout(KvType type, int64_t layers, int64_t kv_heads,
                                int64_t head_dim) const {
  return {type, layers, kv_heads, head_dim, kv_heads * kv_head_bytes(type, head_dim)};
}

void CudaBackend::step(const GraphKey& key, const CancelFlag*, FunctionRef<void()> body) {
  const Lock lock(*this);
  if (packing_) {  // products read weights before they wait for the kernel ahead of them
    check(cudaStreamSynchronize(stream_), "packing weights");
    packing_ = false;
  }
  if (key.owner == 0 || profiling()) {
    body();
  } else {
    graphs_.run(key, stream_, body);
  }
}

// Scratch of the kernels of one step, which follow one another; it grows to the largest need.
std::byte* CudaBackend::scratch(int64_t bytes) {
  const auto needed = static_cast<size_t>(bytes);
  if (needed > 0 && (!scratch_ || scratch_->bytes() < needed)) {
    check(cudaStreamSynchronize(stream_), "finishing what uses the scratch memory");
    graphs_.clear();
    scratch_.reset();
    scratch_ = device_storage(needed + needed / 4, name_);
  }
  return scratch_ ? scratch_->data() : nullptr;
}

void CudaBackend::do_embed(const Weight& table, std::span<const int32_t> tokens, View out) {
  const View& stored = table.stored.view;
  kernels_.embed({stored.data, table.dtype, stored.row_stride, table.cols, tokens.data(),
                  static_cast<int64_t>(tokens.size()), out.f32()},
                 stream_);
}

void CudaBackend::do_rms_norm(View x, const float* gain, float eps, View out) {
  kernels_.rms_norm({x.f32(), gain, x.shape.rows(), x.shape.row(), eps, out.f32()}, stream_);
}

void CudaBackend::do_rope(View x, const Rotation& rotation) {
  kernels_.rope({x.f32(), rotation.cos.f32(), rotation.sin.f32(), x.shape[0], x.shape[1],
                 x.shape[2], rotation.style},
                stream_);
}

void CudaBackend::do_swiglu(View gate, View up, View out) {
  kernels_.swiglu({gate.f32(), up.f32(), out.f32(), gate.shape.elements()}, stream_);
}

void CudaBackend::do_gather_rows(View x, std::span<const int32_t> rows, View out) {
  kernels_.gather(
      {x.f32(), rows.data(), static_cast<int64_t>(rows.size()), x.shape.row(), out.f32()}, stream_);
}

void CudaBackend::sample(View logits, const SampleSpec* specs, int32_t* tokens) {
  const int64_t rows = logits.shape[0], vocab = logits.shape[1];
  kernels_.sample(
      {logits.f32(), specs, rows, vocab, tokens, scratch(sample_scratch_bytes(rows, vocab))},
      stream_);
}

void CudaBackend::do_scale_columns(View x, const float* factors, View out) {
  kernels_.combine(
      {.x = x.f32(), .by = factors, .y = out.f32(), .rows = x.shape.rows(), .width = x.shape.row()},
      stream_);
}

void CudaBackend::do_scale(View x, float factor) {
  kernels_.combine({.x = x.f32(),
                    .y = x.f32(),
                    .rows = x.shape.rows(),
                    .width = x.shape.row(),
                    .factor = factor},
                   stream_);
}

void CudaBackend::do_add_row(const float* row, float factor, View y) {
  kernels_.combine({.by = row,
                    .y = y.f32(),
                    .rows = y.shape.rows(),
                    .width = y.shape.row(),
                    .factor = factor,
                    .accumulate = true},
                   stream_);
}

void CudaBackend::do_add_gated(View x, const float* gates, float factor, View out) {
  kernels_.combine({.x = x.f32(),
                    .by = gates,
                    .y = out.f32(),
                    .rows = x.shape[0],
                    .width = x.shape[1] * x.shape[2],
                    .repeat = x.shape[2],
                    .factor = factor,
                    .accumulate = true},
                   stream_);
}

}  // namespace llama_rt::cuda
