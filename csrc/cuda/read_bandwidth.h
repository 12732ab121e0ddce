// What a device's memory gives: the limit that decoding is measured against.
#pragma once

#include <cstdint>

namespace llama_rt::cuda {

// Bytes per second read from a buffer of `bytes`, in passes of about `seconds` together.
double read_bandwidth(int index, int multiprocessors, int64_t bytes, double seconds);

}  // namespace llama_rt::cuda
