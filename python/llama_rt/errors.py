"""Typed errors of llama_rt; this module imports nothing.

Every error derives from `LlamaRtError` and from the standard type that a caller would expect. The
native module
raises the same classes (`csrc/bindings/errors.cpp` maps `csrc/core/error.h` one to one).
"""

from __future__ import annotations

__all__ = [
    "BackendUnavailable",
    "CancelledError",
    "CapacityError",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ConfigError",
    "DTypeError",
    "DeviceError",
    "LlamaRtError",
    "MissingExtraError",
    "ShapeError",
    "TemplateError",
    "TokenizerError",
]


class LlamaRtError(Exception):
    """Base of every error that llama_rt raises on purpose."""


class CheckpointError(LlamaRtError, ValueError):
    """A file or folder is not what its format says; names the file, the tensor, the bytes."""


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """The path does not exist."""


class ConfigError(LlamaRtError, ValueError):
    """A model's configuration is incomplete, inconsistent or not supported."""


class ShapeError(LlamaRtError, ValueError):
    """A tensor or argument has another shape than the call needs."""


class DTypeError(LlamaRtError, TypeError):
    """A tensor has an element type that the call does not take."""


class CapacityError(LlamaRtError, RuntimeError):
    """A prompt, a batch or a model does not fit; nothing was changed by the call."""


class QueueFullError(LlamaRtError, RuntimeError):
    """As many requests wait as may (`max_waiting`); the call queued none, and may be repeated."""


class BackendUnavailable(LlamaRtError, RuntimeError):  # noqa: N818 - the name of the public surface
    """A device was asked for by name and cannot be used; the message is the reason."""


class DeviceError(LlamaRtError, RuntimeError):
    """A device failed while working; its backend stays failed."""


class TokenizerError(LlamaRtError, ValueError):
    """A tokenizer file cannot be read, or ids or text are outside what it knows."""


class TemplateError(LlamaRtError, ValueError):
    """A chat template is unknown, missing or failed; the message names the choices."""


class MissingExtraError(LlamaRtError, ImportError):
    """A feature needs an optional package; the message names the extra that brings it."""


class CancelledError(LlamaRtError, RuntimeError):
    """The caller's cancel flag was set; the sequence is as it was before the call."""
