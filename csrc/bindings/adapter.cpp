// Adapters as Python builds them: delta by delta, arrays already in the base's rotary order.
#include "model/adapters/adapter.h"

#include <span>
#include <string>

#include "bindings/bindings.h"
#include "core/error.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

Projection slot_named(const std::string& name) {
  constexpr const char* kNames[kProjections] = {"wq", "wk", "wv", "wo", "w1", "w3", "w2"};
  for (size_t i = 0; i < kProjections; ++i) {
    if (name == kNames[i]) return static_cast<Projection>(i);
  }
  throw ConfigError("slot must be one of wq, wk, wv, wo, w1, w2, w3, got '" + name + "'");
}

Norm norm_named(const std::string& name) {
  if (name == "attention_norm") return Norm::kAttention;
  if (name == "ffn_norm") return Norm::kFfn;
  throw ConfigError("norm must be attention_norm or ffn_norm, got '" + name + "'");
}

// An owned float32 matrix: patches outlive the arrays they came from.
Tensor matrix(const Array<float>& array, const std::string& what) {
  if (array.ndim() != 2) throw ShapeError(what + " must have two axes");
  const auto bytes = static_cast<size_t>(array.nbytes());
  auto storage = Storage::allocate(bytes);
  std::copy_n(reinterpret_cast<const std::byte*>(array.data()), bytes, storage->data());
  return Tensor(storage, DType::kF32, Shape(array.shape(0), array.shape(1)), what);
}

std::span<const float> vector(const Array<float>& array) {
  return {array.data(), static_cast<size_t>(array.size())};
}

}  // namespace

void bind_adapter(py::module_& m) {
  py::class_<Adapter, std::shared_ptr<Adapter>>(m, "Adapter", py::is_final())
      .def(py::init([](const std::shared_ptr<Model>& model) {
             return std::make_shared<Adapter>(model);
           }),
           py::arg("model").none(false))
      .def(
          "add_lora",
          [](Adapter& adapter, int64_t layer, const std::string& slot, const Array<float>& a,
             const Array<float>& b, float scale) {
            adapter.add_lora(layer, slot_named(slot), matrix(a, "lora A"), matrix(b, "lora B"),
                             scale);
          },
          py::arg("layer"), py::arg("slot"), py::arg("a"), py::arg("b"), py::arg("scale") = 1.0f)
      .def(
          "add_output_lora",
          [](Adapter& adapter, const Array<float>& a, const Array<float>& b, float scale) {
            adapter.add_output_lora(matrix(a, "lora A"), matrix(b, "lora B"), scale);
          },
          py::arg("a"), py::arg("b"), py::arg("scale") = 1.0f)
      .def(
          "add_embedding_lora",
          [](Adapter& adapter, const Array<float>& a, const Array<float>& b, float scale) {
            adapter.add_embedding_lora(matrix(a, "lora A"), matrix(b, "lora B"), scale);
          },
          py::arg("a"), py::arg("b"), py::arg("scale") = 1.0f)
      .def(
          "add_input_scale",
          [](Adapter& adapter, int64_t layer, const std::string& slot, const Array<float>& scale) {
            adapter.add_input_scale(layer, slot_named(slot), vector(scale));
          },
          py::arg("layer"), py::arg("slot"), py::arg("scale"))
      .def(
          "add_bias",
          [](Adapter& adapter, int64_t layer, const std::string& slot, const Array<float>& bias) {
            adapter.add_bias(layer, slot_named(slot), vector(bias));
          },
          py::arg("layer"), py::arg("slot"), py::arg("bias"))
      .def(
          "replace_norm",
          [](Adapter& adapter, int64_t layer, const std::string& norm, const Array<float>& gain) {
            adapter.replace_norm(layer, norm_named(norm), vector(gain));
          },
          py::arg("layer"), py::arg("norm"), py::arg("gain"))
      .def(
          "add_prefix",
          [](Adapter& adapter, int64_t layer, const Array<float>& prefix,
             const Array<float>& gate) {
            adapter.add_prefix(layer, matrix(prefix, "prefix"), vector(gate));
          },
          py::arg("layer"), py::arg("prefix"), py::arg("gate"))
      .def_property_readonly("bytes", &Adapter::bytes);
}

}  // namespace llama_rt
