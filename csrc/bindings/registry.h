// Which backends there are: the composition root of the native module.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"

namespace llama_rt {

// "auto", "cpu", "cuda" or "cuda:N"; the rest applies to the CPU: `isa` and `threads` ("" and 0:
// the best), `reproducible` (the same kernels for any number of tokens). Throws BackendUnavailable
// with the reason for a device or ISA level that was named and cannot be used.
std::shared_ptr<Backend> open_backend(const std::string& device, const std::string& isa,
                                      int threads, bool reproducible);

}  // namespace llama_rt
