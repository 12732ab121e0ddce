"""Which method quantized a folder, and its tensors as the runtime has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

from llama_rt.checkpoint.quantized import awq, bitsandbytes, compressed_tensors, fp8, gptq, hqq
from llama_rt.checkpoint.quantized.blocks import Decoded
from llama_rt.checkpoint.quantized.parts import Raw
from llama_rt.config.checked_keys import Keys, shown
from llama_rt.errors import CheckpointError
from llama_rt.files import kind_of, read_json
from llama_rt.formats.records import TensorRecord

__all__ = ["read_quantized"]


class Method(Protocol):
    """What the module of a method has."""

    @property
    def PARTS(self) -> tuple[str, ...]:  # noqa: N802
        """Suffixes of the tensors that it uses up."""

    def describe(self, keys: Keys) -> str:
        """The layout in words; refuses what is not read."""

    def read(self, raw: Raw, keys: Keys, /) -> Iterator[Decoded]:
        """Every quantized matrix."""


_METHODS: dict[str, Method] = {
    "gptq": gptq,
    "awq": awq,
    "compressed-tensors": compressed_tensors,
    "bitsandbytes": bitsandbytes,
    "fp8": fp8,
    "fbgemm_fp8": fp8,
    "modelopt": fp8,
    "hqq": hqq,
}
# What is not read, and why; anything else that is not above is refused as unknown.
_REFUSED = {
    "aqlm": "weights are sums of learned vectors, of which no block here is made",
    "vptq": "weights are learned vectors, of which no block here is made",
    "quip": "activations are rotated before each product",
    "higgs": "activations are rotated before each product",
    "spqr": "outliers are stored as a sparse matrix beside the weights",
    "bitnet": "its layers scale activations in another way than LLaMA's",
    "mxfp4": "is used by mixtures of experts only",
    "quark": "its layouts are not read",
    "torchao": "its tensors are pickled Python objects",
    "quanto": "its layouts are not read",
    "eetq": "weights are permuted for one GPU kernel",
    "exl2": "its layout is not read",
    "exl3": "its layout is not read",
    "auto-round": "its layouts are not read; export as GPTQ, AWQ or GGUF",
}
# Settings of the first writers, next to config.json.
_OLD_FILES = (("quantize_config.json", "gptq"), ("quant_config.json", "awq"))
_LEADS = (".qweight", ".weight_packed", ".SCB", ".weight.absmax", ".W_q")


def read_quantized(raw: Raw, metadata: Mapping[str, object], config: Path) -> tuple[Raw, str]:
    """A folder's tensors with quantized matrices as blocks or halves, and what was done.

    Args:
        raw: tensors under the folder's names.
        metadata: the parsed config.json.
        config: its path.

    Returns:
        Tensors under the names of an unquantized folder, and a sentence; the same tensors and ""
        if nothing is quantized.

    Raises:
        ConfigError: a method or variant that is not read, with the reason.
        CheckpointError: a part is missing, or does not fit the others.
    """
    method, keys = _method(raw, metadata, config)
    if keys is None:
        return raw, ""
    reader = _reader(method, keys)
    layout = reader.describe(keys)
    found: dict[str, TensorRecord] = {}
    kinds: Counter[tuple[str, str]] = Counter()
    for decoded in reader.read(raw, keys):
        record = decoded.record
        found[record.name] = record
        kinds[record.dtype, decoded.loss] += 1
    return _replaced(raw, found, reader.PARTS, metadata), _sentence(layout, kinds)


def _method(raw: Raw, metadata: Mapping[str, object], config: Path) -> tuple[str, Keys | None]:
    values = metadata.get("quantization_config", metadata.get("compression_config"))
    source, default = f"{config}: quantization_config", ""
    if values is None:
        for name, method in _OLD_FILES:
            if kind_of(config.parent / name) == "file":
                path = config.parent / name
                values, source, default = read_json(path), str(path), method
                break
        else:
            _refuse_unannounced(raw, config)
            return "", None
    if not isinstance(values, Mapping):
        Keys(metadata, config).refuse(
            "quantization_config", f"must be an object, not {shown(values)}"
        )
    keys = Keys(values, source)
    return keys.text("quant_method", default), keys


def _refuse_unannounced(raw: Raw, config: Path) -> None:
    """Quantized tensors without a word of how."""
    for name, record in raw.items():
        if name.endswith(_LEADS):
            msg = (
                f"{record.file}: tensor {name[:120]!r} belongs to a GPTQ, AWQ, bitsandbytes or "
                f"similar file, but {config} has no quantization_config that says how to read it"
            )
            raise CheckpointError(msg)


def _reader(method: str, keys: Keys) -> Method:
    found = _METHODS.get(method)
    return _refuse(method, keys) if found is None else found


def _refuse(method: str, keys: Keys) -> NoReturn:
    reason = f": {_REFUSED[method]}" if method in _REFUSED else ""
    supported = f"supported: {', '.join(_METHODS)}, or a GGUF file"
    keys.refuse("quant_method", f"is {shown(method)}, not supported{reason}; {supported}")


def _replaced(
    raw: Raw,
    found: Mapping[str, TensorRecord],
    parts: tuple[str, ...],
    metadata: Mapping[str, object],
) -> dict[str, TensorRecord]:
    """The tensors without what the method used up; matrices stand where their first part was."""
    endings = tuple(f".{part}" for part in parts)
    tensors: dict[str, TensorRecord] = {}
    for name, record in raw.items():
        module = next((name.removesuffix(e) for e in endings if name.endswith(e)), None)
        if module is not None:
            if f"{module}.weight" in found:
                tensors[f"{module}.weight"] = found[f"{module}.weight"]
        elif name in found:
            tensors[name] = found[name]
        elif not _is_empty_bias(name, record, found, metadata):
            tensors[name] = record
    return tensors


def _is_empty_bias(
    name: str,
    record: TensorRecord,
    found: Mapping[str, TensorRecord],
    metadata: Mapping[str, object],
) -> bool:
    """A bias of zeros that AutoGPTQ wrote for a layer that has none."""
    module, _, last = name.rpartition(".")
    if last != "bias" or f"{module}.weight" not in found:
        return False
    key = "attention_bias" if ".self_attn." in name else "mlp_bias"
    return not metadata.get(key) and not record.read().any()


def _sentence(layout: str, kinds: Counter[tuple[str, str]]) -> str:
    if not kinds:
        return f"{layout}: no tensor is"
    parts = [f"{count} matrices as {dtype} ({loss})" for (dtype, loss), count in kinds.items()]
    return f"{layout}: {', '.join(parts)}"
