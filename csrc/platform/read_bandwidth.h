// Measures how fast this machine reads memory: the yardstick for everything bandwidth-bound.
#pragma once

#include <cstddef>

#include "core/function_ref.h"

namespace llama_rt {

// Bytes per second of the fastest pass of `threads` pool threads over a buffer of `buffer_bytes`
// (huge pages, every byte read and used). Passes try several access patterns in turn, each at
// least once, and repeat for about `seconds`.
// Give at least 2 GiB to measure memory: last-level caches of 480 MiB exist.
//
// `between` is called several times a second and may throw to end the measurement.
//
// Throws ConfigError on a thread count, size or time that is not positive, CapacityError when the
// buffer does not fit the memory that is available.
double read_bandwidth(int threads, size_t buffer_bytes, double seconds,
                      FunctionRef<void()> between);

}  // namespace llama_rt
