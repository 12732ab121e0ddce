// The only way a kernel is started, and how an error of the runtime becomes an exception. There is
// no <<<>>> in this folder, so that its sources are also plain C++.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

namespace llama_rt::cuda {

// Throws DeviceError, naming `what` was being done, unless `error` is success.
void check(cudaError_t error, const char* what);

struct Launch {
  cudaStream_t stream = nullptr;
  dim3 grid = dim3(1, 1, 1);
  dim3 block = dim3(1, 1, 1);
  size_t shared_bytes = 0;       // dynamic
  bool overlap = true;           // may begin while the kernel before it ends (see warp.cuh)
  dim3 cluster = dim3(1, 1, 1);  // blocks that share memory; sm_90
};

// Most dynamic shared memory a kernel gets without asking, and by asking on every device (sm_86).
inline constexpr size_t kPlainShared = 48 * 1024;
inline constexpr size_t kLeastShared = 99 * 1024;

// Overlap and clusters need sm_90; a backend says of its device what this thread may do.
void allow_overlap(bool allowed);
bool overlap_allowed();

// Starts `kernel`. With `overlap` it may be scheduled before the kernel before it has finished:
// every kernel of this folder waits (wait_for_previous) before it reads or writes global memory
// that others touch.
template <class... Parameters, class... Arguments>
void launch(const Launch& how, void (*kernel)(Parameters...), Arguments&&... arguments) {
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchConfig_t config = {};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = how.stream;
  config.attrs = attributes;
  if (how.overlap && overlap_allowed()) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    a.val.programmaticStreamSerializationAllowed = 1;
  }
  if (how.cluster.x * how.cluster.y * how.cluster.z > 1) {
    cudaLaunchAttribute& a = attributes[config.numAttrs++];
    a.id = cudaLaunchAttributeClusterDimension;
    a.val.clusterDim.x = how.cluster.x;
    a.val.clusterDim.y = how.cluster.y;
    a.val.clusterDim.z = how.cluster.z;
  }
  if (how.shared_bytes > kPlainShared) {
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(how.shared_bytes)),
          "asking for shared memory");
  }
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
        "starting a kernel");
}

inline unsigned blocks_for(int64_t items, int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

}  // namespace llama_rt::cuda
