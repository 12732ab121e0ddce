// The host side of the emulated device: memory out of the host's reach, streams as queues that run
// when waited for, events, captured graphs, and one sticky error.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "cuda_runtime.h"

namespace llama_rt::cuda {
std::byte* dynamic_shared();
std::byte* dynamic_shared() { return emulation::shared_memory(); }
}  // namespace llama_rt::cuda

namespace emulation {

struct Event {
  Stream* stream = nullptr;
  uint64_t at = 0;  // operations of the stream that come before it
};

// A piece of work; a dependent kernel may begin before the kernel ahead of it is done.
struct Node {
  std::function<void()> run;
  bool kernel = false;
  bool dependent = false;
};

struct Operation {
  Node node;
  Event* wait = nullptr;  // else: let the other stream come to this point
  Event wait_copy;
};

struct Stream {
  std::deque<Operation> queue;
  uint64_t queued = 0, done = 0;
  Graph* capture = nullptr;
};

struct Graph {
  std::vector<Node> nodes;
};

namespace {

constexpr size_t kPage = 4096;
constexpr size_t kArena = size_t{16} << 30;  // address space, not memory
constexpr size_t kTotal = size_t{8} << 30;   // what the device says it has

// Device memory: blocks of one mapping, a page kept out of reach after each. The mapping is closed
// while the host runs.
struct Arena {
  std::byte* base;
  size_t top = 0;  // bytes ever given out
  size_t in_use = 0;
  bool open = false;
  std::map<size_t, size_t> used;       // offset -> bytes asked for
  std::multimap<size_t, size_t> free;  // span -> offset

  Arena() {
    void* p = mmap(nullptr, kArena, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    base = static_cast<std::byte*>(p);
  }
  static size_t span(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage + kPage; }
  bool holds(const void* p) const {
    const auto* b = static_cast<const std::byte*>(p);
    return b >= base && b < base + kArena;
  }
  void protect(bool opened) {
    open = opened;
    if (top > 0) mprotect(base, top, opened ? PROT_READ | PROT_WRITE : PROT_NONE);
  }
};

struct Device {
  std::recursive_mutex mutex;
  Arena arena;
  Stream plain;  // the default stream
  std::vector<Stream*> streams;
  std::map<const void*, int> shared_limit;  // dynamic shared memory asked for by kernel
  cudaError_t last = cudaSuccess;
  bool failed = false;  // sticky, as after a fault on a device
  std::string text;     // of the failure
};

Device& device() {
  static auto* d = new Device;  // never destroyed: storages may outlive static objects
  return *d;
}

// Device memory is reachable while one of these lives.
struct Reach {
  bool outer = device().arena.open;
  Reach() {
    if (!outer) device().arena.protect(true);
  }
  ~Reach() {
    if (!outer) device().arena.protect(false);
  }
};

int setting(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atoi(text) : otherwise;
}

int capability() { return setting("EMULATED_CAPABILITY", 90); }

int most_shared() {
  const int c = capability();
  return (c == 90 ? 227 : c == 80 ? 163 : 99) * 1024;
}

cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess) device().last = error;
  return error;
}

cudaError_t fail(const std::string& text) {
  device().failed = true;
  device().text = text;
  return result(cudaErrorLaunchFailure);
}

Stream& of(Stream* stream) { return stream ? *stream : device().plain; }

// Copies of all but the largest blocks of device memory, to see what a kernel changes.
using Snapshot = std::map<std::byte*, std::vector<std::byte>>;
constexpr size_t kMostCopied = size_t{4} << 20;

Snapshot take_snapshot() {
  Snapshot copies;
  for (const auto& [offset, bytes] : device().arena.used) {
    std::byte* at = device().arena.base + offset;
    if (bytes <= kMostCopied) copies.emplace(at, std::vector<std::byte>(at, at + bytes));
  }
  return copies;
}

std::vector<std::span<std::byte>> changes_since(const Snapshot& before) {
  std::vector<std::span<std::byte>> changes;
  for (const auto& [at, old] : before) {
    for (size_t i = 0; i < old.size(); ++i) {
      if (at[i] == old[i]) continue;
      const size_t first = i;
      while (i < old.size() && at[i] != old[i]) ++i;
      changes.emplace_back(at + first, i - first);
    }
  }
  return changes;
}

void run_until(Stream& s, uint64_t count) {
  while (s.done < count && !s.queue.empty()) {
    Operation next = std::move(s.queue.front());
    s.queue.pop_front();
    if (next.wait && next.wait_copy.stream) run_until(*next.wait_copy.stream, next.wait_copy.at);
    if (next.node.run && !device().failed) {
      const bool followed = next.node.kernel && !s.queue.empty() && s.queue.front().node.dependent;
      const Snapshot before = followed ? take_snapshot() : Snapshot{};
      try {
        next.node.run();
        hide_until_waited_for(changes_since(before));
      } catch (const std::exception& error) {
        fail(error.what());
      }
    }
    ++s.done;
  }
}

cudaError_t drain(Stream& s, uint64_t count) {
  const std::scoped_lock lock(device().mutex);
  if (s.done < count) {
    const Reach reach;
    run_until(s, count);
  }
  return device().failed ? result(cudaErrorLaunchFailure) : cudaSuccess;
}

cudaError_t queue(Stream* stream, Node node) {
  const std::scoped_lock lock(device().mutex);
  if (device().failed) return result(cudaErrorLaunchFailure);
  Stream& s = of(stream);
  if (s.capture) {
    s.capture->nodes.push_back(std::move(node));
    return cudaSuccess;
  }
  s.queue.push_back({std::move(node), nullptr, {}});
  ++s.queued;
  return cudaSuccess;
}

cudaError_t drain_all() {
  for (Stream* s : device().streams) drain(*s, s->queued);
  return drain(device().plain, device().plain.queued);
}

}  // namespace

cudaError_t queue_launch(const cudaLaunchConfig_t& c, const void* kernel,
                         std::function<void()> body) {
  const size_t threads = size_t{c.blockDim.x} * c.blockDim.y * c.blockDim.z;
  const auto limit = device().shared_limit.find(kernel);
  const size_t most =
      limit == device().shared_limit.end() ? 48 * 1024 : static_cast<size_t>(limit->second);
  const bool empty = c.gridDim.x == 0 || c.gridDim.y == 0 || c.gridDim.z == 0;
  if (threads == 0 || threads > 1024 || empty || c.gridDim.y > 65535 || c.gridDim.z > 65535 ||
      c.dynamicSmemBytes > most) {
    return result(cudaErrorInvalidValue);
  }
  bool dependent = false;
  for (unsigned i = 0; i < c.numAttrs; ++i) {
    if (c.attrs[i].id == cudaLaunchAttributeClusterDimension) return result(cudaErrorNotSupported);
    if (c.attrs[i].id == cudaLaunchAttributeProgrammaticStreamSerialization) {
      if (capability() < 90) return result(cudaErrorNotSupported);
      dependent = c.attrs[i].val.programmaticStreamSerializationAllowed != 0;
    }
  }
  return queue(c.stream,
               {[grid = c.gridDim, block = c.blockDim, bytes = c.dynamicSmemBytes, dependent,
                 body = std::move(body)] { run_grid(grid, block, bytes, dependent, body); },
                true, dependent});
}

}  // namespace emulation

using emulation::device;
using emulation::result;

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
#define EMULATION_ERROR(name, number) \
  case cuda##name:                    \
    return "cuda" #name;
    EMULATION_ERRORS(EMULATION_ERROR)
#undef EMULATION_ERROR
  }
  return "unknown";
}
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure) return device().text.c_str();
  return cudaGetErrorName(error);
}
cudaError_t cudaGetLastError() { return std::exchange(device().last, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return device().last; }

cudaError_t cudaDriverGetVersion(int* version) {
  *version = emulation::setting("EMULATED_DRIVER", CUDART_VERSION);
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  *count = emulation::setting("EMULATED_DEVICES", 1);
  return *count > 0 ? cudaSuccess : result(cudaErrorNoDevice);
}
cudaError_t cudaSetDevice(int index) {
  return index == 0 ? cudaSuccess : result(cudaErrorInvalidDevice);
}
cudaError_t cudaGetDevice(int* index) {
  *index = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = emulation::most_shared() + 1024;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = emulation::most_shared();
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = emulation::setting("EMULATED_MULTIPROCESSORS", 4);
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = emulation::capability() / 10;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = emulation::capability() % 10;
      break;
    case cudaDevAttrClockRate:
      *value = 1500000;
      break;
    case cudaDevAttrMemoryClockRate:
    case cudaDevAttrGlobalMemoryBusWidth:
      *value = 0;  // the slowest memory, so that sharing work always pays
      break;
    case cudaDevAttrL2CacheSize:
      *value = 50 << 20;
      break;
    case cudaDevAttrMemoryPoolsSupported:
      *value = 0;
      break;
  }
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int index) {
  *p = {};
  std::strcpy(p->name, "emulated device");
  p->totalGlobalMem = emulation::kTotal;
  p->sharedMemPerBlockOptin = static_cast<size_t>(emulation::most_shared());
  p->l2CacheSize = 50 << 20;
  cudaDeviceGetAttribute(&p->major, cudaDevAttrComputeCapabilityMajor, index);
  cudaDeviceGetAttribute(&p->minor, cudaDevAttrComputeCapabilityMinor, index);
  return cudaDeviceGetAttribute(&p->multiProcessorCount, cudaDevAttrMultiProcessorCount, index);
}
cudaError_t cudaDeviceSynchronize() { return emulation::drain_all(); }
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *total = emulation::kTotal;
  *free = emulation::kTotal - device().arena.in_use;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const std::scoped_lock lock(device().mutex);
  emulation::Arena& a = device().arena;
  if (bytes == 0) {
    *pointer = nullptr;
    return cudaSuccess;
  }
  if (bytes > emulation::kTotal - a.in_use) return result(cudaErrorMemoryAllocation);
  const size_t span = emulation::Arena::span(bytes);
  size_t offset = a.top;
  const auto found = a.free.find(span);
  if (found != a.free.end()) {
    offset = found->second;
    a.free.erase(found);
  } else {
    if (a.top + span > emulation::kArena) return result(cudaErrorMemoryAllocation);
    a.top += span;
  }
  const emulation::Reach reach;
  a.protect(true);
  a.used[offset] = bytes;
  a.in_use += bytes;
  *pointer = a.base + offset;
  // Fresh memory holds no zeros to rely on; large blocks stay untouched, and cost nothing.
  if (bytes <= (1 << 20)) std::memset(*pointer, emulation::kPoison, bytes);
  return cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
  const std::scoped_lock lock(device().mutex);
  if (!pointer) return cudaSuccess;
  emulation::drain_all();
  emulation::Arena& a = device().arena;
  const auto found = a.used.find(static_cast<size_t>(static_cast<std::byte*>(pointer) - a.base));
  if (found == a.used.end()) return result(cudaErrorInvalidValue);
  const size_t span = emulation::Arena::span(found->second);
  madvise(pointer, span, MADV_DONTNEED);
  a.in_use -= found->second;
  a.free.emplace(span, found->first);
  a.used.erase(found);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  *pointer = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  return *pointer ? cudaSuccess : result(cudaErrorMemoryAllocation);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return cudaMallocHost(pointer, bytes);
}
cudaError_t cudaFreeHost(void* pointer) {
  emulation::drain_all();
  std::free(pointer);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void*, size_t, unsigned) { return cudaSuccess; }
cudaError_t cudaHostUnregister(void*) { return cudaSuccess; }

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const auto& arena = device().arena;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault &&
      (arena.holds(to) != to_device || arena.holds(from) != from_device)) {
    return result(cudaErrorInvalidValue);
  }
  return emulation::queue(stream, {[=] { std::memcpy(to, from, bytes); }});
}
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  if (!device().arena.holds(to)) return result(cudaErrorInvalidValue);
  return emulation::queue(stream, {[=] { std::memset(to, value, bytes); }});
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  const cudaError_t error = cudaMemsetAsync(to, value, bytes, nullptr);
  return error == cudaSuccess ? cudaStreamSynchronize(nullptr) : error;
}

// Operations that were queued and that nobody has waited for.
extern "C" size_t emulated_backlog() {
  const std::scoped_lock lock(device().mutex);
  size_t count = 0;
  for (const auto* stream : device().streams) count += stream->queue.size();
  return count;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new emulation::Stream;
  device().streams.push_back(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) { return cudaStreamCreateWithFlags(stream, 0); }
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  emulation::drain(*stream, stream->queued);
  std::erase(device().streams, stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  emulation::Stream& s = emulation::of(stream);
  if (s.capture) return result(cudaErrorStreamCaptureUnsupported);
  return emulation::drain(s, s.queued);
}
cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  emulation::Stream& s = emulation::of(stream);
  if (s.capture) return result(cudaErrorStreamCaptureUnsupported);
  s.queue.push_back({{}, event, *event});
  ++s.queued;
  return cudaSuccess;
}
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* argument) {
  return emulation::queue(stream, {[=] { function(argument); }});
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new emulation::Event;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  emulation::Stream& s = emulation::of(stream);
  *event = {&s, s.queued};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  return event->stream ? emulation::drain(*event->stream, event->at) : cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t, cudaEvent_t) {
  *milliseconds = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  if (!stream || stream->capture) return result(cudaErrorStreamCaptureUnsupported);
  stream->capture = new emulation::Graph;
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  if (!stream || !stream->capture) return result(cudaErrorStreamCaptureUnsupported);
  *graph = std::exchange(stream->capture, nullptr);
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      emulation::of(stream).capture ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new emulation::Graph(*graph);
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& node : exec->nodes) {
    if (const cudaError_t error = emulation::queue(stream, node); error != cudaSuccess)
      return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value > emulation::most_shared()) return result(cudaErrorInvalidValue);
    device().shared_limit[kernel] = value;
  }
  return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  return cudaSuccess;
}
