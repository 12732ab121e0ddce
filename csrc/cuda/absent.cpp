// Replaces the CUDA room in a build without it.
#include "core/error.h"
#include "cuda/open.h"

namespace llama_rt {

std::shared_ptr<Backend> open_cuda(int index) {
  throw BackendUnavailable("cuda:" + std::to_string(index) +
                           " cannot be used: this build of llama_rt has no CUDA backend");
}

}  // namespace llama_rt
