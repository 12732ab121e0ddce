// The door to the CUDA room: a backend, or the reason why there is none.
#pragma once

#include <memory>

#include "backend/backend.h"

namespace llama_rt {

// Opens device `index`; throws BackendUnavailable with the reason when it cannot be used.
std::shared_ptr<Backend> open_cuda(int index);

}  // namespace llama_rt
