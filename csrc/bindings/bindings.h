// What the sources of the native module share: array types, and the function of each that exports
// its part.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "core/tensor.h"
#include "model/config.h"

namespace llama_rt {

template <typename T>
using Array = pybind11::array_t<T, pybind11::array::c_style | pybind11::array::forcecast>;

// The bytes of any contiguous Python buffer, kept alive by the storage; dropping it takes the GIL.
std::shared_ptr<Storage> borrow_buffer(const pybind11::object& buffer);

// A float32 view of a numpy array with 1 to 3 axes.
View view_of(const Array<float>& array);

// Hands a vector to numpy without a copy.
pybind11::array_t<float> to_numpy(std::vector<float>&& values,
                                  std::vector<pybind11::ssize_t> shape);

// One choice by name; throws ConfigError naming `argument` and the choices.
KvType kv_type_named(const std::string& name);
Repack repack_named(const std::string& name);
RopeStyle rope_style_named(const std::string& name);
RopeRule rope_rule_named(const std::string& name);

// Maps the classes of core/error.h to those of llama_rt.errors, one to one.
void bind_errors(pybind11::module_& m);

// CpuInfo, cpu_info, cgroup and memory queries, read_bandwidth, and the pool for its tests.
void bind_platform(pybind11::module_& m);

// dtypes, decode, encode.
void bind_tensor(pybind11::module_& m);

// Sampler, with `sample` for tests and for logits that Python changed.
void bind_sampler(pybind11::module_& m);

// BytePairEncoder.
void bind_tokenizer(pybind11::module_& m);

// Adapter: the patches of a LoRA or LLaMA-Adapter on one model.
void bind_adapter(pybind11::module_& m);

// Backend, CancelFlag, Model, Runner, Sampled.
void bind_model(pybind11::module_& m);

// Every op alone, for tests; release wheels are built without (LLAMA_RT_TEST_OPS=OFF).
void bind_ops(pybind11::module_& m);

// Opens "auto", "cpu", "cuda" or "cuda:N"; the rest applies to the CPU: `isa` and `threads` ("" and
// 0: the best), `reproducible` (the same kernels for any number of tokens). Throws
// BackendUnavailable with the reason for a device or ISA level that was named and cannot be used.
std::shared_ptr<Backend> open_backend(const std::string& device, const std::string& isa,
                                      int threads, bool reproducible);

}  // namespace llama_rt
