#pragma once

#include <pybind11/pybind11.h>

namespace llama_rt {

// CpuInfo, cpu_info, cgroup and memory queries, read_bandwidth, and the pool for its tests.
void bind_platform(pybind11::module_& m);

}  // namespace llama_rt
