// Memory of a device, and the way to it from the host: through pinned memory, two pieces in turn,
// so that one is filled while the other is on its way.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "backend/backend.h"
#include "core/tensor.h"

namespace llama_rt::cuda {

// Device memory, 256-byte aligned, freed with the storage. Throws CapacityError, naming `device`
// and what is free, when it does not fit.
std::shared_ptr<Storage> device_storage(size_t bytes, const std::string& device);

// Pinned memory of one user, and when what was copied to it last is there.
struct PinnedReadbackBuffer final : ReadbackBuffer {
  explicit PinnedReadbackBuffer(size_t bytes);
  ~PinnedReadbackBuffer() override;
  PinnedReadbackBuffer(const PinnedReadbackBuffer&) = delete;
  PinnedReadbackBuffer& operator=(const PinnedReadbackBuffer&) = delete;

  void* data = nullptr;
  cudaEvent_t landed = nullptr;
};

// Copies from and to the host in the order of one stream.
class Transfer {
 public:
  explicit Transfer(cudaStream_t stream);
  ~Transfer();
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;

  // Returns when `from` was read.
  void up(std::byte* to, const std::byte* from, size_t bytes);
  // Returns when `to` was written, which is after everything queued before.
  void down(void* to, const std::byte* from, size_t bytes);

  static constexpr size_t kPiece = size_t{16} << 20;

 private:
  struct Piece {
    std::byte* data = nullptr;
    size_t bytes = 0;
    cudaEvent_t sent = nullptr;
  };
  Piece& next(size_t bytes);

  cudaStream_t stream_;
  std::array<Piece, 2> pieces_;
  size_t next_ = 0;
};

// Bytes per second read from a buffer of `bytes`, in passes of about `seconds` together.
double read_bandwidth(int index, int multiprocessors, int64_t bytes, double seconds);

}  // namespace llama_rt::cuda
