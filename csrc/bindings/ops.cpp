// Shows every op to the tests: numpy in, numpy out, on any backend and ISA level.
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <span>

#include "backend/backend.h"
#include "backend/staging.h"
#include "bindings/bindings.h"
#include "core/error.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

// Values in the backend's memory.
struct DeviceArray {
  std::shared_ptr<Storage> storage;
  View view;
};

DeviceArray to_device(Backend& backend, Shape shape) {
  const auto bytes = static_cast<size_t>(shape.elements()) * sizeof(float);
  auto storage = backend.allocate(bytes);
  return {storage, f32_view(reinterpret_cast<float*>(storage->data()), shape)};
}

DeviceArray to_device(Backend& backend, const Array<float>& values) {
  DeviceArray array = to_device(backend, view_of(values).shape);
  backend.upload(array.storage->data(), values.data(), static_cast<size_t>(values.nbytes()));
  return array;
}

DeviceArray to_device(Backend& backend, std::span<const int32_t> values) {
  DeviceArray array = to_device(backend, Shape(static_cast<int64_t>(values.size())));
  backend.upload(array.storage->data(), values.data(), values.size_bytes());
  return array;
}

Array<float> read_back(Backend& backend, const DeviceArray& array) {
  std::vector<py::ssize_t> shape;
  for (int i = 0; i < array.view.shape.rank; ++i) shape.push_back(array.view.shape[i]);
  Array<float> out(shape);
  backend.download(out.mutable_data(), array.view.data, static_cast<size_t>(out.nbytes()));
  return out;
}

Tensor matrix(const py::object& data, const std::string& dtype, int64_t rows, int64_t cols) {
  return Tensor(borrow_buffer(data), dtype_named(dtype).id, Shape(rows, cols), "weight");
}

Array<float> matmul(Backend& backend, const Array<float>& x, const py::object& weight,
                    const std::string& dtype, int64_t rows, const std::optional<Array<float>>& bias,
                    const std::string& repack) {
  const Shape shape = view_of(x).shape;
  const Weight w = backend.prepare(matrix(weight, dtype, rows, shape.row()), Role::kLinear,
                                   repack_named(repack));
  if (bias && bias->size() != rows) throw ShapeError("matmul: bias must have one value per row");
  const DeviceArray in = to_device(backend, x), out = to_device(backend, Shape(shape.rows(), rows));
  const DeviceArray added = bias ? to_device(backend, *bias) : DeviceArray{};
  const Linear job[] = {{&w, bias ? added.view.f32() : nullptr, out.view}};
  {
    const py::gil_scoped_release release;
    backend.step([&] { backend.matmul(in.view, job); });
  }
  return read_back(backend, out);
}

Array<float> embed(Backend& backend, const py::object& table, const std::string& dtype,
                   int64_t rows, int64_t dim, const Array<int32_t>& tokens) {
  const Weight w =
      backend.prepare(matrix(table, dtype, rows, dim), Role::kEmbedding, Repack::kNever);
  const std::span<const int32_t> ids(tokens.data(), static_cast<size_t>(tokens.size()));
  for (const int32_t id : ids) {
    if (id >= 0 && id < rows) continue;
    throw ShapeError("embed: token " + std::to_string(id) + " is outside the vocabulary of " +
                     std::to_string(rows));
  }
  const DeviceArray in = to_device(backend, ids),
                    out = to_device(backend, Shape(tokens.size(), dim));
  const std::span<const int32_t> device_ids(reinterpret_cast<const int32_t*>(in.storage->data()),
                                            ids.size());
  backend.step([&] { backend.embed(w, device_ids, out.view); });
  return read_back(backend, out);
}

Array<float> rms_norm(Backend& backend, const Array<float>& x, const Array<float>& gain,
                      float eps) {
  const DeviceArray in = to_device(backend, x), gains = to_device(backend, gain);
  if (gain.size() != in.view.shape.row())
    throw ShapeError("rms_norm: gain must have one value per column");
  const DeviceArray out = to_device(backend, in.view.shape);
  backend.step([&] { backend.rms_norm(in.view, gains.view.f32(), eps, out.view); });
  return read_back(backend, out);
}

Array<float> swiglu(Backend& backend, const Array<float>& gate, const Array<float>& up) {
  const DeviceArray g = to_device(backend, gate), u = to_device(backend, up);
  const DeviceArray out = to_device(backend, g.view.shape);
  backend.step([&] { backend.swiglu(g.view, u.view, out.view); });
  return read_back(backend, out);
}

Array<float> rope(Backend& backend, const Array<float>& x, const Array<int32_t>& positions,
                  const Array<float>& cos, const Array<float>& sin, const std::string& style) {
  const View cosines = view_of(cos), sines = view_of(sin);
  // Rows of the tables for the positions asked.
  const int64_t half = cosines.shape.row();
  Array<float> c({static_cast<int64_t>(positions.size()), half}), s(c.request().shape);
  for (py::ssize_t i = 0; i < positions.size(); ++i) {
    const int32_t p = positions.data()[i];
    if (p < 0 || p >= cosines.shape[0]) throw ShapeError("rope: position outside the table");
    std::copy_n(cosines.f32(p), half, c.mutable_data() + i * half);
    std::copy_n(sines.f32(p), half, s.mutable_data() + i * half);
  }
  const DeviceArray in = to_device(backend, x), row_cosines = to_device(backend, c),
                    row_sines = to_device(backend, s);
  const RopeStyle pairs = rope_style_named(style);
  backend.step([&] { backend.rope(in.view, {row_cosines.view, row_sines.view, pairs}); });
  return read_back(backend, in);
}

Array<float> attention(Backend& backend, const Array<float>& q, const Array<float>& k,
                       const Array<float>& v, const std::string& kv_dtype, int64_t window) {
  const DeviceArray queries = to_device(backend, q), keys = to_device(backend, k),
                    values = to_device(backend, v);
  const Shape q_shape = queries.view.shape, k_shape = keys.view.shape;
  if (q_shape.rank != 3 || k_shape.rank != 3 || k_shape[0] < q_shape[0]) {
    throw ShapeError("attention: q must be [n, h, e] and k, v [t, g, e] with t >= n");
  }
  const int64_t n = q_shape[0], t = k_shape[0];
  const KvLayout layout = backend.kv_layout(kv_type_named(kv_dtype), 1, k_shape[1], k_shape[2]);
  const int64_t count = (t + kPageTokens - 1) / kPageTokens;
  const auto storage = backend.allocate(static_cast<size_t>(count * layout.page_bytes()));
  std::vector<int32_t> pages;  // backwards, so that a page's index is not its place
  for (int64_t i = count; i-- > 0;) pages.push_back(static_cast<int32_t>(i));
  const DeviceArray out = to_device(backend, q_shape);
  if (t == 0) return read_back(backend, out);
  const Segment all[] = {{0, t, 0, pages}}, last[] = {{0, n, t - n, pages}};
  Staging staging(backend);
  // A table says that what lies before its rows is stored: each step has its own.
  const auto staged = [&](std::span<const Segment> segments) {
    staging.begin(Staging::segment_bytes(t, 1, count));
    const SegmentTable table = staging.segments(segments, count);
    staging.send();
    return KvView{&layout, storage->data(), 0, segments, table};
  };
  const KvView stored = staged(all);
  backend.step([&] { backend.store_kv(keys.view, values.view, stored); });
  if (n == 0) return read_back(backend, out);
  const float scale = 1.0f / std::sqrt(static_cast<float>(q_shape[2]));
  const AttentionSpec spec{q_shape[1], scale, window};
  const KvView seen = staged(last);
  backend.step([&] { backend.attention(queries.view, seen, spec, out.view); });
  return read_back(backend, out);
}

}  // namespace

void bind_ops(py::module_& m) {
  m.def("op_matmul", &matmul, py::arg("backend"), py::arg("x"), py::arg("weight"), py::arg("dtype"),
        py::arg("rows"), py::kw_only(), py::arg("bias") = py::none(), py::arg("repack") = "auto");
  m.def("op_embed", &embed, py::arg("backend"), py::arg("table"), py::arg("dtype"), py::arg("rows"),
        py::arg("dim"), py::arg("tokens"));
  m.def("op_rms_norm", &rms_norm, py::arg("backend"), py::arg("x"), py::arg("gain"),
        py::arg("eps"));
  m.def("op_swiglu", &swiglu, py::arg("backend"), py::arg("gate"), py::arg("up"));
  m.def("op_rope", &rope, py::arg("backend"), py::arg("x"), py::arg("positions"), py::arg("cos"),
        py::arg("sin"), py::arg("style"));
  m.def("op_attention", &attention, py::arg("backend"), py::arg("q"), py::arg("k"), py::arg("v"),
        py::kw_only(), py::arg("kv_dtype"), py::arg("window") = 0);
}

}  // namespace llama_rt
