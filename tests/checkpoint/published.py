"""Writers of quantized Hugging Face folders, from the description of each layout.

A layer is made from whole numbers, scales and zero points; it gives the tensors that are published
and, in float64, the weights that they stand for.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, save_file

from reference.checkpoints import hf_name, to_halves, write_hf
from reference.model import Config, random_weights

CONFIG = Config()
_WRITTEN: dict[Config, tuple[str, dict[str, torch.Tensor]]] = {}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_folder(folder: Path, layer, settings: dict, *, config: Config = CONFIG, extra=None):
    """A folder whose linear layers are `layer(weight, rng) -> (parts, values)`.

    Returns: float64 weights by canonical name, rotary pairs in halves.
    """
    weights = random_weights(config, seed=3)
    document, state = _unquantized(config)
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(document)
    path = folder / "model.safetensors"
    rng = np.random.default_rng(1)
    values = {name: value.astype(np.float64) for name, value in to_halves(config, weights).items()}
    for name in weights:
        module = hf_name(name).removesuffix(".weight")
        if not module.endswith(LINEARS):
            continue
        parts, values[name] = layer(state.pop(f"{module}.weight").numpy(), rng)
        state |= {f"{module}.{suffix}": tensor(part) for suffix, part in parts.items()}
    state |= extra or {}
    save_file(state, path)
    change_config(folder, quantization_config=settings)
    return values


def _unquantized(config: Config) -> tuple[str, dict[str, torch.Tensor]]:
    """config.json and the tensors as transformers writes them, made once."""
    if config not in _WRITTEN:
        with tempfile.TemporaryDirectory() as name:
            folder = write_hf(Path(name), config, random_weights(config, seed=3))
            _WRITTEN[config] = (
                (folder / "config.json").read_text(),
                load(folder.joinpath("model.safetensors").read_bytes()),
            )
    document, state = _WRITTEN[config]
    return document, dict(state)


def change_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensor(part) -> torch.Tensor:
    return part if isinstance(part, torch.Tensor) else torch.from_numpy(np.array(part, order="C"))


def pack(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers `[rows, n]` as int32 words `[rows, n * bits / 32]`: number i at bit i * bits."""
    rows = []
    for row in numbers:
        word = sum(int(number) << (i * bits) for i, number in enumerate(row))
        rows.append(np.frombuffer(word.to_bytes(-(-len(row) * bits // 32) * 4, "little"), "<i4"))
    return np.stack(rows)


def integers(weight, rng, bits, group, *, symmetric, dtype=torch.float16, order=None):
    """Random numbers, scales near the weights' size and zero points, with what they stand for.

    Returns: q and zero as int64, scales as a tensor, the float64 weights, and each column's group.
    """
    rows, width = weight.shape
    groups = -(-width // group)
    which = np.arange(width) // group if order is None else order
    top = 1 << bits
    q = rng.integers(0, top, weight.shape)
    zero = np.full((rows, groups), top // 2)
    if not symmetric:
        zero = rng.integers(0, top, zero.shape)
    spread = 2 * np.abs(weight).max() / top
    scale = torch.from_numpy(spread * rng.uniform(0.5, 1, (rows, groups))).to(dtype)
    values = scale.double().numpy()[:, which] * (q - zero[:, which])
    return q, zero, scale, values, which


def gptq(bits, group, *, symmetric=True, act_order=False, version=1, dtype=torch.float16):
    """GPTQ: words down the columns, zero points along them; version 1 stores them less one."""

    def layer(weight, rng):
        width = weight.shape[1]
        size = width if group < 0 else group
        order = rng.permutation(np.arange(width) // size) if act_order else None
        q, zero, scale, values, which = integers(
            weight, rng, bits, size, symmetric=symmetric, dtype=dtype, order=order
        )
        stored = (zero.T - (2 - version)) % (1 << bits)
        parts = {
            "qweight": pack(q, bits).T,
            "qzeros": pack(stored, bits),
            "scales": scale.T.contiguous(),
            "g_idx": which.astype(np.int32),
            "bias": np.zeros(len(weight), np.float16),
        }
        return parts, values

    return layer


def _mixed(numbers):
    """Words of eight neighbours of a row in AWQ's order."""
    eights = numbers.reshape(len(numbers), -1, 8)[:, :, [0, 2, 4, 6, 1, 3, 5, 7]]
    return pack(eights.reshape(len(numbers), -1), 4)


def awq(version, group):
    """AWQ: a word is eight outputs, interleaved (`gemm`), or eight inputs, padded (`gemv`)."""

    def layer(weight, rng):
        q, zero, scale, values, _ = integers(weight, rng, 4, group, symmetric=False)
        if version == "gemm":
            parts = {"qweight": _mixed(q.T), "qzeros": _mixed(zero.T)}
            return parts | {"scales": scale.T.contiguous()}, values
        padded = np.zeros((len(q), 32), np.int64)
        padded[:, : zero.shape[1]] = zero
        scales = torch.zeros(len(q), 32, dtype=scale.dtype)
        scales[:, : zero.shape[1]] = scale
        return {"qweight": pack(q, 4), "qzeros": pack(padded, 4), "scales": scales}, values

    return layer


def nested_absmax(absmax, rng):
    """A byte for each maximum, through a table, an outer maximum for 256 and an offset."""
    table = np.sort(rng.uniform(-1, 1, 256)).astype(np.float32)
    offset = float(np.float32(absmax.mean()))
    outer = np.full(-(-len(absmax) // 256), np.abs(absmax - offset).max(), np.float32)
    place = np.arange(len(absmax)) // 256
    codes = np.abs((absmax - offset)[:, None] / outer[place, None] - table).argmin(1)
    values = table.astype(np.float64)[codes] * outer[place] + offset
    return codes.astype(np.uint8), table, outer, offset, values


def bnb_4bit(kind, *, block=64, nested=False, storage=torch.uint8):
    """bitsandbytes: a table, a maximum for each block, the state as JSON."""
    table = NF4 if kind == "nf4" else FP4

    def layer(weight, rng):
        absmax = (np.abs(weight).max() * rng.uniform(0.5, 1, weight.size // block)).astype("f4")
        codes = rng.integers(0, 16, weight.size)
        state = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": weight.shape}
        parts = {"weight.absmax": absmax, "weight.quant_map": table}
        exact = absmax.astype(np.float64)
        if nested:
            stored, inner, outer, offset, exact = nested_absmax(absmax, rng)
            parts |= {"weight.absmax": stored, "weight.nested_absmax": outer}
            parts |= {"weight.nested_quant_map": inner}
            state |= {"nested_blocksize": 256, "nested_offset": offset, "nested_dtype": "float32"}
        text = np.frombuffer(json.dumps(state).encode(), np.uint8)
        packed = torch.from_numpy((codes[0::2] << 4 | codes[1::2]).astype(np.uint8))
        parts["weight"] = packed.view(storage).reshape(-1, 1)
        parts[f"weight.quant_state.bitsandbytes__{kind}"] = text
        values = table.astype(np.float64)[codes] * np.repeat(exact, block)
        return parts, values.reshape(weight.shape)

    return layer


# QLoRA, appendix E; and 1, 2, 8, 12, 4, 6, 2, 3 twelfths with a sign, of which 1 is 1/16.
NF4 = np.array(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
     -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
     0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
     0.7229568362236023, 1.0], np.float32)  # fmt: skip
_FP4 = np.array([0, 1 / 16, 8, 12, 4, 6, 2, 3]) / 12
FP4 = np.concatenate([_FP4, -_FP4]).astype(np.float32)


def hqq(bits, group, axis):
    """HQQ: groups are rows (axis 1) or columns (axis 0) of a matrix; zero points are fractions."""
    per_word, item = {8: (1, np.uint8), 4: (2, np.uint8), 3: (10, np.int32), 2: (4, np.uint8)}[bits]

    def layer(weight, rng):
        groups = weight.size // group
        shape = (groups, group) if axis == 1 else (group, groups)
        q = rng.integers(0, 1 << bits, shape)
        one = (groups, 1) if axis == 1 else (1, groups)
        zero = rng.uniform(0, 1 << bits, one).astype(np.float16)
        spread = 2 * np.abs(weight).max() / (1 << bits)
        scale = (spread * rng.uniform(0.5, 1, one)).astype(np.float16)
        step = -(-len(q) // per_word)
        padded = np.zeros((step * per_word, shape[1]), np.int64)
        padded[: len(q)] = q
        words = np.zeros((step, shape[1]), np.int64)
        for part in range(per_word):
            words = words << bits | padded[part * step : (part + 1) * step]
        parts = {"W_q": words.astype(item), "scale": scale, "zero": zero}
        parts |= {"shape": np.array(weight.shape), "nbits": np.array(bits, np.int32)}
        values = (q - zero.astype(np.float64)) * scale.astype(np.float64)
        return parts, values.reshape(weight.shape)

    return layer
