"""LLaMA-Adapter V1 and V2: the published files, against their formulas in float64."""

import numpy as np
import pytest
import torch

from llama_rt import Llama, _native
from llama_rt.errors import CapacityError, CheckpointError, ConfigError
from reference.model import Config, forward, random_weights, relative_error

from .llama_adapter_files import adapted, save_v1, save_v2

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
DEEP = Config(n_layers=4, n_kv_heads=4, dim=96, head_dim=24, ffn_dim=128)


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
def test_v1_on_isa_levels(tmp_path, deep, isa):
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
    from .peft_files import save_adaption_prompt

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
        (lambda s: s.update({"adapter_query.weight": torch.zeros(30, 0)}), r"\[30, 0\]"),
        (lambda s: s.update({f"layers.{'9' * 20}.attention.gate": torch.zeros(1)}), "no part"),
        (lambda s: s.update({f"layers.{'9' * 5000}.attention.gate": torch.zeros(1)}), "5022 char"),
        (lambda s: s.update({"layers.01.attention.gate": torch.zeros(1)}), r"layers\.01.* no part"),
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


PROMPT = "base_model.model.model.layers.1.self_attn.adaption_prompt"
GATE = "base_model.model.model.layers.1.self_attn.adaption_gate"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({PROMPT: torch.tensor(1.0)}, r"shape \[\], not \[1, length, dim\]"),
        ({PROMPT: torch.zeros(1, 0, 64)}, r"shape \[1, 0, 64\]"),
        ({PROMPT: torch.zeros(2, 5, 64)}, r"shape \[2, 5, 64\]"),
        ({"x." + GATE: torch.zeros(1)}, "layer 1 has two of adaption_gate"),
        ({PROMPT.replace("1", "9" * 5000): torch.zeros(1)}, "name of 50.. characters"),
        ({PROMPT: None}, "layer 1 has only one"),
    ],
)
def test_adaption_prompts_that_are_not_whole(tmp_path, tiny_hf_folder, change, said):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "ADAPTION_PROMPT"}')
    state = {PROMPT: torch.zeros(1, 5, 64), GATE: torch.zeros(1)} | change
    state = {name: value for name, value in state.items() if value is not None}
    torch.save(state, tmp_path / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=said) as caught:
        Llama.load(tiny_hf_folder, adapters=[tmp_path])
    assert str(tmp_path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_prefixes_of_too_many_positions_are_named(tmp_path, deep):
    torch.save(
        {"adapter_query.weight": torch.zeros(5000, 96),
         **{f"layers.{i}.attention.gate": torch.zeros(1) for i in range(4)}},
        tmp_path / "v1_len5000.pth",
    )  # fmt: skip
    with pytest.raises(CapacityError, match=r"v1_len5000\.pth: .*5000 positions"):
        Llama.load(deep["meta"], adapters=[tmp_path / "v1_len5000.pth"])


def test_options_and_other_files(tmp_path, deep):
    save_v1(tmp_path / "a.pth", DEEP)
    with pytest.raises(ConfigError, match="gate=sigmoid"):
        Llama.load(deep["meta"], adapters=[f"{tmp_path / 'a.pth'}#gate=sigmoid"])
    with pytest.raises(CheckpointError, match="no adapter"):
        Llama.load(deep["meta"], adapters=[deep["hf"]])
