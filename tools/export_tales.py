"""Export a training checkpoint, or the mean of several: a Hugging Face folder, then the GGUF.

python tools/export_tales.py run/base/final.pt --data run/data --out run/hf \
    --gguf python/llama_rt/data/tales.gguf --format q8_0
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from tales_model import TalesModel, load_model

NAME = "tales"


def write_folder(model: TalesModel, tokenizer: Path, out: Path, context: int) -> None:
    """Write ``config.json``, ``model.safetensors`` and the tokenizer files.

    Args:
        model: weights in float32; the folder keeps them so.
        tokenizer: SentencePiece ``tokenizer.model``.
        out: folder, made when absent.
        context: tokens that the model was trained on at the end, its ``max_position_embeddings``.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = {**model.config.to_hf(), "max_position_embeddings": context, "_name_or_path": NAME}
    tensors = {name: t.detach().float().contiguous() for name, t in model.state_dict().items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, out / "tokenizer.model")
    tokenizer_config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": False,
        "model_max_length": context,
    }
    generation = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.8, "top_p": 0.95}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", {**generation, "do_sample": True}),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


def mean_model(paths: Sequence[Path]) -> TalesModel:
    """The model whose weights are the means of those of checkpoints of one shape."""
    models = [load_model(path) for path in paths]
    states = [model.state_dict() for model in models]
    mean = {name: sum(state[name] for state in states) / len(states) for name in states[0]}
    models[0].load_state_dict(mean)
    return models[0]


def main() -> None:
    """Export from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path, nargs="+", help="several: their mean is exported")
    parser.add_argument("--data", type=Path, required=True, help="folder of tales_data.py")
    parser.add_argument("--out", type=Path, required=True, help="Hugging Face folder to write")
    parser.add_argument("--context", type=int, help="default: that of the end of training")
    parser.add_argument("--gguf", type=Path, help="also convert the folder to this file")
    parser.add_argument("--format", default="q8_0", help="format of the GGUF's matrices")
    args = parser.parse_args()
    progress = torch.load(args.checkpoint[0], map_location="cpu", weights_only=True)["progress"]
    context = args.context or progress["context"]
    write_folder(mean_model(args.checkpoint), args.data / "tokenizer.model", args.out, context)
    print(f"{args.out}: context {context}, {progress['tokens']} tokens seen")
    if args.gguf is not None:
        convert_folder(args.out, args.gguf, args.format)
        print(f"{args.gguf}: {args.gguf.stat().st_size / 1e6:.2f} MB, {args.format}")


def convert_folder(folder: Path, target: Path, fmt: str) -> None:
    """Write ``folder`` as a GGUF with this project's own converter."""
    from llama_rt.convert import convert

    target.parent.mkdir(parents=True, exist_ok=True)
    convert(folder, target, fmt, overwrite=True, progress=False)


if __name__ == "__main__":
    main()
