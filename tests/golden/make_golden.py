"""The project's own golden set: seeded tiny checkpoints in every format, and their logits.

Nothing binary is kept: the tests make the set when they need it, with the libraries that users'
checkpoints come from. To look at it, or to try another build on it:

    python tests/golden/make_golden.py FOLDER [NAME ...]

Expected logits are float64: by transformers for Hugging Face folders (from the weights as the
folder stores them), by `reference.model` for the others (from the weights as stored or decoded).
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reference.blocks import FORMATS, decode, random_bytes
from reference.checkpoints import write_gguf, write_hf, write_meta
from reference.model import Config, Rope, forward, inverse_frequencies, random_weights
from reference.vocabulary import train_tokenizer

# ||x - ref|| / ||ref|| allowed for each stored type; 8-bit activations for the block types.
BOUNDS = {"f32": 2e-3, "f16": 2e-3, "bf16": 1.5e-2}
BLOCK_BOUND = 2.5e-2
TORCH = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
LLAMA3 = Rope("llama3", factor=8.0, original_context=64)


@dataclass(frozen=True)
class Golden:
    """One made case: where it is, what to feed, what must come out and how closely."""

    path: Path
    ids: list[int]
    logits: np.ndarray
    bound: float


@dataclass(frozen=True)
class Case:
    """A recipe: `write(folder, tokenizer)` returns the path and the expected logits of ids."""

    config: Config
    dtype: str
    write: Callable[[Path, Path], tuple[Path, Callable[[list[int]], np.ndarray]]]
    tokens: int = 40

    def make(self, folder: Path, tokenizer: Path) -> Golden:
        path, expected = self.write(folder, tokenizer)
        rng = np.random.default_rng(self.tokens)
        ids = rng.integers(0, self.config.vocab_size, self.tokens).tolist()
        return Golden(path, ids, expected(ids), BOUNDS.get(self.dtype, BLOCK_BOUND))


def hf(
    config: Config,
    dtype: str,
    seed: int,
    *,
    edit: Callable[[dict], dict] | None = None,
    tokens: int = 40,
    **options: str,
) -> Case:
    """A Hugging Face folder; `edit` rewrites `config.json` after transformers has read it."""

    def write(folder: Path, tokenizer: Path):
        weights = random_weights(config, seed)
        write_hf(
            folder, config, weights, dtype=TORCH[dtype], tokenizer=tokenizer, **options
        )  # fmt: skip
        document = json.loads((folder / "config.json").read_text())
        if edit:
            (folder / "config.json").write_text(json.dumps(edit(document)))

        def expected(ids: list[int]) -> np.ndarray:
            return transformers_logits(folder, document, ids)

        return folder, expected

    return Case(config, dtype, write, tokens)


def transformers_logits(folder: Path, document: dict, ids: list[int]) -> np.ndarray:
    """Float64 logits of the weights in `folder` under the configuration `document`."""
    import torch
    from safetensors.torch import load_file
    from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

    state: dict = {}
    for file in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        part = load_file(file) if file.suffix == ".safetensors" else torch.load(file)
        state |= {name: tensor.double() for name, tensor in part.items()}
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "mistral": (MistralConfig, MistralForCausalLM),
    }
    options, model_class = classes[document["model_type"]]
    config = options(**{k: v for k, v in document.items() if k != "dtype"})
    model = model_class(config).double().eval()
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def meta(
    config: Config,
    dtype: str,
    seed: int,
    *,
    params: dict | None = None,
    stored: Config | None = None,
    **options: int,
) -> Case:
    """A Meta folder; `params` is merged into `params.json`.

    `stored` is the configuration the folder was written from where it differs (context, rope).
    """

    def write(folder: Path, tokenizer: Path):
        weights = random_weights(config, seed)
        write_meta(
            folder, stored or config, weights, dtype=TORCH[dtype], tokenizer=tokenizer, **options
        )
        if params:
            file = folder / "params.json"
            file.write_text(json.dumps({**json.loads(file.read_text()), **params}))
        rounded = {n: through(w, dtype) for n, w in weights.items()}
        return folder, lambda ids: forward(config, rounded, ids)

    return Case(config, dtype, write)


def through(value: np.ndarray, dtype: str) -> np.ndarray:
    """`value` rounded to an element type and back."""
    from reference.blocks import encode

    return decode(encode(value, dtype), dtype).reshape(value.shape)


def gguf(
    config: Config,
    dtype: str,
    seed: int,
    *,
    divisors: bool = False,
    types: tuple[str, ...] = (),
) -> Case:
    """A GGUF file; block types get random blocks, so that every bit pattern of them occurs.

    `types`: stored types taken in turn by the matrices, `dtype` otherwise. `divisors`: the rope
    scaling is stored as `rope_freqs`, as converters do for Llama 3.1.
    """

    def write(folder: Path, tokenizer: Path):
        folder.mkdir(parents=True, exist_ok=True)
        weights = random_weights(config, seed)
        blocks = {}
        matrices = [name for name, value in weights.items() if value.ndim == 2]
        for i, name in enumerate(matrices):
            stored = types[i % len(types)] if types else dtype
            if FORMATS[stored].elements == 1:
                weights[name] = through(weights[name], stored)
                continue
            data = random_bytes(stored, *weights[name].shape, seed=seed + i, spread=0.5)
            weights[name] = decode(data, stored).reshape(weights[name].shape)
            blocks[name] = (stored, data)
        told, told_weights = config, weights
        if divisors:
            told = replace(config, rope=Rope())
            ratio = inverse_frequencies(told) / inverse_frequencies(config)
            told_weights = {**weights, "rope.divisors": ratio.astype(np.float32)}
        path = write_gguf(
            folder / "model.gguf",
            told,
            told_weights,
            dtype=lambda name: types[matrices.index(name) % len(types)] if types else dtype,
            blocks=blocks,
            tokenizer=tokenizer,
        )
        return path, lambda ids: forward(config, weights, ids)

    return Case(config, dtype, write)


def old_spelling(document: dict) -> dict:
    """`config.json` as files of 2023 have it: `rope_scaling`, no head width, the old class name."""
    rope = document.pop("rope_parameters")
    document["rope_theta"] = rope["rope_theta"]
    document["rope_scaling"] = {"type": rope["rope_type"], "factor": rope["factor"]}
    document["architectures"] = ["LLaMAForCausalLM"]
    document["torch_dtype"] = document.pop("dtype")
    for key in ("head_dim", "attention_bias", "mlp_bias", "num_key_value_heads"):
        del document[key]
    return {**document, "transformers_version": "4.27.0.dev0", "pad_token_id": -1}


def dynamic_rope(document: dict) -> dict:
    """Dynamic NTK scaling, which equals the plain rule up to the trained context."""
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    return {**document, "rope_parameters": rope}


def without(*keys: str) -> Callable[[dict], dict]:
    """Drops keys whose class default is meant."""
    return lambda document: {k: v for k, v in document.items() if k not in keys}


ODD = Config(dim=50, n_heads=5, n_kv_heads=5, head_dim=10, ffn_dim=83, n_layers=3)
WIDE = Config(dim=256, n_heads=4, n_kv_heads=2, head_dim=64, ffn_dim=512)
MHA = Config(n_kv_heads=4)
YARN = Rope("yarn", factor=4.0, original_context=64, attention_factor=1.2)

CASES: dict[str, Case] = {
    "hf-f32": hf(Config(), "f32", 1),
    "hf-f16": hf(Config(), "f16", 2),
    "hf-bf16": hf(Config(), "bf16", 3),
    "hf-sharded": hf(Config(), "f16", 4, max_shard_size="60KB"),
    "hf-bin": hf(Config(), "f16", 5, container="bin"),
    "hf-bin-bf16": hf(MHA, "bf16", 6, container="bin"),
    "hf-biases": hf(Config(attention_bias=True, mlp_bias=True), "f16", 7),
    "hf-biases-bin": hf(Config(attention_bias=True, mlp_bias=True), "f32", 8, container="bin"),
    "hf-tied": hf(Config(tied=True), "f16", 9),
    "hf-tied-sharded": hf(Config(tied=True), "bf16", 10, max_shard_size="50KB"),
    "hf-odd": hf(ODD, "f32", 11),
    "hf-odd-f16": hf(replace(ODD, vocab_size=513), "f16", 12),
    "hf-wide-heads": hf(Config(head_dim=24), "f32", 13),
    "hf-one-kv-head": hf(Config(n_kv_heads=1), "f32", 14),
    "hf-linear": hf(Config(rope=Rope("linear", factor=4.0)), "f32", 15),
    "hf-linear-2023": hf(
        replace(MHA, rope=Rope("linear", factor=8.0)), "f16", 16, edit=old_spelling, container="bin"
    ),
    "hf-llama3": hf(Config(rope=LLAMA3, rope_theta=5e5), "f32", 17, tokens=200),
    "hf-yarn": hf(Config(rope=YARN), "f32", 18, tokens=200),
    "hf-yarn-defaults": hf(
        Config(rope=replace(YARN, attention_factor=0.1 * float(np.log(4.0)) + 1)),
        "f32",
        19,
        edit=lambda d: {
            **d,
            "rope_parameters": {
                k: v
                for k, v in d["rope_parameters"].items()
                if k not in ("attention_factor", "truncate", "beta_fast", "beta_slow")
            },
        },
    ),
    "hf-yarn-untruncated": hf(Config(rope=replace(YARN, truncate=False)), "f32", 20, tokens=100),
    "hf-dynamic": hf(Config(), "f32", 21, edit=dynamic_rope),
    "hf-mistral": hf(Config(sliding_window=8), "f32", 22),
    "hf-mistral-long": hf(Config(sliding_window=70), "bf16", 23, tokens=200),
    "hf-tinyllama": hf(
        Config(dim=128, n_heads=8, n_kv_heads=1, ffn_dim=352, n_layers=4), "bf16", 24
    ),
    "hf-defaults": hf(
        Config(norm_eps=1e-6),
        "f32",
        25,
        edit=without("rms_norm_eps", "tie_word_embeddings", "head_dim", "hidden_act"),
    ),
    "meta-f16": meta(MHA, "f16", 30),
    "meta-bf16-2": meta(MHA, "bf16", 31, shards=2),
    "meta-gqa-f16-2": meta(Config(n_kv_heads=2), "f16", 32, shards=2),
    "meta-f32-4": meta(MHA, "f32", 33, shards=4),
    "meta-llama3-bf16-2": meta(
        Config(
            rope_theta=5e5, rope=Rope("llama3", factor=8.0, original_context=8192), max_context=4096
        ),
        "bf16",
        34,
        params={"use_scaled_rope": True, "vocab_size": 512},
        shards=2,
        embedding_axis=0,
    ),
    "gguf-gqa": gguf(Config(), "f16", 40),
    "gguf-odd": gguf(ODD, "f32", 41),
    "gguf-biases": gguf(Config(attention_bias=True, mlp_bias=True), "f32", 42),
    "gguf-tied": gguf(replace(WIDE, tied=True), "q6_k", 43),
    "gguf-linear": gguf(Config(rope=Rope("linear", factor=4.0)), "f32", 44),
    "gguf-divisors": gguf(Config(rope=LLAMA3, rope_theta=5e5), "f32", 45, divisors=True),
    "gguf-yarn": gguf(
        Config(
            rope=Rope(
                "yarn", factor=4.0, original_context=64, attention_factor=0.1 * float(np.log(4)) + 1
            )
        ),
        "f32",
        46,
    ),
    "gguf-mixed": gguf(
        WIDE, "q4_k", 47, types=("q6_k", "q4_k", "q5_k", "q8_0", "f16", "q4_k", "bf16", "q3_k")
    ),
    **{
        f"gguf-{dtype}": gguf(WIDE, dtype, 50 + i)
        for i, dtype in enumerate(FORMATS)
        if dtype != "q8_1"  # the gguf package has its size wrong, and cannot write it
    },
}


def random_case(seed: int) -> Case:
    """A Hugging Face folder whose sizes and options follow from `seed`."""
    rng = np.random.default_rng(seed)
    kv_heads = int(rng.integers(1, 4))
    heads = kv_heads * int(rng.integers(1, 4))
    width = 2 * int(rng.integers(2, 24))
    ropes = [
        Rope(),
        Rope("linear", factor=float(rng.uniform(1, 8))),
        Rope(
            "llama3", factor=float(rng.uniform(2, 32)), original_context=int(rng.integers(32, 99))
        ),
        Rope(
            "yarn",
            factor=float(rng.uniform(1.5, 8)),
            original_context=int(rng.integers(32, 99)),
            attention_factor=float(rng.uniform(0.8, 1.5)),
            truncate=bool(rng.integers(2)),
        ),
    ]
    mistral = rng.random() < 0.25
    config = Config(
        # transformers wants a hidden size that the heads divide, whatever their width.
        dim=heads * int(rng.integers(6, 40)),
        n_layers=int(rng.integers(1, 4)),
        n_heads=heads,
        n_kv_heads=kv_heads,
        head_dim=width,
        ffn_dim=int(rng.integers(17, 300)),
        vocab_size=int(rng.integers(512, 600)),
        norm_eps=float(rng.choice([1e-6, 1e-5, 1e-3])),
        rope_theta=float(rng.choice([1e4, 5e5, 1e6])),
        rope=ropes[int(rng.integers(4))],
        sliding_window=int(rng.integers(1, 60)) if mistral else 0,
        attention_bias=not mistral and bool(rng.integers(2)),
        mlp_bias=not mistral and bool(rng.integers(2)),
        tied=bool(rng.integers(2)),
    )
    dtype = str(rng.choice(["f32", "f16", "bf16"]))
    container = str(rng.choice(["safetensors", "bin"]))
    shard = str(rng.choice(["1GB", "40KB"]))
    return hf(
        config,
        dtype,
        seed,
        container=container,
        max_shard_size=shard,
        tokens=int(rng.integers(1, 150)),
    )


def main(arguments: list[str]) -> None:
    """Writes the named cases (all of them by default) with `expected.npz` next to each."""
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(folder)
    for name in arguments[1:] or CASES:
        golden = CASES[name].make(folder / name, tokenizer)
        np.savez(
            folder / name / "expected.npz",
            ids=np.array(golden.ids, np.int32),
            logits=golden.logits.astype(np.float32),
        )
        sys.stdout.write(f"{golden.path}\n")


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: make_golden.py FOLDER [NAME ...]")
    main(sys.argv[1:])
