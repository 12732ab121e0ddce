#include "cuda/memory.h"

#include <algorithm>
#include <cstring>
#include <thread>
#include <vector>

#include "core/error.h"
#include "cuda/launch.h"

namespace llama_rt::cuda {
namespace {

// Bytes that one thread copies before another is worth starting, and most threads: a single one
// reads a file's pages slower than the bus takes them.
constexpr size_t kShare = size_t{2} << 20;
constexpr size_t kCopiers = 8;

void copy_to_pinned(std::byte* to, const std::byte* from, size_t bytes) {
  const size_t cores = std::max(1u, std::thread::hardware_concurrency());
  const size_t count = std::clamp<size_t>(bytes / kShare, 1, std::min(cores, kCopiers));
  const size_t share = (bytes / count + 63) / 64 * 64;
  std::vector<std::jthread> helpers;
  for (size_t begin = share; begin < bytes; begin += share) {
    helpers.emplace_back(
        [=] { std::memcpy(to + begin, from + begin, std::min(share, bytes - begin)); });
  }
  std::memcpy(to, from, std::min(share, bytes));
}

thread_local bool overlap = false;

}  // namespace

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  (void)cudaGetLastError();
  throw DeviceError(std::string("CUDA failed at ") + what + ": " + cudaGetErrorString(error) +
                    " (" + cudaGetErrorName(error) + ")");
}

void allow_overlap(bool allowed) { overlap = allowed; }
bool overlap_allowed() { return overlap; }

std::shared_ptr<Storage> device_storage(size_t bytes, const std::string& device) {
  void* data = nullptr;
  if (const cudaError_t error = cudaMalloc(&data, std::max<size_t>(bytes, 1));
      error == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();
    size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw CapacityError(device + " has " + std::to_string(free >> 20) + " of " +
                        std::to_string(total >> 20) + " MiB free, " +
                        std::to_string((bytes >> 20) + 1) + " MiB are needed at once");
  } else {
    check(error, "allocating memory");
  }
  return std::make_shared<Storage>(static_cast<std::byte*>(data), bytes,
                                   [data] { (void)cudaFree(data); });
}

PinnedReadbackBuffer::PinnedReadbackBuffer(size_t bytes) {
  check(cudaMallocHost(&data, bytes), "allocating pinned memory");
  check(cudaEventCreateWithFlags(&landed, cudaEventDisableTiming), "creating an event");
}

PinnedReadbackBuffer::~PinnedReadbackBuffer() {
  if (landed) {
    (void)cudaEventSynchronize(landed);
    (void)cudaEventDestroy(landed);
  }
  if (data) (void)cudaFreeHost(data);
}

Transfer::Transfer(cudaStream_t stream) : stream_(stream) {
  for (Piece& p : pieces_) {
    check(cudaEventCreateWithFlags(&p.sent, cudaEventDisableTiming), "creating an event");
  }
}

Transfer::~Transfer() {
  for (const Piece& p : pieces_) {
    if (p.data) (void)cudaFreeHost(p.data);
    if (p.sent) (void)cudaEventDestroy(p.sent);
  }
}

// The piece used before last, as soon as it was sent; enlarged to `bytes`.
Transfer::Piece& Transfer::next(size_t bytes) {
  Piece& p = pieces_[next_++ % pieces_.size()];
  check(cudaEventSynchronize(p.sent), "waiting for a copy");
  if (p.bytes < bytes) {
    if (p.data) check(cudaFreeHost(p.data), "freeing pinned memory");
    p.data = nullptr, p.bytes = 0;
    const size_t room = std::clamp<size_t>(2 * bytes, 4096, kPiece);
    void* data = nullptr;
    check(cudaMallocHost(&data, room), "allocating pinned memory");
    p.data = static_cast<std::byte*>(data), p.bytes = room;
  }
  return p;
}

void Transfer::up(std::byte* to, const std::byte* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const size_t count = std::min(bytes - done, kPiece);
    Piece& p = next(count);
    copy_to_pinned(p.data, from + done, count);
    check(cudaMemcpyAsync(to + done, p.data, count, cudaMemcpyHostToDevice, stream_),
          "copying to the device");
    check(cudaEventRecord(p.sent, stream_), "recording an event");
    done += count;
  }
}

void Transfer::down(void* to, const std::byte* from, size_t bytes) {
  for (size_t done = 0; done < bytes;) {
    const size_t count = std::min(bytes - done, kPiece);
    Piece& p = next(count);
    check(cudaMemcpyAsync(p.data, from + done, count, cudaMemcpyDeviceToHost, stream_),
          "copying from the device");
    check(cudaStreamSynchronize(stream_), "waiting for the device");
    copy_to_pinned(static_cast<std::byte*>(to) + done, p.data, count);
    done += count;
  }
  if (bytes == 0) check(cudaStreamSynchronize(stream_), "waiting for the device");
}

}  // namespace llama_rt::cuda
