// The native module: opens backends by name, composes the packages and exports them.
#include <pybind11/pybind11.h>

#include <charconv>

#include "bindings/bindings.h"
#include "core/error.h"
#include "cpu/cpu_backend.h"
#include "cpu/isa.h"
#include "cuda/open.h"

namespace llama_rt {
namespace {

// The N of "cuda:N", 0 for "cuda"; throws ConfigError for anything else.
int cuda_index(const std::string& device) {
  if (device == "cuda") return 0;
  int index = -1;
  const char* end = device.data() + device.size();
  if (device.starts_with("cuda:")) {
    const auto [stop, error] = std::from_chars(device.data() + 5, end, index);
    if (error == std::errc() && stop == end && index >= 0) return index;
  }
  throw ConfigError("unknown device '" + device + "', expected auto, cpu, cuda or cuda:N");
}

}  // namespace

std::shared_ptr<Backend> open_backend(const std::string& device, const std::string& isa,
                                      int threads, bool reproducible) {
  if (device == "cpu") return cpu::open_cpu(isa, threads, reproducible);
  if (device != "auto") return open_cuda(cuda_index(device), reproducible);
  if (!isa.empty()) return cpu::open_cpu(isa, threads, reproducible);
  try {
    return open_cuda(0, reproducible);
  } catch (const BackendUnavailable&) {
    return cpu::open_cpu(isa, threads, reproducible);
  }
}

}  // namespace llama_rt

PYBIND11_MODULE(_native, m) {
  m.doc() = "Arithmetic and memory of llama_rt; python/llama_rt/_native.pyi describes it.";
  llama_rt::bind_errors(m);
  llama_rt::bind_platform(m);
  llama_rt::bind_tensor(m);
  llama_rt::bind_sampler(m);
  llama_rt::bind_tokenizer(m);
  llama_rt::bind_model(m);
#ifndef LLAMA_RT_WITHOUT_TEST_OPS
  llama_rt::bind_ops(m);
#endif
  llama_rt::cpu::usable_levels();  // the self check: a wrong processor is known from here on
}
