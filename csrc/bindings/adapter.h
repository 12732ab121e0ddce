#pragma once

#include <pybind11/pybind11.h>

namespace llama_rt {

// Adapter: the patches of a LoRA or LLaMA-Adapter on one model.
void bind_adapter(pybind11::module_& m);

}  // namespace llama_rt
