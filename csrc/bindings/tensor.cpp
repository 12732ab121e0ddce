// Memory that crosses the border: Python buffers in, numpy arrays out, and the dtype table.
#include "core/tensor.h"

#include <pybind11/stl.h>

#include <optional>
#include <utility>

#include "bindings/bindings.h"
#include "core/error.h"
#include "cpu/requantize.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

py::array_t<float> decode(const py::object& data, const std::string& dtype, int64_t count) {
  const DTypeInfo& row = dtype_named(dtype);
  const auto storage = borrow_buffer(data);
  if (count < 0) throw ShapeError("decode: count must not be negative");
  const Tensor tensor(storage, row.id, Shape(count), "decode");
  std::vector<float> values;
  {
    const py::gil_scoped_release release;
    values = to_floats(tensor);
  }
  return to_numpy(std::move(values), {count});
}

py::array_t<uint8_t> encode(const Array<float>& values, const std::string& dtype,
                            const std::string& isa) {
  const DTypeInfo& row = dtype_named(dtype);
  if (values.ndim() < 1) throw ShapeError("encode: an array of at least one axis is needed");
  const int64_t k = values.shape(values.ndim() - 1);
  const int64_t bytes = row_bytes(row.id, k);
  const int64_t rows = k > 0 ? values.size() / k : 0;
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(rows * bytes));
  auto* to = reinterpret_cast<std::byte*>(out.mutable_data());
  const float* from = values.data();
  const py::gil_scoped_release release;
  cpu::encode_floats(row.id, from, nullptr, rows * k, to, isa);
  return out;
}

py::array_t<uint8_t> requantize(const py::object& data, const std::string& dtype, int64_t k,
                                const std::string& target,
                                const std::optional<Array<int64_t>>& order,
                                const std::optional<Array<float>>& importance, int threads) {
  const DTypeInfo& from = dtype_named(dtype);
  const DTypeInfo& to = dtype_named(target);
  const int64_t from_bytes = row_bytes(from.id, k), to_bytes = row_bytes(to.id, k);
  const auto storage = borrow_buffer(data);
  const auto bytes = static_cast<int64_t>(storage->bytes());
  const int64_t stored = from_bytes > 0 ? bytes / from_bytes : 0;
  if (stored * from_bytes != bytes) {
    throw ShapeError("requantize: " + std::to_string(bytes) + " bytes are not whole rows of " +
                     std::to_string(from_bytes));
  }
  if (importance && importance->size() != k) {
    throw ShapeError("requantize: importance has " + std::to_string(importance->size()) +
                     " values for rows of " + std::to_string(k));
  }
  const int64_t rows = order ? order->size() : stored;
  for (int64_t i = 0; order && i < rows; ++i) {
    if (order->data()[i] < 0 || order->data()[i] >= stored) {
      throw ShapeError("requantize: there is no row " + std::to_string(order->data()[i]) + " in " +
                       std::to_string(stored));
    }
  }
  py::array_t<uint8_t> out(static_cast<py::ssize_t>(rows * to_bytes));
  const cpu::RequantizeTask task{from.id,
                                 to.id,
                                 storage->data(),
                                 rows,
                                 k,
                                 order ? order->data() : nullptr,
                                 importance ? importance->data() : nullptr,
                                 reinterpret_cast<std::byte*>(out.mutable_data())};
  const py::gil_scoped_release release;
  cpu::requantize(task, threads);
  return out;
}

}  // namespace

std::shared_ptr<Storage> borrow_buffer(const py::object& buffer) {
  auto view = std::make_unique<Py_buffer>();
  if (PyObject_GetBuffer(buffer.ptr(), view.get(), PyBUF_SIMPLE) != 0) {
    throw py::error_already_set();
  }
  auto* data = static_cast<std::byte*>(view->buf);
  const auto bytes = static_cast<size_t>(view->len);
  return Storage::borrow(data, bytes, [view = std::shared_ptr<Py_buffer>(std::move(view))] {
    if (!Py_IsInitialized()) return;
    const py::gil_scoped_acquire acquire;
    PyBuffer_Release(view.get());
  });
}

View view_of(const Array<float>& array) {
  Shape shape;
  shape.rank = static_cast<int>(array.ndim());
  if (shape.rank < 1 || shape.rank > 3) throw ShapeError("an array of 1 to 3 axes is needed");
  for (int i = 0; i < shape.rank; ++i) shape.extent[static_cast<size_t>(i)] = array.shape(i);
  return f32_view(const_cast<float*>(array.data()), shape);
}

py::array_t<float> to_numpy(std::vector<float>&& values, std::vector<py::ssize_t> shape) {
  auto* owned = new std::vector<float>(std::move(values));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<float>*>(p); });
  return py::array_t<float>(std::move(shape), owned->data(), owner);
}

void bind_tensor(py::module_& m) {
  py::class_<DTypeInfo>(m, "DTypeInfo", py::is_final())
      .def_property_readonly("name", [](const DTypeInfo& d) { return std::string(d.name); })
      .def_readonly("block_elements", &DTypeInfo::block_elements)
      .def_readonly("block_bytes", &DTypeInfo::block_bytes)
      .def_readonly("gguf_id", &DTypeInfo::gguf_id)
      .def_readonly("encodable", &DTypeInfo::encodable);
  m.def("dtypes", [] {
    py::list rows;
    for (const DTypeInfo& row : dtypes()) rows.append(row);
    return rows;
  });
  m.def("decode", &decode, py::arg("data"), py::arg("dtype"), py::arg("count"));
  m.def("encode", &encode, py::arg("values"), py::arg("dtype"), py::kw_only(), py::arg("isa") = "");
  m.def("requantize", &requantize, py::arg("data"), py::arg("dtype"), py::arg("k"),
        py::arg("target"), py::kw_only(), py::arg("order") = py::none(),
        py::arg("importance") = py::none(), py::arg("threads") = 0);
}

}  // namespace llama_rt
