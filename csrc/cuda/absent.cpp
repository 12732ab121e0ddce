// Replaces csrc/cuda in a build without it.
#include "core/error.h"
#include "cuda/open.h"

namespace llama_rt {

CudaDevices find_cuda() { return {{}, "this build of llama_rt has no CUDA backend"}; }

double cuda_read_bandwidth(int index, int64_t, double) {
  open_cuda(index, false);
  return 0;
}

std::shared_ptr<Backend> open_cuda(int index, bool) {
  throw BackendUnavailable("cuda:" + std::to_string(index) +
                           " cannot be used: " + find_cuda().reason);
}

}  // namespace llama_rt
