"""Relatives of LLaMA that share its graph, against transformers; and others, refused by name."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llama_rt import CapacityError, ConfigError, Llama
from llama_rt.api import identify
from llama_rt.config import from_hf, from_meta
from reference.model import relative_error

IDS = [1, 17, 300, 45, 45, 8, 501, 77, 123, 9]
SIZES = {
    "vocab_size": 512, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0],
    "original_max_position_embeddings": 32, "rope_theta": 10000.0,
}  # fmt: skip


def saved(folder, name, **changes):
    """Writes a small model with every weight away from what it is initialised to."""
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**(SIZES | changes))
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "norm" in key:
                value.copy_(0.5 + torch.rand_like(value))
            elif "bias" in key:
                value.copy_(0.1 * torch.randn_like(value))
            else:
                value.mul_(4)
    model.save_pretrained(folder)
    return model


def edit(folder, **changes):
    file = folder / "config.json"
    config = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def rewrite(folder, change):
    file = folder / "model.safetensors"
    tensors = {}
    for name, value in load_file(file).items():
        tensors |= change(name, value)
    save_file({name: value.contiguous() for name, value in tensors.items()}, file)


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def check(folder, expected, ids=IDS, **options):
    with Llama.load(folder, kv_dtype="f32", progress=False, **options) as llm:
        assert relative_error(llm.logits(ids), expected) < 1e-5


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("Mistral", {"head_dim": 24, "sliding_window": 6}),
        ("Qwen2", {}),
        ("Phi3", {"sliding_window": 6}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
    ],
)
def test_logits_are_those_of_transformers(tmp_path, name, changes):
    check(tmp_path, logits(saved(tmp_path, name, **changes)))


def test_longrope_is_that_of_transformers(tmp_path):
    model = saved(tmp_path, "Phi3", rope_parameters=LONGROPE, sliding_window=None,
                  original_max_position_embeddings=32)  # fmt: skip
    check(tmp_path, logits(model))
    long = [(7 * at) % 509 for at in range(48)]
    check(tmp_path, logits(model, long), long, n_ctx=128)
    with Llama.load(tmp_path, progress=False) as llm:
        assert llm.n_ctx == 32  # beyond it, cached keys would be rotated by other divisors
        with pytest.raises(CapacityError):
            llm.logits(long)
    edit(tmp_path, rope_scaling=LONGROPE | {"short_factor": [1.0]}, rope_parameters="absent")
    with pytest.raises(ConfigError, match="1 factors, expected one for each of 8"):
        Llama.load(tmp_path)


def fused(name, value, parts, whole, held):
    """Collects q, k, v (or others) of a layer until all are there."""
    layer, _, rest = name.rpartition(".self_attn.")
    part = rest.removesuffix("_proj.weight")
    if not layer or part not in parts:
        return {name: value}
    held.setdefault(layer, {})[part] = value
    if len(held[layer]) < len(parts):
        return {}
    return {f"{layer}.self_attn.{whole}.weight": torch.cat([held[layer][p] for p in parts])}


@pytest.mark.parametrize("baichuan2", [False, True])
def test_baichuan(tmp_path, baichuan2):
    model = saved(tmp_path, "Llama", num_key_value_heads=4)
    held = {}
    rewrite(tmp_path, lambda name, value: fused(name, value, ("q", "k", "v"), "W_pack", held))
    edit(tmp_path, architectures=["BaichuanForCausalLM"], model_type="baichuan")
    if baichuan2:
        rows = 125696

        def taller(name, value):
            table = name in ("model.embed_tokens.weight", "lm_head.weight")
            more = torch.zeros(rows - len(value), 64) if table else None
            return {name: torch.cat([value, more]) if table else value}

        rewrite(tmp_path, taller)
        edit(tmp_path, vocab_size=rows)
        with torch.no_grad():
            model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))
    with Llama.load(tmp_path, kv_dtype="f32", progress=False) as llm:
        assert relative_error(llm.logits(IDS)[:, :512], logits(model)) < 1e-5
    edit(tmp_path, max_position_embeddings="absent")
    with pytest.raises(ConfigError, match="ALiBi"):
        Llama.load(tmp_path)


def test_internlm_has_biases_of_its_attention(tmp_path):
    model = saved(tmp_path, "Llama", attention_bias=True)
    edit(tmp_path, architectures=["InternLMForCausalLM"], model_type="internlm", bias=True,
         attention_bias="absent")  # fmt: skip
    check(tmp_path, logits(model))
    edit(tmp_path, bias=False)
    with pytest.raises(ValueError, match="configuration says no bias"):
        Llama.load(tmp_path)


def test_yi_calls_its_norms_otherwise(tmp_path):
    model = saved(tmp_path, "Llama")
    names = {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"}

    def renamed(name, value):
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        return {name: value}

    rewrite(tmp_path, renamed)
    edit(tmp_path, architectures=["YiForCausalLM"], model_type="Yi")
    check(tmp_path, logits(model))


@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Qwen3"])
def test_bare_models_embed(tmp_path, name):
    model = saved(tmp_path, name).model
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [f"{name}Model"]
    with torch.no_grad():
        states = model(torch.tensor([IDS])).last_hidden_state[0].numpy()
    (tmp_path / "1_Pooling").mkdir()
    pooling = tmp_path / "1_Pooling" / "config.json"
    with Llama.load(tmp_path, kv_dtype="f32", progress=False) as llm:
        for said, expected in (
            ({"pooling_mode_mean_tokens": True}, states.mean(0)),
            ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, states[-1]),
        ):
            pooling.write_text(json.dumps({"word_embedding_dimension": 64} | said))
            expected = expected / np.linalg.norm(expected)
            assert np.abs(llm.embed(IDS) - expected).max() < 1e-5
        assert not np.allclose(llm.embed(IDS, pooling="mean"), llm.embed(IDS))
        pooling.write_text('{"pooling_mode_cls_token": true}')
        with pytest.raises(ConfigError, match="says pooling_mode_cls_token"):
            llm.embed(IDS)
        for call in (llm.logits, llm.score, llm.generate):
            with pytest.raises(ConfigError, match="without an output matrix"):
                call(IDS)


def test_mistrals_own_layout(tmp_path):
    """The same weights under Meta's names, rows of q and k in pairs, against transformers."""
    model = saved(tmp_path / "hf", "Mistral", head_dim=24, sliding_window=6)
    own = tmp_path / "own"
    own.mkdir()
    names = {
        "self_attn.q_proj": "attention.wq", "self_attn.k_proj": "attention.wk",
        "self_attn.v_proj": "attention.wv", "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1", "mlp.down_proj": "feed_forward.w2",
        "mlp.up_proj": "feed_forward.w3", "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm", "embed_tokens": "tok_embeddings",
        "lm_head": "output",
    }  # fmt: skip
    tensors = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("model.")
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        if ".wq." in name or ".wk." in name:
            heads = value.shape[0] // 24
            value = value.reshape(heads, 2, 12, 64).transpose(1, 2).reshape(value.shape)
        tensors[name] = value.contiguous()
    save_file(tensors, own / "consolidated.safetensors")
    params = {
        "dim": 64, "n_layers": 2, "head_dim": 24, "hidden_dim": 96, "n_heads": 4, "n_kv_heads": 2,
        "norm_eps": 1e-6, "vocab_size": 512, "sliding_window": 6,
    }  # fmt: skip
    (own / "params.json").write_text(json.dumps(params))
    check(own, logits(model), n_ctx=128)
    check(own / "consolidated.safetensors", logits(model), n_ctx=128)
    for key, what in (("moe", "experts"), ("vision_encoder", "images")):
        (own / "params.json").write_text(json.dumps(params | {key: {"num_experts": 8}}))
        with pytest.raises(ConfigError, match=what):
            Llama.load(own)


def test_params_of_mistral():
    params = {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96, "vocab_size": 9}
    assert from_meta(params).rope_theta == 1e6
    windowed = from_meta(params | {"sliding_window": 4096})
    assert (windowed.rope_theta, windowed.sliding_window) == (10000.0, 4096)
    assert windowed.max_context == 32768
    assert from_meta(params | {"max_position_embeddings": 8192}).max_context == 8192


@pytest.mark.parametrize(
    ("architecture", "model_type", "reason"),
    [
        ("MixtralForCausalLM", "mixtral", "a mixture of experts"),
        ("Gemma2ForCausalLM", "gemma2", "soft caps"),
        ("GemmaForCausalLM", "gemma", "norms of 1 "),
        ("DeepseekV3ForCausalLM", "deepseek_v3", "latent attention"),
        ("PhiForCausalLM", "phi", "side by side"),
        ("PhiMoEForCausalLM", "phimoe", "experts"),
        ("Qwen2MoeForCausalLM", "qwen2_moe", "experts"),
        ("InternLM2ForCausalLM", "internlm2", "fused projections"),
        ("LlamaBidirectionalModel", "llama_bidirec", "both directions"),
        ("Llama4ForConditionalGeneration", "llama4", "without rotation"),
        ("GPT2LMHeadModel", "gpt2", "learned positions"),
    ],
)
def test_others_are_refused_by_name_before_their_tensors(
    tmp_path, architecture, model_type, reason
):
    saved(tmp_path, "Llama")
    rewrite(tmp_path, lambda name, value: {f"transformer.{name}": value})
    edit(tmp_path, architectures=[architecture], model_type=model_type)
    for call in (Llama.load, identify):
        with pytest.raises(ConfigError, match=f"'{architecture}'.*{reason}"):
            call(tmp_path)


def test_parts_of_phi_3_that_are_not_computed(tmp_path):
    saved(tmp_path, "Phi3")
    edit(tmp_path, partial_rotary_factor=0.75)
    with pytest.raises(ConfigError, match="partial_rotary_factor"):
        identify(tmp_path)


def test_fused_rows_must_fit(tmp_path):
    saved(tmp_path, "Phi3")
    edit(tmp_path, num_key_value_heads=4)
    with pytest.raises(ValueError, match=r"qkv_proj.weight' has shape \[128, 64\].* 192 rows"):
        Llama.load(tmp_path)
    shutil.rmtree(tmp_path)


def test_linear_scaling_of_files_that_state_the_stretched_context():
    base = {"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 4.0}}
    assert from_hf(base | {"max_position_embeddings": 16384}).max_context == 16384
    assert from_hf(base | {"max_position_embeddings": 4096}).max_context == 16384
    assert from_hf(base | {"max_position_embeddings": 2048}).max_context == 8192
