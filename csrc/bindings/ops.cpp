// Shows every op to the tests: numpy in, numpy out, on any backend and tier.
#include "bindings/ops.h"

#include <pybind11/stl.h>

#include <optional>

#include "backend/backend.h"
#include "bindings/model.h"
#include "bindings/tensor.h"
#include "core/error.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

Array<float> like(View view) {
  std::vector<py::ssize_t> shape;
  for (int i = 0; i < view.shape.rank; ++i) shape.push_back(view.shape[i]);
  return Array<float>(shape);
}

Tensor matrix(const py::object& data, const std::string& dtype, int64_t rows, int64_t cols) {
  return Tensor(borrow_buffer(data), dtype_named(dtype).id, Shape(rows, cols), "weight");
}

Array<float> matmul(Backend& backend, const Array<float>& x, const py::object& weight,
                    const std::string& dtype, int64_t rows, const std::optional<Array<float>>& bias,
                    const std::string& repack) {
  const View in = view_of(x);
  const Weight w = backend.prepare(matrix(weight, dtype, rows, in.shape.row()), Role::kLinear,
                                   repack_named(repack));
  if (bias && bias->size() != rows) throw ShapeError("matmul: bias must have one value per row");
  Array<float> out({in.shape.rows(), rows});
  const Linear job[] = {{&w, bias ? bias->data() : nullptr, view_of(out)}};
  const py::gil_scoped_release release;
  backend.step([&] { backend.matmul(in, job); });
  return out;
}

Array<float> embed(Backend& backend, const py::object& table, const std::string& dtype,
                   int64_t rows, int64_t dim, const Array<int32_t>& tokens) {
  const Weight w =
      backend.prepare(matrix(table, dtype, rows, dim), Role::kEmbedding, Repack::kNever);
  Array<float> out({static_cast<int64_t>(tokens.size()), dim});
  const View ids{reinterpret_cast<std::byte*>(const_cast<int32_t*>(tokens.data())), DType::kF32,
                 Shape(tokens.size()), 0};
  backend.embed(w, ids, view_of(out));
  return out;
}

Array<float> rms_norm(Backend& backend, const Array<float>& x, const Array<float>& gain,
                      float eps) {
  const View in = view_of(x);
  if (gain.size() != in.shape.row())
    throw ShapeError("rms_norm: gain must have one value per column");
  Array<float> out = like(in);
  backend.rms_norm(in, gain.data(), eps, view_of(out));
  return out;
}

Array<float> swiglu(Backend& backend, const Array<float>& gate, const Array<float>& up) {
  Array<float> out = like(view_of(gate));
  backend.swiglu(view_of(gate), view_of(up), view_of(out));
  return out;
}

Array<float> rope(Backend& backend, const Array<float>& x, const Array<int32_t>& positions,
                  const Array<float>& cos, const Array<float>& sin, const std::string& style) {
  const View in = view_of(x);
  const View cosines = view_of(cos), sines = view_of(sin);
  Array<float> out = like(in);
  std::copy_n(x.data(), x.size(), out.mutable_data());
  // Rows of the tables for the positions asked.
  const int64_t half = cosines.shape.row();
  std::vector<float> c, s;
  for (py::ssize_t i = 0; i < positions.size(); ++i) {
    const int32_t p = positions.data()[i];
    if (p < 0 || p >= cosines.shape[0]) throw ShapeError("rope: position outside the table");
    c.insert(c.end(), cosines.f32(p), cosines.f32(p) + half);
    s.insert(s.end(), sines.f32(p), sines.f32(p) + half);
  }
  const Shape rows(positions.size(), half);
  backend.rope(view_of(out),
               {f32_view(c.data(), rows), f32_view(s.data(), rows), rope_style_named(style)});
  return out;
}

Array<float> attention(Backend& backend, const Array<float>& q, const Array<float>& k,
                       const Array<float>& v, const std::string& kv_dtype, int64_t window) {
  const View queries = view_of(q), keys = view_of(k), values = view_of(v);
  if (queries.shape.rank != 3 || keys.shape.rank != 3 || keys.shape[0] < queries.shape[0]) {
    throw ShapeError("attention: q must be [n, h, e] and k, v [t, g, e] with t >= n");
  }
  const int64_t n = queries.shape[0], t = keys.shape[0];
  const KvLayout layout =
      backend.kv_layout(kv_type_named(kv_dtype), 1, keys.shape[1], keys.shape[2]);
  const int64_t count = (t + layout.page_tokens - 1) / layout.page_tokens;
  const auto storage = backend.allocate(static_cast<size_t>(count * layout.page_bytes()));
  std::vector<int32_t> pages;  // backwards, so that a page's index is not its place
  for (int64_t i = count; i-- > 0;) pages.push_back(static_cast<int32_t>(i));
  Array<float> out = like(queries);
  if (t == 0) return out;
  const Segment all[] = {{0, t, 0, pages.data()}};
  backend.store_kv(keys, values, {&layout, storage->data(), 0, all});
  if (n == 0) return out;
  const Segment last[] = {{0, n, t - n, pages.data()}};
  const float scale = 1.0f / std::sqrt(static_cast<float>(queries.shape[2]));
  const AttentionSpec spec{queries.shape[1], scale, window};
  backend.step(
      [&] { backend.attention(queries, {&layout, storage->data(), 0, last}, spec, view_of(out)); });
  return out;
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
