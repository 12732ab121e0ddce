// C++ exceptions arrive in Python as the classes of llama_rt.errors.
#include <exception>

#include "bindings/bindings.h"
#include "core/error.h"

namespace py = pybind11;

namespace llama_rt {
namespace {

void raise(const char* name, const std::exception& error) {
  const py::object type = py::module_::import("llama_rt.errors").attr(name);
  PyErr_SetString(type.ptr(), error.what());
}

void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const CheckpointError& e) {
    raise("CheckpointError", e);
  } catch (const ConfigError& e) {
    raise("ConfigError", e);
  } catch (const ShapeError& e) {
    raise("ShapeError", e);
  } catch (const DTypeError& e) {
    raise("DTypeError", e);
  } catch (const CapacityError& e) {
    raise("CapacityError", e);
  } catch (const BackendUnavailable& e) {
    raise("BackendUnavailable", e);
  } catch (const DeviceError& e) {
    raise("DeviceError", e);
  } catch (const CancelledError& e) {
    raise("CancelledError", e);
  } catch (const Error& e) {
    raise("LlamaRtError", e);
  }
}

}  // namespace

void bind_errors(py::module_&) { py::register_local_exception_translator(translate); }

}  // namespace llama_rt
