"""Sample tales from an exported Hugging Face folder with transformers, an independent reader.

python tools/sample_tales.py run/hf --out run/samples.txt --count 20
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import sentencepiece as spm
import torch
from tales_data import BOS, EOS, SEPARATOR
from transformers import LlamaForCausalLM

OPENINGS = (
    "Once upon a time",
    "There was once a poor woodcutter who lived",
    "Long ago, in a little house by the sea,",
    "One morning Peter Rabbit",
    "A fox and a crow",
    "The old king had three sons.",
    "Once upon a time there was a little girl who",
    "In the middle of the forest",
    "It was a cold winter night, and",
    "The mouse said to the cat,",
)


@torch.no_grad()
def sample(
    model: LlamaForCausalLM,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    temperature: float,
    top_p: float,
) -> list[list[int]]:
    """Continue every prompt, left-padded into one batch.

    Args:
        model: any causal model.
        prompts: ids with BOS.
        max_tokens: tokens to add at most.
        temperature: divides the logits.
        top_p: nucleus mass.

    Returns:
        Prompt and continuation of each; EOS, where it came, is the last id.
    """
    width = max(map(len, prompts))
    ids = torch.tensor([[EOS] * (width - len(p)) + list(p) for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    out = model.generate(  # type: ignore[misc]
        ids, attention_mask=mask, max_new_tokens=max_tokens, do_sample=True, top_k=0,
        temperature=temperature, top_p=top_p, eos_token_id=EOS, pad_token_id=EOS,
    )  # fmt: skip
    assert isinstance(out, torch.Tensor)
    tales = []
    for row, prompt in zip(out.tolist(), prompts, strict=True):
        tale = row[width - len(prompt) :]
        end = tale.index(EOS) + 1 if EOS in tale else len(tale)
        tales.append(tale[:end])
    return tales


def main() -> None:
    """Sample from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--prompt", action="append", help="instead of the ten openings")
    parser.add_argument("--max-tokens", type=int, default=400)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = spm.SentencePieceProcessor(model_file=str(args.folder / "tokenizer.model"))
    model = LlamaForCausalLM.from_pretrained(args.folder, dtype=torch.float32)
    model.train(False)
    openings = args.prompt or OPENINGS
    prompts = [[BOS, *tokenizer.encode(openings[i % len(openings)])] for i in range(args.count)]
    tales = sample(model, prompts, args.max_tokens, args.temperature, args.top_p)
    text = f"\n{SEPARATOR}\n".join(tokenizer.decode(tale) for tale in tales)
    args.out.write_text(text + "\n")
    ended = sum(tale[-1] == EOS for tale in tales)
    print(f"{args.out}: {len(tales)} tales, {ended} ended by themselves")


if __name__ == "__main__":
    main()
