// The native module: composes the packages and exports them.
#include <pybind11/pybind11.h>

#include "bindings/bindings.h"
#include "cpu/isa.h"

PYBIND11_MODULE(_native, m) {
  m.doc() = "Arithmetic and memory of llama_rt; python/llama_rt/_native.pyi describes it.";
  llama_rt::bind_errors(m);
  llama_rt::bind_platform(m);
  llama_rt::bind_tensor(m);
  llama_rt::bind_sampler(m);
  llama_rt::bind_model(m);
  llama_rt::bind_ops(m);
  llama_rt::cpu::usable_levels();  // the self check: a wrong processor is known from here on
}
