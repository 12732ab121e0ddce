"""LLaMA-Adapter V1 and V2: the published files, against their formulas in float64."""

import numpy as np
import pytest
import torch

from llama_rt import Llama, _native
from llama_rt.errors import CheckpointError, ConfigError
from reference.model import (
    Config,
    attention,
    forward,
    random_weights,
    relative_error,
    rms_norm,
    rope_tables,
    rotate,
    swiglu,
)

from .peft_files import save_adaption_prompt

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
DEEP = Config(n_layers=4, n_kv_heads=4, dim=96, head_dim=24, ffn_dim=128)


def adapted(config, weights, ids, *, vectors=None, prefixes=None):
    """Logits by the formulas of llama/model.py and llama_adapter_v2_chat65b, in float64.

    vectors: Meta names of norms, `..._scale` and `..._bias`; prefixes: layer -> (rows, gate).
    """
    w = {name: value.astype(np.float64) for name, value in weights.items()}
    extra = {name: value.astype(np.float64) for name, value in (vectors or {}).items()}
    w |= {name: value for name, value in extra.items() if name in w}
    cos, sin = rope_tables(config, len(ids))
    n, e, heads, groups = len(ids), config.head_dim, config.n_heads, config.n_kv_heads

    def linear(name, x):
        scaled = x * extra.get(f"{name}_scale", 1.0)
        return scaled @ w[f"{name}.weight"].T + extra.get(f"{name}_bias", 0.0)

    x = w["tok_embeddings.weight"][np.asarray(ids)]
    for i in range(config.n_layers):
        layer = f"layers.{i}."
        normed = rms_norm(x, w[f"{layer}attention_norm.weight"], config.norm_eps)
        q = rotate(linear(f"{layer}attention.wq", normed).reshape(n, heads, e), cos, sin,
                   config.rope_style)  # fmt: skip
        k = rotate(linear(f"{layer}attention.wk", normed).reshape(n, groups, e), cos, sin,
                   config.rope_style)  # fmt: skip
        v = linear(f"{layer}attention.wv", normed).reshape(n, groups, e)
        mixed = attention(q, k, v)
        if prefixes and i in prefixes:
            rows, gate = (part.astype(np.float64) for part in prefixes[i])
            keys = linear(f"{layer}attention.wk", rows).reshape(-1, groups, e)
            values = linear(f"{layer}attention.wv", rows).reshape(-1, groups, e)
            for head in range(heads):
                group = head * groups // heads
                scores = q[:, head] @ keys[:, group].T / np.sqrt(e)
                scores = np.exp(scores - scores.max(axis=1, keepdims=True))
                scores /= scores.sum(axis=1, keepdims=True)
                mixed[:, head] += gate[head] * (scores @ values[:, group])
        x = x + linear(f"{layer}attention.wo", mixed.reshape(n, -1))
        normed = rms_norm(x, w[f"{layer}ffn_norm.weight"], config.norm_eps)
        gate = linear(f"{layer}feed_forward.w1", normed)
        up = linear(f"{layer}feed_forward.w3", normed)
        x = x + linear(f"{layer}feed_forward.w2", swiglu(gate, up))
    return rms_norm(x, w["norm.weight"], config.norm_eps) @ w["output.weight"].T


def save_v1(path, config, *, length=10, adapted_layers=None, gate="heads", seed=0):
    """The flat dict of extract_adapter_from_checkpoint.py: all gates, the last layers' prefixes."""
    generator = torch.Generator().manual_seed(seed)
    layers = config.n_layers - 1 if adapted_layers is None else adapted_layers
    shape = (1, config.n_heads, 1, 1) if gate == "heads" else (1,)
    state = {"adapter_query.weight": torch.randn(length * layers, config.dim, generator=generator)}
    for i in range(config.n_layers):
        used = i >= config.n_layers - layers
        value = torch.randn(shape, generator=generator)
        # The trainer leaves the unused gates in half precision, at zero.
        state[f"layers.{i}.attention.gate"] = value if used else torch.zeros(shape).half()
    torch.save(state, path)
    first = config.n_layers - layers
    rows = state["adapter_query.weight"].numpy()
    gates = [state[f"layers.{i}.attention.gate"].numpy() for i in range(config.n_layers)]
    return {
        first + i: (
            rows[i * length : (i + 1) * length],
            np.broadcast_to(gates[first + i].reshape(-1), config.n_heads),
        )
        for i in range(layers)
    }


def save_v2(path, config, weights, *, prefixes=False, seed=0):
    """`{"model": ...}` of chat65B: unsharded scales, biases and norms."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, value in weights.items():
        if not name.startswith("layers."):
            continue
        if value.ndim == 1:
            state[name] = (1 + 0.2 * rng.standard_normal(value.shape)).astype(np.float32)
            continue
        stem = name.removesuffix(".weight")
        out, width = value.shape
        state[f"{stem}_scale"] = (1 + 0.2 * rng.standard_normal(width)).astype(np.float16)
        state[f"{stem}_bias"] = (0.2 * rng.standard_normal(out)).astype(np.float16)
    tensors = {name: torch.from_numpy(value) for name, value in state.items()}
    if prefixes:
        tensors["adapter_query.weight"] = torch.randn(10, config.dim)
        for i in range(config.n_layers):
            tensors[f"layers.{i}.attention.gate"] = torch.randn(1, config.n_heads, 1, 1)
    torch.save({"model": tensors}, path)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def deep(tmp_path_factory):
    from reference.checkpoints import write_hf, write_meta

    weights = random_weights(DEEP, seed=4)
    folder = tmp_path_factory.mktemp("deep")
    return {
        "meta": write_meta(folder / "meta", DEEP, weights, shards=2),
        "hf": write_hf(folder / "hf", DEEP, weights),
        "weights": weights,
    }


def tanh_of(prefixes):
    return {layer: (rows, np.tanh(gate)) for layer, (rows, gate) in prefixes.items()}


@pytest.mark.parametrize("base", ["meta", "hf"])
@pytest.mark.parametrize("gate", ["heads", "one"])
def test_v1(tmp_path, deep, base, gate):
    """Prefixes of the last layers; the gate raw by default, tanh when asked."""
    path = tmp_path / "llama_adapter_len10_layer3_release.pth"
    prefixes = save_v1(path, DEEP, gate=gate)
    assert sorted(prefixes) == [1, 2, 3]
    raw = adapted(DEEP, deep["weights"], IDS, prefixes=prefixes)
    tanh = adapted(DEEP, deep["weights"], IDS, prefixes=tanh_of(prefixes))
    assert relative_error(raw, tanh) > 1e-2
    for suffix, expected in (("", raw), ("#gate=raw", raw), ("#gate=tanh", tanh)):
        with Llama.load(deep[base], adapters={"a": f"{path}{suffix}"}, threads=1) as llm:
            assert relative_error(llm.logits(IDS), expected) < 2e-3
            plain = forward(DEEP, deep["weights"], IDS)
            assert relative_error(llm.logits(IDS, adapter=None), plain) < 2e-3


@pytest.mark.parametrize("isa", _native.cpu_info().tiers)
def test_v1_on_tiers(tmp_path, deep, isa):
    path = tmp_path / "llama_adapter_len5_layer2.pth"
    prefixes = save_v1(path, DEEP, length=5, adapted_layers=2)
    expected = adapted(DEEP, deep["weights"], IDS, prefixes=prefixes)
    with Llama.load(deep["meta"], adapters=[path], isa=isa, threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


def test_v1_with_weight_and_grouped_heads(tmp_path, tiny_model, tiny_meta_folder):
    config, weights = tiny_model
    path = tmp_path / "x_len10.pth"
    prefixes = save_v1(path, config)
    half = {layer: (rows, 0.5 * gate) for layer, (rows, gate) in prefixes.items()}
    with Llama.load(tiny_meta_folder, adapters={"x": path}, threads=1) as llm:
        assert relative_error(llm.logits(IDS), adapted(*tiny_model, IDS, prefixes=prefixes)) < 2e-3
        got = llm.logits(IDS, adapter={"x": 0.5})
        assert relative_error(got, adapted(config, weights, IDS, prefixes=half)) < 2e-3


@pytest.mark.parametrize("base", ["meta", "hf"])
@pytest.mark.parametrize("prefixes", [False, True])
def test_v2(tmp_path, deep, base, prefixes):
    """Scales on inputs, biases, norms; prefixes, if there are any, through scales and tanh."""
    state = save_v2(tmp_path / "v2.pth", DEEP, deep["weights"], prefixes=prefixes)
    given = {}
    if prefixes:  # ten rows: one layer, the last
        gate = state["layers.3.attention.gate"].reshape(-1)
        given = {3: (state["adapter_query.weight"], np.tanh(gate))}
    expected = adapted(DEEP, deep["weights"], IDS, vectors=state, prefixes=given)
    with Llama.load(deep[base], adapters=[tmp_path / "v2.pth"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
        plain = forward(DEEP, deep["weights"], IDS)
        assert relative_error(llm.logits(IDS, adapter=None), plain) < 2e-3


@pytest.mark.parametrize("base", ["tiny_hf_folder", "tiny_meta_folder"])
def test_adaption_prompt_of_peft(tmp_path, base):
    config = Config(n_kv_heads=4)
    weights = random_weights(config, seed=6)
    from reference.checkpoints import write_hf, write_meta

    write = write_hf if base == "tiny_hf_folder" else write_meta
    folder = write(tmp_path / "base", config, weights)
    expected = save_adaption_prompt(tmp_path / "prompt", config, weights)(IDS)
    with Llama.load(folder, adapters=[tmp_path / "prompt"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
        assert relative_error(llm.logits(IDS, adapter=None), expected) > 1e-2


def test_another_size_is_refused(tmp_path, deep, tiny_meta_folder):
    save_v1(tmp_path / "v1_len10.pth", DEEP)
    save_v2(tmp_path / "v2.pth", DEEP, deep["weights"])
    for name in ("v1_len10.pth", "v2.pth"):
        with pytest.raises(CheckpointError, match=r"width 96.*64"):
            Llama.load(tiny_meta_folder, adapters=[tmp_path / name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("layers.3.attention.gate"), r"of 3 layers.*has 4"),
        (lambda s: s.pop("layers.2.attention.gate"), r"layers\.2.*gate.* missing"),
        (lambda s: s.update({"clip_proj.weight": torch.zeros(2, 2)}), "multimodal"),
        (lambda s: s.update({"other": torch.zeros(2)}), "'other'"),
        (lambda s: s.update({"adapter_query.weight": torch.zeros(31, 96)}), r"31.*length 10"),
        (lambda s: s.update({"adapter_query.weight": torch.zeros(50, 96)}), "5 layers"),
        (lambda s: s.clear(), "no tensors"),
    ],
)
def test_files_that_are_not_whole(tmp_path, deep, change, said):
    path = tmp_path / "v1_len10.pth"
    save_v1(path, DEEP)
    state = torch.load(path)
    change(state)
    torch.save(state, path)
    with pytest.raises(CheckpointError, match=said):
        Llama.load(deep["meta"], adapters=[path])


def test_options_and_other_files(tmp_path, deep):
    save_v1(tmp_path / "a.pth", DEEP)
    with pytest.raises(ConfigError, match="gate=sigmoid"):
        Llama.load(deep["meta"], adapters=[f"{tmp_path / 'a.pth'}#gate=sigmoid"])
    with pytest.raises(CheckpointError, match="no adapter"):
        Llama.load(deep["meta"], adapters=[deep["hf"]])
