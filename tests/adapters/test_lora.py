"""LoRA of every kind, against peft on the same weights in float64."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from llama_rt import Llama, _native
from llama_rt.adapters import merge, open_adapter
from llama_rt.checkpoint import open_checkpoint
from llama_rt.errors import CheckpointError
from reference.checkpoints import write_hf, write_meta
from reference.model import Config, forward, random_weights, relative_error

from .peft_files import LINEARS, save_lora

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
ISA_LEVELS = _native.cpu_info().tiers
KINDS = {
    "all linears": {},
    "q and v only": {"target_modules": ["q_proj", "v_proj"], "lora_alpha": 32},
    "rsLoRA": {"use_rslora": True, "r": 16},
    "ranks of their own": {"rank_pattern": {"down_proj": 3, "layers.1.self_attn.q_proj": 5}},
    "alphas of their own": {"alpha_pattern": {"layers.0.self_attn.k_proj": 40, "o_proj": 1}},
    "rank 1": {"r": 1, "lora_alpha": 1.5},
    "one layer": {"layers_to_transform": [1]},
    "bias of the product": {"lora_bias": True},
    "embedding and output": {"target_modules": ["embed_tokens", "lm_head", "up_proj"]},
    "output with its table": {"target_modules": ["lm_head"], "tables": True},
    "embedding with its table": {"target_modules": ["embed_tokens"], "tables": True, "r": 3},
    "another beginning": {"init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_against_peft(tmp_path, tiny_model, tiny_hf_folder, kind):
    expected = save_lora(tmp_path / "lora", *tiny_model, **KINDS[kind])(IDS)
    with Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
        assert relative_error(llm.logits(IDS, adapter=None), expected) > 2e-2


def test_an_embedding_tied_to_the_output(tmp_path):
    """Factors of the embedding leave the output alone, as in peft; they cannot be merged."""
    config = Config(tied=True)
    weights = random_weights(config, seed=7)
    folder = write_hf(tmp_path / "base", config, weights)
    expected = save_lora(
        tmp_path / "lora", config, weights, target_modules=["embed_tokens", "k_proj"]
    )(IDS)
    with Llama.load(folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3
    with pytest.raises(CheckpointError, match=r"'tok_embeddings'.* at once"):
        merge(open_checkpoint(folder), [open_adapter(tmp_path / "lora")])


def test_transposed_layers_are_none_of_llama(tmp_path, tiny_model, tiny_hf_folder):
    """Of a linear layer, peft takes fan_in_fan_out for a mistake and goes on without."""
    expected = save_lora(tmp_path / "lora", *tiny_model)(IDS)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fan_in_fan_out": True}))
    with Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


@pytest.mark.parametrize("isa", ISA_LEVELS)
def test_isa_levels(tmp_path, tiny_model, tiny_hf_folder, isa):
    options = {"target_modules": [*LINEARS, "embed_tokens", "lm_head"]}
    expected = save_lora(tmp_path / "lora", *tiny_model, **options)(IDS)
    with Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"], isa=isa, threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


@pytest.mark.parametrize("base", ["tiny_meta_folder", "tiny_gguf_file", "tiny_hf_folder"])
@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_bases_of_either_rotary_order(tmp_path, tiny_model, base, container, request):
    expected = save_lora(tmp_path / "lora", *tiny_model, container=container)(IDS)
    if container == "bin":  # what the trainers of 2023 wrote; peft of today writes safetensors
        state = (
            load_file(tmp_path / "lora" / "adapter_model.safetensors")
            if (tmp_path / "lora" / "adapter_model.safetensors").exists()
            else torch.load(tmp_path / "lora" / "adapter_model.bin")
        )
        (tmp_path / "lora" / "adapter_model.safetensors").unlink(missing_ok=True)
        torch.save(state, tmp_path / "lora" / "adapter_model.bin")
    folder = request.getfixturevalue(base)
    with Llama.load(folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_files(tmp_path, tiny_model, tiny_hf_folder, dtype):
    expected = save_lora(tmp_path / "lora", *tiny_model, dtype=dtype)(IDS)
    with Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


@pytest.mark.parametrize("bias", ["all", "lora_only"])
@pytest.mark.parametrize("layout", ["hf", "meta"])
def test_trained_biases_replace_the_base(tmp_path, bias, layout):
    config = Config(attention_bias=True, mlp_bias=layout == "hf")
    if layout == "meta":
        config = replace(config, attention_bias=False)
    weights = random_weights(config, seed=3)
    write = write_hf if layout == "hf" else write_meta
    folder = write(tmp_path / "base", config, weights)
    expected = save_lora(
        tmp_path / "lora", config, weights, bias=bias, target_modules=["q_proj", "up_proj"]
    )(IDS)
    with Llama.load(folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


def test_adapter_names_inside_tensor_names(tmp_path, tiny_model, tiny_hf_folder):
    """Files of an early peft kept the name in memory: lora_A.default.weight."""
    expected = save_lora(tmp_path / "lora", *tiny_model)(IDS)
    path = tmp_path / "lora" / "adapter_model.safetensors"
    state = {
        name.replace(".lora_A.", ".lora_A.default.").replace(".lora_B.", ".lora_B.default."): value
        for name, value in load_file(path).items()
    }
    assert any(".default." in name for name in state)
    save_file(state, path)
    with Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"], threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


def merged(weights, factors):
    """Weights with `scale * b @ a` added, in float64: an account independent of peft."""
    out = {name: value.astype(np.float64) for name, value in weights.items()}
    for name, scale, a, b in factors:
        out[name] = out[name] + scale * b.astype(np.float64) @ a.astype(np.float64)
    return out


def write_gguf_lora(path, config, *, alpha, rank=4, seed=0, spread=1.0, dtype=np.float32):
    """As llama.cpp's converter writes it: Meta's row order, dims {in, r} and {r, out}."""
    rng = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    if alpha is not None:
        writer.add_float32("adapter.lora.alpha", alpha)
    q, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    factors = []
    for layer in range(config.n_layers):
        for short, name, out, width in (
            ("attn_q", "attention.wq", q, config.dim),
            ("attn_k", "attention.wk", kv, config.dim),
            ("ffn_down", "feed_forward.w2", config.dim, config.ffn_dim),
        ):
            a = (0.1 * spread * rng.standard_normal((rank, width))).astype(dtype)
            b = (0.1 * spread * rng.standard_normal((out, rank))).astype(dtype)
            writer.add_tensor(f"blk.{layer}.{short}.weight.lora_a", a)
            writer.add_tensor(f"blk.{layer}.{short}.weight.lora_b", b)
            scale = alpha / rank if alpha else 1.0
            factors.append((f"layers.{layer}.{name}.weight", scale, a, b))
    # Of the embedding a is looked up by token: transposed against all others.
    table = (0.1 * spread * rng.standard_normal((config.vocab_size, rank))).astype(dtype)
    up = (0.1 * spread * rng.standard_normal((config.dim, rank))).astype(dtype)
    writer.add_tensor("token_embd.weight.lora_a", table)
    writer.add_tensor("token_embd.weight.lora_b", up)
    factors.append(("tok_embeddings.weight", scale, up.T, table))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return factors


@pytest.mark.parametrize("base", ["tiny_meta_folder", "tiny_hf_folder"])
@pytest.mark.parametrize("alpha", [8.0, 0.0, None])
def test_gguf(tmp_path, tiny_model, base, alpha, request):
    config, weights = tiny_model
    factors = write_gguf_lora(tmp_path / "x.gguf", config, alpha=alpha, dtype=np.float16)
    expected = forward(config, merged(weights, factors), IDS)
    folder = request.getfixturevalue(base)
    with Llama.load(folder, adapters={"x": tmp_path / "x.gguf"}, threads=1) as llm:
        assert relative_error(llm.logits(IDS), expected) < 2e-3


def test_weights_and_several_at_once(tmp_path, tiny_model, tiny_meta_folder):
    config, weights = tiny_model
    one = write_gguf_lora(tmp_path / "one.gguf", config, alpha=8.0, seed=1)
    two = write_gguf_lora(tmp_path / "two.gguf", config, alpha=2.0, rank=2, seed=2)

    def expected(active):
        factors = [(n, s * w, a, b) for file, w in active for n, s, a, b in file]
        return forward(config, merged(weights, factors), IDS)

    paths = [tmp_path / "one.gguf", tmp_path / "two.gguf"]
    with Llama.load(tiny_meta_folder, adapters=paths, threads=1) as llm:
        for adapter, active in (
            ({"one": 0.5}, [(one, 0.5)]),
            ({"two": -1.0}, [(two, -1.0)]),
            ("two", [(two, 1.0)]),
            ({"one": 0.25, "two": 2.0}, [(one, 0.25), (two, 2.0)]),
            ({"one": 0.0}, []),
            (None, []),
        ):
            got = llm.logits(IDS, adapter=adapter)
            assert relative_error(got, expected(active)) < 2e-3, adapter
        assert relative_error(llm.logits(IDS), expected([(one, 1.0), (two, 1.0)])) < 2e-3
        assert np.array_equal(
            llm.logits(IDS, adapter={"one": 0.25, "two": 2.0}),
            llm.logits(IDS, adapter={"two": 2.0, "one": 0.25}),
        )


def test_factors_are_kept_as_f16_where_the_weights_are_rounded(
    tmp_path, tiny_model, tiny_meta_folder
):
    config, weights = tiny_model
    factors = write_gguf_lora(tmp_path / "x.gguf", config, alpha=8.0, rank=16)
    elements = sum(a.size + b.size for _, _, a, b in factors)
    expected = forward(config, merged(weights, factors), IDS)
    for quantize, width, bound in (("f32", 4, 1e-5), ("f16", 2, 2e-3)):
        options = {"quantize": quantize, "kv_dtype": "f32", "threads": 1}
        with Llama.load(tiny_meta_folder, adapters=[tmp_path / "x.gguf"], **options) as llm:
            assert llm.memory()["adapters"] == width * elements
            assert relative_error(llm.logits(IDS), expected) < bound


def test_the_size_of_factors_does_not_matter(tmp_path, tiny_model, tiny_meta_folder):
    """Factors below the range of half precision, made up for by alpha, give the same bits."""
    config, _ = tiny_model
    write_gguf_lora(tmp_path / "x.gguf", config, alpha=8.0)
    write_gguf_lora(tmp_path / "y.gguf", config, alpha=8.0 * 2.0**36, spread=2.0**-18)
    paths = [tmp_path / "x.gguf", tmp_path / "y.gguf"]
    with Llama.load(tiny_meta_folder, adapters=paths, quantize="q8_0", threads=1) as llm:
        assert np.array_equal(llm.logits(IDS, adapter="x"), llm.logits(IDS, adapter="y"))
        assert not np.array_equal(llm.logits(IDS, adapter="x"), llm.logits(IDS, adapter=None))


@pytest.mark.parametrize(
    ("architecture", "alpha", "said"),
    [
        ("x" * 100_000, 8.0, "for architecture 'xxx"),
        ("llama", "x" * 100_000, "alpha must be a number, got 'xxx"),
        ("llama", [1.0] * 100_000, "alpha must be a number, got a list of 100000"),
        ("llama", 1e308, r"alpha must be a number, got 1e\+308"),
    ],
    ids=["architecture", "text", "list", "1e308"],
)
def test_gguf_keys_that_are_no_alpha(tmp_path, architecture, alpha, said):
    writer = gguf.GGUFWriter(tmp_path / "x.gguf", architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    add = {str: writer.add_string, list: writer.add_array, float: writer.add_float64}[type(alpha)]
    add("adapter.lora.alpha", alpha)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=said) as caught:
        open_adapter(tmp_path / "x.gguf")
    assert len(str(caught.value)) < 1000


def test_another_size_is_refused_with_both_shapes(tmp_path, tiny_model, tiny_hf_folder):
    config = replace(tiny_model[0], dim=96, head_dim=24, n_kv_heads=4)
    save_lora(tmp_path / "lora", config, random_weights(config))
    with pytest.raises(CheckpointError, match=r"lora: LoRA of rank 8.* width 96, .* 64"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


def test_another_feed_forward_is_refused_with_both_shapes(tmp_path, tiny_model, tiny_hf_folder):
    config = replace(tiny_model[0], ffn_dim=128)
    save_lora(tmp_path / "lora", config, random_weights(config))
    with pytest.raises(CheckpointError, match=r"w2 lora A.*\[8, 96\].*\[8, 128\]"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


@pytest.mark.parametrize("table", ["embed_tokens", "lm_head"])
def test_another_vocabulary_is_refused_with_both_sizes(tmp_path, tiny_model, tiny_hf_folder, table):
    config = replace(tiny_model[0], vocab_size=513)
    save_lora(tmp_path / "lora", config, random_weights(config), target_modules=[table])
    with pytest.raises(CheckpointError, match=r"513 tokens.*512"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


def test_a_bias_on_the_output_is_refused(tmp_path, tiny_model, tiny_hf_folder):
    save_lora(tmp_path / "lora", *tiny_model, target_modules=["lm_head"], lora_bias=True)
    with pytest.raises(CheckpointError, match=r"bias.*'lm_head'"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


def test_more_layers_are_refused(tmp_path, tiny_model, tiny_hf_folder):
    config = replace(tiny_model[0], n_layers=3)
    save_lora(tmp_path / "lora", config, random_weights(config))
    with pytest.raises(CheckpointError, match=r"layer 2.*2 layers"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
        ({"init_lora_weights": "olora"}, "olora"),
        ({"alora_invocation_tokens": [1, 2]}, "alora"),
        ({"r": 4}, r"rank 8 in the tensors, 4"),
        ({"lora_alpha": "16"}, "lora_alpha"),
        ({"lora_alpha": -1}, "lora_alpha"),
        ({"lora_alpha": float("inf")}, "lora_alpha"),
        ({"rank_pattern": {"(": 3}}, "rank_pattern"),
        ({"rank_pattern": [1]}, "rank_pattern must be an object"),
        ({"lora_alpha": 10**400}, "lora_alpha for"),
        ({"alpha_pattern": {"q_proj": 1e308}}, r"lora_alpha for model\.layers\.\d\.self_attn\.q"),
    ],
)
def test_configurations_that_are_not_computed(tmp_path, tiny_model, tiny_hf_folder, change, said):
    save_lora(tmp_path / "lora", *tiny_model)
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=said):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


def test_files_without_what_they_need(tmp_path, tiny_model, tiny_hf_folder):
    save_lora(tmp_path / "lora", *tiny_model, target_modules=LINEARS[:1])
    path = tmp_path / "lora" / "adapter_model.safetensors"
    state = load_file(path)
    a = next(name for name in state if "lora_A" in name)
    for kept, said in (
        ({a: state[a]}, "only one of lora_A and lora_B"),
        ({"base_model.model.lm_head.lora_A.weight": state[a]}, "lm_head has only one"),
        ({"base_model.model.lm_head.weight": state[a]}, r"lm_head\.weight"),
        ({"base_model.model.model.norm.lora_A.weight": state[a]}, "model.norm"),
        ({"base_model.model.model.embed_tokens.lora_A.weight": state[a]}, "embed_tokens"),
        ({**state, a.replace(".weight", ".default.weight"): state[a].clone()}, "two of lora_A"),
        ({**state, a: state[a].long()}, "stored as i64"),
        ({**state, a: state[a] * float("nan")}, "not finite"),
        ({**state, "base_model.model.score.weight": state[a].clone()}, "score"),
    ):
        save_file(kept, path)
        with pytest.raises(CheckpointError, match=said):
            Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])
    path.unlink()
    with pytest.raises(CheckpointError, match=r"without adapter_model"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])
    torch.save({}, tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="empty"):
        Llama.load(tiny_hf_folder, adapters=[tmp_path / "lora"])


def test_shared_case(shared_golden):
    case = shared_golden / "peft-lora"
    base = shared_golden / (case / "BASE").read_text().strip()
    with np.load(case / "expected.npz") as expected:
        ids, logits = expected["ids"], expected["logits"]
    for isa in ISA_LEVELS:
        with Llama.load(base, adapters=[case], isa=isa, progress=False) as llm:
            assert relative_error(llm.logits(ids.tolist()), logits) <= 2e-3
