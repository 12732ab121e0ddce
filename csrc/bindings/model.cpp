// Backend, Model and Runner as Python sees them; the GIL is released around all long work.
#include <pybind11/stl.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "bindings/bindings.h"
#include "core/error.h"
#include "platform/processor.h"
#include "runner/runner.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

using Tokens = Array<int32_t>;

// On the main thread a pending signal (Ctrl-C) also stops long work: looked for at most every
// 20 ms, since it needs the GIL.
Interrupt interrupt_for(const CancelFlag* flag) {
  static const auto main_thread =
      py::module_::import("threading").attr("main_thread")().attr("ident").cast<unsigned long>();
  Interrupt interrupt{flag, {}};
  if (PyThread_get_thread_ident() != main_thread) return interrupt;
  interrupt.pending = [last = std::chrono::steady_clock::now()]() mutable {
    const auto now = std::chrono::steady_clock::now();
    if (now - last < std::chrono::milliseconds(20)) return false;
    last = now;
    const py::gil_scoped_acquire acquire;
    return PyErr_CheckSignals() != 0;
  };
  return interrupt;
}

// Runs `work` without the GIL; a signal that stopped it is raised as itself.
template <typename Work>
auto without_gil(const CancelFlag* flag, Work work) {
  const Interrupt interrupt = interrupt_for(flag);
  try {
    const py::gil_scoped_release release;
    return work(interrupt);
  } catch (const CancelledError&) {
    if (PyErr_Occurred()) throw py::error_already_set();
    throw;
  }
}

// A request's adapters and their weights.
using ActiveAdapters = std::vector<std::pair<std::shared_ptr<Adapter>, float>>;

std::vector<SequenceInput> inputs_of(const std::vector<int>& sequences,
                                     const std::vector<Tokens>& tokens,
                                     const std::vector<ActiveAdapters>& adapters) {
  if (!adapters.empty() && adapters.size() != sequences.size()) {
    throw ShapeError("adapters must be given for every sequence or for none");
  }
  if (sequences.size() != tokens.size()) {
    throw ShapeError("there are " + std::to_string(sequences.size()) + " sequences but " +
                     std::to_string(tokens.size()) + " token arrays");
  }
  std::vector<SequenceInput> inputs;
  for (size_t i = 0; i < sequences.size(); ++i) {
    inputs.push_back(
        {sequences[i], std::span(tokens[i].data(), static_cast<size_t>(tokens[i].size()))});
    if (adapters.empty()) continue;
    for (const auto& [adapter, weight] : adapters[i]) {
      if (!adapter) throw py::type_error("adapters hold None");
      inputs.back().adapters.push_back({adapter.get(), weight});
    }
  }
  return inputs;
}

py::array_t<float> forward(Runner& runner, const Model& model, const std::vector<int>& sequences,
                           const std::vector<Tokens>& tokens, const std::string& outputs,
                           bool states, const CancelFlag* cancel,
                           const std::vector<ActiveAdapters>& adapters) {
  if (outputs != "none" && outputs != "last" && outputs != "all") {
    throw ConfigError("outputs must be one of none, last, all, got '" + outputs + "'");
  }
  const Rows rows = outputs == "all" ? Rows::kAll : outputs == "last" ? Rows::kLast : Rows::kNone;
  const std::vector<SequenceInput> inputs = inputs_of(sequences, tokens, adapters);
  auto values = without_gil(cancel, [&](const Interrupt& interrupt) {
    return runner.forward(inputs, rows, states, interrupt);
  });
  const int64_t width = states ? model.config().dim : model.config().vocab_size;
  const auto count = static_cast<py::ssize_t>(values.size());
  return to_numpy(std::move(values), {count / width, width});
}

// The model options of a call. Those in `others` are left to the caller; throws TypeError for any
// that is neither.
ModelConfig config_of(const py::kwargs& options, std::set<std::string> others) {
  ModelConfig c;
  const auto take = [&](const char* key, auto& field) {
    others.insert(key);
    if (options.contains(key)) {
      field = options[key].cast<std::remove_reference_t<decltype(field)>>();
    }
  };
  std::optional<std::string> style, rule;
  take("dim", c.dim);
  take("n_layers", c.n_layers);
  take("n_heads", c.n_heads);
  take("n_kv_heads", c.n_kv_heads);
  take("head_dim", c.head_dim);
  take("ffn_dim", c.ffn_dim);
  take("vocab_size", c.vocab_size);
  take("norm_eps", c.norm_eps);
  take("sliding_window", c.sliding_window);
  take("qk_norm", c.qk_norm);
  take("rope_theta", c.rope.theta);
  take("rope_factor", c.rope.factor);
  take("rope_low_freq_factor", c.rope.low_freq_factor);
  take("rope_high_freq_factor", c.rope.high_freq_factor);
  take("rope_original_context", c.rope.original_context);
  take("rope_beta_fast", c.rope.beta_fast);
  take("rope_beta_slow", c.rope.beta_slow);
  take("rope_attention_factor", c.rope.attention_factor);
  take("rope_truncate", c.rope.truncate);
  take("rope_style", style);
  take("rope_scaling", rule);
  if (style) c.rope.style = rope_style_named(*style);
  if (rule) c.rope.rule = rope_rule_named(*rule);
  for (const auto& [key, value] : options) {
    const auto name = key.cast<std::string>();
    if (!others.contains(name)) {
      throw py::type_error("unexpected keyword argument '" + name + "'");
    }
  }
  return c;
}

std::shared_ptr<Model> make_model(std::shared_ptr<Backend> backend, const py::kwargs& options) {
  const Repack repack = options.contains("repack")
                            ? repack_named(options["repack"].cast<std::string>())
                            : Repack::kAuto;
  return std::make_shared<Model>(std::move(backend), config_of(options, {"repack"}), repack);
}

Shape shape_of(const std::string& name, const std::vector<int64_t>& extents) {
  if (extents.empty() || extents.size() > 2) {
    throw ShapeError("tensor '" + name + "' must have one or two axes, got " +
                     std::to_string(extents.size()));
  }
  return extents.size() == 1 ? Shape(extents[0]) : Shape(extents[0], extents[1]);
}

void add(Model& model, const std::string& name, const py::object& data, const std::string& dtype,
         const std::vector<int64_t>& extents) {
  const Tensor tensor(borrow_buffer(data), dtype_named(dtype).id, shape_of(name, extents),
                      "tensor '" + name + "'");
  const py::gil_scoped_release release;
  model.add(name, tensor);
}

void add_pieces(Model& model, const std::string& name, const py::object& data,
                const std::vector<int64_t>& starts, const std::string& dtype,
                const std::vector<int64_t>& extents) {
  const DTypeInfo& row = dtype_named(dtype);
  const auto storage = borrow_buffer(data);
  const Shape elements(static_cast<int64_t>(storage->bytes()) / row.block_bytes *
                       row.block_elements);
  const Tensor pool(storage, row.id, elements, "the pool of tensor '" + name + "'");
  const Shape shape = shape_of(name, extents);
  const py::gil_scoped_release release;
  model.add_pieces(name, shape, pool, starts);
}

// A runner and the model whose sizes shape its results.
struct BoundRunner {
  std::shared_ptr<const Model> model;
  Runner runner;
};

std::unique_ptr<BoundRunner> make_runner(std::shared_ptr<Model> model, int64_t n_ctx,
                                         const std::string& kv_dtype, int64_t max_batch_tokens,
                                         int64_t cache_tokens) {
  const RunnerOptions options{n_ctx, kv_type_named(kv_dtype), max_batch_tokens, cache_tokens};
  return std::unique_ptr<BoundRunner>(new BoundRunner{model, Runner(model, options)});
}

py::array_t<float> rope_table(const py::kwargs& options, int32_t positions) {
  const ModelConfig config = config_of(options, {});
  const RopeTable table(config.rope, config.head_dim);
  std::vector<int32_t> all(static_cast<size_t>(positions));
  for (int32_t i = 0; i < positions; ++i) all[static_cast<size_t>(i)] = i;
  const auto count = static_cast<size_t>(positions) * static_cast<size_t>(table.half());
  std::vector<float> values(2 * count);
  table.rotate(all, values.data(), values.data() + count);
  return to_numpy(std::move(values), {2, positions, table.half()});
}

void bind_runner(py::module_& m) {
  py::class_<Sampled>(m, "Sampled", py::is_final())
      .def_readonly("tokens", &Sampled::tokens)
      .def_readonly("stopped", &Sampled::stopped)
      .def_readonly("failure", &Sampled::failure)
      .def_readonly("logprobs", &Sampled::logprobs)
      .def_readonly("top_logprobs", &Sampled::top_logprobs);
  const RunnerOptions defaults;
  py::class_<BoundRunner>(m, "Runner", py::is_final())
      .def(py::init(&make_runner), py::arg("model").none(false), py::kw_only(), py::arg("n_ctx"),
           py::arg("kv_dtype") = "f16", py::arg("max_batch_tokens") = defaults.max_batch_tokens,
           py::arg("cache_tokens") = defaults.cache_tokens)
      .def("create", [](BoundRunner& r) { return r.runner.create(); })
      .def(
          "fork", [](BoundRunner& r, int s, int64_t n) { return r.runner.fork(s, n); },
          py::arg("sequence"), py::arg("length"), py::call_guard<py::gil_scoped_release>())
      .def(
          "truncate", [](BoundRunner& r, int s, int64_t n) { r.runner.truncate(s, n); },
          py::arg("sequence"), py::arg("length"), py::call_guard<py::gil_scoped_release>())
      .def(
          "release", [](BoundRunner& r, int s) { r.runner.release(s); }, py::arg("sequence"),
          py::call_guard<py::gil_scoped_release>())
      .def(
          "length", [](BoundRunner& r, int s) { return r.runner.length(s); }, py::arg("sequence"),
          py::call_guard<py::gil_scoped_release>())
      .def(
          "forward",
          [](BoundRunner& r, const std::vector<int>& sequences, const std::vector<Tokens>& tokens,
             const std::string& outputs, bool states, const CancelFlag* cancel,
             const std::vector<ActiveAdapters>& adapters) {
            return forward(r.runner, *r.model, sequences, tokens, outputs, states, cancel,
                           adapters);
          },
          py::arg("sequences"), py::arg("tokens"), py::kw_only(), py::arg("outputs") = "last",
          py::arg("states") = false, py::arg("cancel") = nullptr,
          py::arg("adapters") = std::vector<ActiveAdapters>{})
      .def(
          "step",
          [](BoundRunner& r, const std::vector<int>& sequences, const std::vector<Tokens>& tokens,
             const std::vector<Sampler*>& samplers, const CancelFlag* cancel,
             const std::vector<ActiveAdapters>& adapters) {
            const std::vector<SequenceInput> inputs = inputs_of(sequences, tokens, adapters);
            return without_gil(cancel, [&](const Interrupt& interrupt) {
              return r.runner.step(inputs, samplers, interrupt);
            });
          },
          py::arg("sequences"), py::arg("tokens"), py::arg("samplers"), py::kw_only(),
          py::arg("cancel") = nullptr, py::arg("adapters") = std::vector<ActiveAdapters>{})
      .def(
          "decode",
          [](BoundRunner& r, const std::vector<int>& sequences, const std::vector<int32_t>& tokens,
             const std::vector<Sampler*>& samplers, int64_t steps, double max_seconds,
             const CancelFlag* cancel, const std::vector<ActiveAdapters>& adapters) {
            if (std::ranges::find(samplers, nullptr) != samplers.end()) {
              throw py::type_error("samplers hold None");  // which is a null pointer here
            }
            std::vector<Tokens> single;
            for (const int32_t token : tokens) single.emplace_back(1, &token);
            const std::vector<SequenceInput> inputs = inputs_of(sequences, single, adapters);
            auto sampled = without_gil(cancel, [&](const Interrupt& interrupt) {
              return r.runner.decode(inputs, samplers, steps, max_seconds, interrupt);
            });
            if (PyErr_Occurred()) throw py::error_already_set();
            return sampled;
          },
          py::arg("sequences"), py::arg("tokens"), py::arg("samplers"), py::kw_only(),
          py::arg("steps"), py::arg("max_seconds") = 1e9, py::arg("cancel") = nullptr,
          py::arg("adapters") = std::vector<ActiveAdapters>{})
      .def("cache_pages",
           [](BoundRunner& r) {
             const CachePages pages = r.runner.cache_pages();
             return py::make_tuple(pages.used, pages.total);
           })
      .def("memory",
           [](BoundRunner& r) {
             const RunnerMemory memory = r.runner.memory();
             py::dict d;
             d["weights"] = memory.weights;
             d["kv_cache"] = memory.kv_cache;
             d["kv_cache_max"] = memory.kv_cache_max;
             d["workspace"] = memory.workspace;
             return d;
           })
      .def(
          "profile",
          [](BoundRunner& r, bool enable) {
            py::dict d;
            for (const OpTime& time : r.runner.profile(enable)) d[time.op] = time.seconds;
            return d;
          },
          py::arg("enable"));
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<Backend, std::shared_ptr<Backend>>(m, "Backend", py::is_final())
      .def_property_readonly("name", &Backend::name)
      .def_property_readonly("isa", &Backend::isa)
      .def_property_readonly("threads", [](const Backend& backend) {
        return backend.host_memory() ? backend.threads() : cpu_info().default_threads;
      });
  m.def(
      "open_backend",
      [](const std::string& device, const std::optional<std::string>& isa,
         std::optional<int> threads, bool reproducible) {
        if (threads && *threads < 1) {
          throw ConfigError("threads must be at least 1, got " + std::to_string(*threads));
        }
        return open_backend(device, isa.value_or(""), threads.value_or(0), reproducible);
      },
      py::arg("device") = "auto", py::kw_only(), py::arg("isa") = py::none(),
      py::arg("threads") = py::none(), py::arg("reproducible") = false);
  py::class_<CancelFlag>(m, "CancelFlag", py::is_final())
      .def(py::init<>())
      .def("set", &CancelFlag::set)
      .def("clear", &CancelFlag::clear)
      .def_property_readonly("is_set", &CancelFlag::is_set);
  py::class_<Model, std::shared_ptr<Model>>(m, "Model", py::is_final())
      .def(py::init(&make_model), py::arg("backend").none(false))
      .def("add", &add, py::arg("name"), py::arg("data"), py::arg("dtype"), py::arg("shape"))
      .def("add_pieces", &add_pieces, py::arg("name"), py::arg("pool"), py::arg("starts"),
           py::arg("dtype"), py::arg("shape"))
      .def("finish", &Model::finish, py::call_guard<py::gil_scoped_release>())
      .def_property_readonly("weight_bytes",
                             [](const Model& model) { return model.weights().held_bytes(); })
      .def_property_readonly("streamed_bytes",
                             [](const Model& model) { return model.weights().streamed_bytes(); });
  bind_adapter(m);
  bind_runner(m);
  m.def(
      "rope_table",
      [](const py::dict& options, int32_t positions) {
        py::kwargs keywords(options);
        const py::array table = rope_table(keywords, positions);
        return py::make_tuple(table[py::int_(0)], table[py::int_(1)]);
      },
      py::arg("model_options"), py::arg("positions"));
}

}  // namespace llama_rt
