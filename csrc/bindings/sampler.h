#pragma once

#include <pybind11/pybind11.h>

namespace llama_rt {

// Sampler, with `draw` for tests and for logits that Python changed.
void bind_sampler(pybind11::module_& m);

}  // namespace llama_rt
