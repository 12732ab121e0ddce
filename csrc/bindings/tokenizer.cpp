// Exports the byte-pair encoder: one call encodes all words of a text without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bindings/bindings.h"
#include "core/error.h"
#include "tokenizer/byte_pair_encoder.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

std::vector<std::string> tokens_as_bytes(const py::list& tokens) {
  std::vector<std::string> all;
  all.reserve(tokens.size());
  for (const py::handle token : tokens) all.emplace_back(py::cast<std::string>(token));
  return all;
}

std::unique_ptr<BytePairEncoder> make_byte_pair_encoder(const py::list& tokens,
                                                        const std::optional<Array<int32_t>>& merges,
                                                        bool whole_words) {
  const std::vector<std::string> all = tokens_as_bytes(tokens);
  if (!merges) return std::make_unique<BytePairEncoder>(all, merges_of_ranks(all), whole_words);
  if (merges->ndim() != 2 || merges->shape(1) != 3) {
    throw ShapeError("byte-pair encoder: expected merges [m, 3]");
  }
  const auto rows = merges->unchecked<2>();
  std::vector<Merge> listed;
  listed.reserve(static_cast<size_t>(rows.shape(0)));
  for (py::ssize_t i = 0; i < rows.shape(0); ++i) {
    listed.push_back({rows(i, 0), rows(i, 1), static_cast<int32_t>(i), rows(i, 2)});
  }
  return std::make_unique<BytePairEncoder>(all, listed, whole_words);
}

py::list encode_words(const BytePairEncoder& encoder, const py::list& words) {
  std::vector<std::string_view> views;
  views.reserve(words.size());
  for (const py::handle word : words) {
    Py_ssize_t size = 0;
    const char* text = PyUnicode_AsUTF8AndSize(word.ptr(), &size);  // lives as long as the str
    if (text == nullptr) throw py::error_already_set();
    views.emplace_back(text, static_cast<size_t>(size));
  }
  std::vector<int32_t> ids;
  {
    const py::gil_scoped_release release;
    encoder.encode(views, ids);
  }
  py::list result(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    PyList_SET_ITEM(result.ptr(), static_cast<Py_ssize_t>(i), PyLong_FromLong(ids[i]));
  }
  return result;
}

}  // namespace

void bind_tokenizer(py::module_& m) {
  py::class_<BytePairEncoder>(m, "BytePairEncoder", py::is_final())
      .def(py::init(&make_byte_pair_encoder), py::arg("tokens"), py::arg("merges").none(true),
           py::kw_only(), py::arg("whole_words"))
      .def("encode", &encode_words, py::arg("words"));
}

}  // namespace llama_rt
