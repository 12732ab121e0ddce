#pragma once

#include <pybind11/pybind11.h>

#include "model/config.h"

namespace llama_rt {

// One choice by name; throws ConfigError naming `argument` and the choices.
KvType kv_type_named(const std::string& name);
Repack repack_named(const std::string& name);
RopeStyle rope_style_named(const std::string& name);
RopeRule rope_rule_named(const std::string& name);

// Backend, CancelFlag, Model, Runner, Sampled.
void bind_model(pybind11::module_& m);

}  // namespace llama_rt
