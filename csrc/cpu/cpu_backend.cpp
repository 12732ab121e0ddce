#include "cpu/cpu_backend.h"

#include <cstring>

#include "core/error.h"
#include "platform/memory.h"
#include "platform/processor.h"
#include "platform/thread_pool.h"

namespace llama_rt::cpu {
namespace {

// Floats of work below which waking another thread costs more than it saves.
constexpr int64_t kSerialElements = 16384;

}  // namespace

std::byte* Scratch::get(size_t bytes) {
  if (!storage_ || storage_->bytes() < bytes) storage_ = Storage::allocate(bytes);
  return storage_->data();
}

CpuBackend::CpuBackend(Isa isa, int threads, bool reproducible)
    : kernels_(kernels_for(isa)),
      threads_(threads),
      reproducible_(reproducible),
      worker_(static_cast<size_t>(threads)) {}

std::shared_ptr<Storage> CpuBackend::allocate(size_t bytes) {
  auto buffer = std::make_shared<HostBuffer>(bytes);
  return Storage::borrow(buffer->data(), bytes, [buffer] {});
}

void CpuBackend::copy_bytes(std::byte* to, const std::byte* from, size_t bytes) {
  std::memcpy(to, from, bytes);
}

void CpuBackend::upload(std::byte* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

void CpuBackend::download(void* to, const std::byte* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

KvLayout CpuBackend::kv_layout(KvType type, int64_t layers, int64_t kv_heads,
                               int64_t head_dim) const {
  const KvFormat& format = kernels_.kv[static_cast<size_t>(type)];
  return {type, layers, kv_heads, head_dim, kv_heads * format.head_bytes(head_dim)};
}

void CpuBackend::step(const GraphKey&, const CancelFlag* cancel, FunctionRef<void()> body) {
  const std::scoped_lock lock(mutex_);
  ThreadPool::Lease lease(threads_);
  const ThreadPool::Abandonable abandonable(cancel);
  body();
}

void CpuBackend::do_embed(const Weight& table, std::span<const int32_t> tokens, View out) {
  const auto decode = kernels_.decode[static_cast<size_t>(table.dtype)];
  const View& stored = table.stored.view;
  for (size_t i = 0; i < tokens.size(); ++i) {
    decode(stored.data + tokens[i] * stored.row_stride, table.cols,
           out.f32(static_cast<int64_t>(i)));
  }
}

void CpuBackend::do_rms_norm(View x, const float* gain, float eps, View out) {
  const int64_t d = x.shape.row();
  const int threads = x.shape.elements() < kSerialElements ? 1 : threads_;
  parallel_for(threads, x.shape.rows(), [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.rms_norm({x.f32(i), gain, d, eps, out.f32(i)});
    }
  });
}

void CpuBackend::do_rope(View x, const Rotation& rotation) {
  const int64_t heads = x.shape[1], e = x.shape[2];
  const int threads = x.shape.elements() < kSerialElements ? 1 : threads_;
  parallel_for(threads, x.shape[0], [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.rope({x.f32() + i * heads * e, rotation.cos.f32(i), rotation.sin.f32(i), heads, e,
                     rotation.style});
    }
  });
}

void CpuBackend::do_swiglu(View gate, View up, View out) {
  const int64_t f = gate.shape.row();
  const int64_t rows = gate.shape.rows();
  const int threads = gate.shape.elements() < kSerialElements ? 1 : threads_;
  parallel_for(threads, rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      kernels_.swiglu({gate.f32(i), up.f32(i), out.f32(i), f});
    }
  });
}

void CpuBackend::do_gather_rows(View x, std::span<const int32_t> rows, View out) {
  const size_t row = static_cast<size_t>(x.shape.row()) * sizeof(float);
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(out.f32(static_cast<int64_t>(i)), x.f32(rows[i]), row);
  }
}

void CpuBackend::do_matmul(View x, std::span<const Linear> jobs) {
  matmul_packed(x, jobs);
  matmul_dequantized(x, jobs);
}

std::shared_ptr<Backend> open_cpu(const std::string& isa, int threads, bool reproducible) {
  if (threads < 0 || threads > 4096) {
    throw ConfigError("threads must be between 1 and 4096, got " + std::to_string(threads));
  }
  const int count = threads > 0 ? threads : cpu_info().default_threads;
  return std::make_shared<CpuBackend>(choose_isa(isa), count, reproducible);
}

}  // namespace llama_rt::cpu
