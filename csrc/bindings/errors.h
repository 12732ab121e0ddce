#pragma once

#include <pybind11/pybind11.h>

namespace llama_rt {

// Maps the classes of core/error.h to those of llama_rt.errors, one to one.
void bind_errors(pybind11::module_& m);

}  // namespace llama_rt
