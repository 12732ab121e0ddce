// Opens the CUDA backend, or the reason why there is none.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "cuda/cuda_device.h"

namespace llama_rt {

struct CudaDevices {
  std::vector<CudaDevice> devices;
  std::string reason;  // why there is none; empty: there are some
};

// Looks at the driver and the devices; never throws.
CudaDevices find_cuda();

// Bytes per second that all of device `index` read from `bytes` of its memory, for about `seconds`.
// Throws BackendUnavailable when it cannot be used, CapacityError when there is no room.
double cuda_read_bandwidth(int index, int64_t bytes, double seconds);

// Opens device `index`; throws BackendUnavailable with the reason when it cannot be used.
// `reproducible`: a token's bits do not depend on what it is computed with.
std::shared_ptr<Backend> open_cuda(int index, bool reproducible);

}  // namespace llama_rt
