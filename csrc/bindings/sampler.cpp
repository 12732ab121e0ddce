// Exports the sampler. Python may sample with it directly; the runner samples with it without the
// GIL.
#include "sampling/sampler.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "core/error.h"
#include "cpu/isa.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

// Of the element type, or one that it holds exactly: no float becomes a token.
template <typename T>
using ExactArray = py::array_t<T, py::array::c_style>;

template <typename T>
std::span<const T> flat(const ExactArray<T>& array, const char* name) {
  if (array.ndim() != 1) {
    throw ShapeError(std::string("sampler: expected ") + name + " with 1 dimension, got " +
                     std::to_string(array.ndim()));
  }
  return {array.data(), static_cast<size_t>(array.size())};
}

std::unique_ptr<Sampler> make_sampler(int vocab_size, float temperature, int64_t top_k, float top_p,
                                      float min_p, float typical_p, float repetition_penalty,
                                      float presence_penalty, float frequency_penalty,
                                      const std::map<int, float>& logit_bias, uint64_t seed,
                                      std::vector<int32_t> stop_ids, int logprobs,
                                      const std::string& isa) {
  SamplerOptions options;
  options.temperature = temperature;
  options.top_k = static_cast<int>(std::clamp<int64_t>(top_k, 0, std::max(vocab_size, 0)));
  options.top_p = top_p;
  options.min_p = min_p;
  options.typical_p = typical_p;
  options.repetition_penalty = repetition_penalty;
  options.presence_penalty = presence_penalty;
  options.frequency_penalty = frequency_penalty;
  options.logit_bias.assign(logit_bias.begin(), logit_bias.end());
  options.seed = seed;
  options.stop_ids = std::move(stop_ids);
  options.logprobs = logprobs;
  return std::make_unique<Sampler>(vocab_size, std::move(options),
                                   cpu::kernels_for(cpu::choose_isa(isa)).scan);
}

py::tuple sample(Sampler& sampler, const ExactArray<float>& logits) {
  SampledToken token = sampler.sample(flat(logits, "logits"));
  return py::make_tuple(token.token, token.stop, token.logprob, std::move(token.top));
}

}  // namespace

void bind_sampler(py::module_& m) {
  const SamplerOptions defaults;
  py::class_<Sampler>(m, "Sampler", py::is_final())
      .def(py::init(&make_sampler), py::arg("vocab_size"), py::kw_only(),
           py::arg("temperature") = defaults.temperature, py::arg("top_k") = defaults.top_k,
           py::arg("top_p") = defaults.top_p, py::arg("min_p") = defaults.min_p,
           py::arg("typical_p") = defaults.typical_p,
           py::arg("repetition_penalty") = defaults.repetition_penalty,
           py::arg("presence_penalty") = defaults.presence_penalty,
           py::arg("frequency_penalty") = defaults.frequency_penalty,
           py::arg("logit_bias") = std::map<int, float>{}, py::arg("seed") = defaults.seed,
           py::arg("stop_ids") = defaults.stop_ids, py::arg("logprobs") = defaults.logprobs,
           py::arg("isa") = "")
      .def(
          "observe",
          [](Sampler& s, const ExactArray<int32_t>& tokens) { s.observe(flat(tokens, "tokens")); },
          py::arg("tokens"))
      .def("sample", &sample, py::arg("logits"));
}

}  // namespace llama_rt
