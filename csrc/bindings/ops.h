#pragma once

#include <pybind11/pybind11.h>

namespace llama_rt {

// Every op alone, for tests.
void bind_ops(pybind11::module_& m);

}  // namespace llama_rt
