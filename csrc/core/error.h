// Exceptions of the native module, one class for each of python/llama_rt/errors.py.
// Messages say what was expected, what came, and which name; nothing here prints or aborts.
#pragma once

#include <stdexcept>
#include <string>

namespace llama_rt {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A tensor's name or bytes are not what the checkpoint promised.
class CheckpointError : public Error {
 public:
  using Error::Error;
};

// A model's configuration is inconsistent or not supported.
class ConfigError : public Error {
 public:
  using Error::Error;
};

// A shape differs from what the call needs.
class ShapeError : public Error {
 public:
  using Error::Error;
};

// An element type that the call does not take.
class DTypeError : public Error {
 public:
  using Error::Error;
};

// Something does not fit; nothing was changed by the call.
class CapacityError : public Error {
 public:
  using Error::Error;
};

// A device or ISA level was named and cannot be used; the message is the reason.
class BackendUnavailable : public Error {
 public:
  using Error::Error;
};

// A device failed while working; its backend stays failed.
class DeviceError : public Error {
 public:
  using Error::Error;
};

// A cancel flag was seen; sequences are as before the call.
class CancelledError : public Error {
 public:
  using Error::Error;
};

}  // namespace llama_rt
