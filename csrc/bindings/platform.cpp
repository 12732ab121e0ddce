// Exports what platform/ knows about the machine.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bindings/bindings.h"
#include "core/error.h"
#include "cpu/isa.h"
#include "cuda/kv_layout.h"
#include "cuda/open.h"
#include "platform/cgroup.h"
#include "platform/memory.h"
#include "platform/processor.h"
#include "platform/thread_pool.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

// For tests of the pool: splits `chunks` over `threads`, `repeats` times under one lease, and
// returns for each chunk the worker that did it last. The worker that meets `fail_at` throws.
std::vector<int> pool_split(int threads, int64_t chunks, bool dynamic, int repeats,
                            int64_t fail_at) {
  if (chunks < 0 || chunks > 1 << 20) {
    throw ConfigError("pool_split: chunks must be in [0, 2^20], got " + std::to_string(chunks));
  }
  std::vector<int> worker_of(static_cast<size_t>(chunks), -1);
  std::vector<int> times(static_cast<size_t>(chunks), 0);
  const auto body = [&](int64_t begin, int64_t end, int worker) {
    for (int64_t i = begin; i < end; ++i) {
      if (i == fail_at) throw Error("pool_split: failed at chunk " + std::to_string(i));
      worker_of[static_cast<size_t>(i)] = worker;
      ++times[static_cast<size_t>(i)];
    }
  };
  const ThreadPool::Lease lease(threads);
  for (int i = 0; i < repeats; ++i) {
    if (dynamic) {
      parallel_for_dynamic(threads, chunks, 1, body);
    } else {
      parallel_for(threads, chunks, body);
    }
  }
  for (const int count : times) {
    if (count == repeats) continue;
    throw Error("pool_split: a chunk was done " + std::to_string(count) + " times, not " +
                std::to_string(repeats));
  }
  return worker_of;
}

void advise_buffer(const py::buffer& data) {
  const py::buffer_info info = data.request();
  advise_dontneed(info.ptr, static_cast<size_t>(info.size * info.itemsize));
}

double interruptible_read_bandwidth(int threads, size_t buffer_bytes, double seconds) {
  const auto check_signals = [] {
    const py::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  };
  return read_bandwidth(threads, buffer_bytes, seconds, check_signals);
}

// Of keys and values of all layers, as the cache of a "cpu" or "cuda" backend lays them out; needs
// no such backend here.
int64_t kv_bytes_per_token(const std::string& device, const std::string& kv_dtype, int64_t layers,
                           int64_t kv_heads, int64_t head_dim) {
  const KvType type = kv_type_named(kv_dtype);
  const auto& formats = cpu::kernels_for(cpu::Isa::kScalar).kv;
  const int64_t head = device.starts_with("cuda")
                           ? cuda::kv_head_bytes(type, head_dim)
                           : formats[static_cast<size_t>(type)].head_bytes(head_dim);
  return layers * kv_heads * head / kPageTokens;
}

}  // namespace

void bind_platform(py::module_& m) {
  py::class_<CpuInfo>(m, "CpuInfo", py::is_final())
      .def_property_readonly("tiers",
                             [](const CpuInfo&) {
                               std::vector<std::string> names;
                               for (const cpu::Isa isa : cpu::usable_levels()) {
                                 names.emplace_back(cpu::isa_name(isa));
                               }
                               return names;
                             })
      .def_property_readonly("unused_tiers",
                             [](const CpuInfo&) {
                               std::map<std::string, std::string> reasons;
                               for (const cpu::UnusedLevel& level : cpu::unused_levels()) {
                                 reasons.emplace(level.name, level.reason);
                               }
                               return reasons;
                             })
      .def_property_readonly("missing_levels",
                             [](const CpuInfo&) {
                               std::vector<std::string> names;
                               for (const cpu::UnusedLevel& level : cpu::unused_levels()) {
                                 if (!level.built) names.emplace_back(level.name);
                               }
                               return names;
                             })
      .def_readonly("cores", &CpuInfo::cores)
      .def_readonly("physical_cores", &CpuInfo::physical_cores)
      .def_readonly("quota", &CpuInfo::quota)
      .def_readonly("default_threads", &CpuInfo::default_threads)
      .def_readonly("model", &CpuInfo::model);
  m.def("cpu_info", [] { return cpu_info(); });
  py::class_<CudaDevice>(m, "CudaDevice", py::is_final())
      .def_readonly("name", &CudaDevice::name)
      .def_property_readonly("capability",
                             [](const CudaDevice& d) { return std::pair(d.major, d.minor); })
      .def_readonly("multiprocessors", &CudaDevice::multiprocessors)
      .def_readonly("memory_bytes", &CudaDevice::memory_bytes)
      .def_readonly("free_bytes", &CudaDevice::free_bytes)
      .def_readonly("bandwidth", &CudaDevice::bandwidth)
      .def_readonly("multiply_rate", &CudaDevice::multiply_rate)
      .def_readonly("reason", &CudaDevice::reason);
  m.def(
      "cuda_devices",
      [] {
        CudaDevices found = find_cuda();
        return std::pair(std::move(found.devices), std::move(found.reason));
      },
      py::call_guard<py::gil_scoped_release>());
  m.def("isa_names", &cpu::isa_names);
  m.def("kv_bytes_per_token", &kv_bytes_per_token, py::arg("device"), py::arg("kv_dtype"),
        py::arg("layers"), py::arg("kv_heads"), py::arg("head_dim"));
  m.attr("KV_PAGE_TOKENS") = kPageTokens;
  m.def("cgroup_quota", &cgroup_quota, py::arg("root"));
  m.def("cgroup_memory_limit", &cgroup_memory_limit, py::arg("root"));
  m.def("cgroup_available_memory", &cgroup_available_memory, py::arg("root"));
  m.def("available_memory", &available_memory);
  m.def("advise_dontneed", &advise_buffer, py::arg("data"));
  m.def("read_bandwidth", &interruptible_read_bandwidth, py::arg("threads"),
        py::arg("buffer_bytes") = size_t{2} << 30, py::arg("seconds") = 1.0,
        py::call_guard<py::gil_scoped_release>());
  m.def("cuda_read_bandwidth", &cuda_read_bandwidth, py::arg("index"),
        py::arg("buffer_bytes") = int64_t{2} << 30, py::arg("seconds") = 0.5,
        py::call_guard<py::gil_scoped_release>());
  m.def("pool_size", [] { return ThreadPool::instance().size(); });
  m.def("pool_split", &pool_split, py::arg("threads"), py::arg("chunks"), py::kw_only(),
        py::arg("dynamic") = false, py::arg("repeats") = 1, py::arg("fail_at") = -1,
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace llama_rt
