#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <span>
#include <vector>

#include "core/tensor.h"

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

// dtypes, decode, encode.
void bind_tensor(pybind11::module_& m);

}  // namespace llama_rt
