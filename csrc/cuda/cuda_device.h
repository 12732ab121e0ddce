// What the driver says of a device.
#pragma once

#include <cstdint>
#include <string>

namespace llama_rt {

struct CudaDevice {
  std::string name;
  int major = 0;  // compute capability
  int minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
  int64_t free_bytes = 0;
  double bandwidth = 0;      // bytes per second that the memory's clock and width allow
  double multiply_rate = 0;  // multiply-adds per second of the tensor cores in bf16, as clocked
  std::string reason;        // why it cannot be used; empty: it can
};

}  // namespace llama_rt
