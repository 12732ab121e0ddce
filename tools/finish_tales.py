"""The last lessons of the built-in model: not to repeat itself, and to come to an end.

Round by round the model writes on from openings and places of the corpus. Where what it wrote is
dense with repeated runs of four tokens, their tokens are made less likely (sequence-level
unlikelihood, Welleck et al. 2019), and so is the end of a tale that has hardly begun. Beside these
texts it goes on reading the corpus: packed windows, and whole stories, whose ends count more.

python tools/finish_tales.py --weights run/hf --data run/data --out run/finished
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from export_tales import convert_folder, write_folder
from safetensors.torch import load_file
from tales_data import BOS, EOS, Corpus, epoch_windows, load_corpus, whole_tale_windows
from tales_model import SIZES, TalesModel
from torch import Tensor
from train_tales import build_optimizers, take_step

RUN = 4  # tokens of a repeated run
MAX_GIVEN = 128  # tokens of a prompt after its BOS
NEAR = 64  # tokens over which the density of repetition is taken


def repeated(ids: list[int]) -> npt.NDArray[np.bool_]:
    """Which tokens end a run of ``RUN`` tokens that occurred before."""
    seen: set[tuple[int, ...]] = set()
    marks = np.zeros(len(ids), dtype=bool)
    for end in range(RUN, len(ids) + 1):
        run = tuple(ids[end - RUN : end])
        marks[end - 1] = run in seen
        seen.add(run)
    return marks


def excessive(marks: npt.NDArray[np.bool_], density: float) -> npt.NDArray[np.bool_]:
    """The marks in stretches of ``NEAR`` tokens of which more than ``density`` are marked."""
    if len(marks) < NEAR:
        return np.zeros_like(marks)
    dense = np.convolve(marks, np.ones(NEAR), "valid") > density * NEAR
    reach = np.convolve(dense, np.ones(NEAR)) > 0
    return marks & reach


def as_corpus(stories: list[npt.NDArray[np.uint16]]) -> Corpus:
    """Encoded stories as a corpus; its characters are not counted."""
    starts = np.cumsum([0, *map(len, stories)], dtype=np.int64)
    return Corpus(np.concatenate(stories), starts, 0)


def beginnings(corpus: Corpus, count: int, rng: np.random.Generator) -> list[list[int]]:
    """Prompts: half the first 4 to 24 tokens of stories, half 32 to 128 tokens from anywhere."""
    prompts = []
    for index in range(count):
        if index % 2:
            begin = int(corpus.starts[int(rng.integers(len(corpus.starts) - 1))]) + 1
            length = int(rng.integers(4, 25))
        else:
            begin = int(rng.integers(len(corpus.ids) - 200))
            length = int(rng.integers(32, MAX_GIVEN + 1))
        ids = [int(i) for i in corpus.ids[begin : begin + length]]
        prompts.append([BOS, *(i for i in ids if i not in (BOS, EOS))])
    return prompts


@dataclasses.dataclass(frozen=True)
class Written:
    """What the model wrote in a round: windows of ids and the tokens of it to be unlearned."""

    ids: Tensor  # int64 [texts, length + 1], filled up with EOS
    marks: Tensor  # bool [texts, length], of targets
    rate: float  # of all tokens, those that end a repeated run


def write(folder: Path, corpus: Corpus, args: argparse.Namespace, round_: int) -> Written:
    """Let the model of ``folder`` write; keep the texts with something to unlearn."""
    from llama_rt import Llama

    rng = np.random.default_rng([args.seed, round_])
    prompts = beginnings(corpus, args.texts, rng)
    gguf = folder / "model.gguf"
    convert_folder(folder, gguf, "q8_0")
    with Llama.load(gguf, progress=False) as llm:
        done = llm.generate(prompts, max_tokens=args.length, seed=round_)
    rows, marks, count, tokens = [], [], 0, 0
    for prompt, one in zip(prompts, done, strict=True):
        found = repeated(one.tokens)
        count, tokens = count + int(found.sum()), tokens + len(found)
        bad = excessive(found, args.density)
        if one.finish_reason == "stop" and len(prompt) + len(bad) < args.early:
            bad = np.append(bad, True)
        if not bad.any():
            continue
        row = np.full(args.length + MAX_GIVEN + 1, EOS, dtype=np.int64)
        mark = np.zeros(len(row) - 1, dtype=bool)
        row[: len(prompt)] = prompt
        row[len(prompt) : len(prompt) + len(one.tokens)] = one.tokens
        mark[len(prompt) - 1 : len(prompt) - 1 + len(bad)] = bad
        rows.append(row)
        marks.append(mark)
    return Written(
        torch.from_numpy(np.array(rows)), torch.from_numpy(np.array(marks)), count / tokens
    )


class Finishing:
    """A model in its last lessons."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.corpus = load_corpus(args.data / "train.npz")
        self.model = TalesModel(SIZES[args.size])
        self.model.load_state_dict(load_file(args.weights / "model.safetensors"))
        self.optimizers = build_optimizers(self.model, args)
        self.windows = epoch_windows(self.corpus, args.context, args.seed, 0)
        long_enough = [story for story in self.corpus.stories() if len(story) >= args.shortest]
        self.whole = whole_tale_windows(as_corpus(long_enough), 2 * args.context, args.seed, 0)
        self.at = 0
        self.tokens = 0
        self.began = time.monotonic()

    def read(self) -> float:
        """Gradients of the next windows of the corpus, half of them whole stories; their loss."""
        total = 0.0
        for table, context in (
            (self.windows, self.args.context),
            (self.whole, 2 * self.args.context),
        ):
            size = self.args.batch_tokens // 2 // context
            rows = np.arange(self.at * size, (self.at + 1) * size) % len(table)
            batch = torch.from_numpy(table[rows])
            self.tokens += batch[:, 1:].numel()
            logits = self.logits(batch[:, :-1])
            targets = batch[:, 1:].flatten()
            losses = F.cross_entropy(logits.flatten(0, 1).float(), targets, reduction="none")
            if table is self.whole:
                losses = losses * torch.where(targets == EOS, self.args.ending, 1.0)
            loss = losses.mean() / 2
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        self.at += 1
        return total

    def logits(self, ids: Tensor) -> Tensor:
        """Logits ``[batch, tokens, vocab]``."""
        with torch.autocast("cpu", torch.bfloat16):
            logits: Tensor = self.model(ids)
        return logits

    def unlearn(self, ids: Tensor, marks: Tensor) -> float:
        """Gradients of the mean over marked tokens of -log(1 - p)."""
        self.tokens += ids[:, 1:].numel()
        logits = self.logits(ids[:, :-1])[marks].float()
        log_p = logits.log_softmax(-1).gather(1, ids[:, 1:][marks][:, None])
        loss = -torch.log1p(-log_p.exp().clamp(max=1 - 1e-4)).mean()
        (loss * self.args.weight).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def step(self, ids: Tensor, marks: Tensor, rate: float) -> tuple[float, float]:
        """One optimizer step; both losses."""
        self.model.train()
        read = self.read()
        unlearn = self.unlearn(ids, marks) if len(ids) else 0.0
        take_step(self.optimizers, rate)
        return read, unlearn

    def run(self) -> None:
        """All rounds."""
        args = self.args
        args.out.mkdir(parents=True, exist_ok=True)
        for round_ in range(args.rounds):
            folder = args.out / "written"
            write_folder(
                self.model,
                args.data / "tokenizer.model",
                folder,
                self.model.config.max_position_embeddings,
            )
            written = write(folder, self.corpus, args, round_)
            self.note(round=round_, repeated=written.rate, texts=len(written.ids))
            order = np.random.default_rng([args.seed, round_, 1]).permutation(len(written.ids))
            sums = np.zeros(2)
            steps = max(1, min(args.steps, len(order) // args.together))
            for i in range(steps):
                part = torch.from_numpy(order[i * args.together : (i + 1) * args.together])
                done = (round_ + (i + 1) / steps) / args.rounds
                rate = min(1.0, 10 * done, 2 * (1 - done) + 0.02)
                sums += self.step(written.ids[part], written.marks[part], rate)
            self.note(read=sums[0] / steps, unlearn=sums[1] / steps, steps=steps)
            self.save(f"round{round_}.pt")
        self.save("final.pt")

    def note(self, **fields: float) -> None:
        """Print and keep one line."""
        line = json.dumps({"seconds": round(time.monotonic() - self.began), **fields})
        print(line, flush=True)
        with (self.args.out / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def save(self, name: str) -> None:
        """A checkpoint for ``export_tales.py`` and ``tales_eval.py``."""
        state = {
            "config": dataclasses.asdict(self.model.config),
            "model": self.model.state_dict(),
            "progress": {
                "context": self.model.config.max_position_embeddings,
                "tokens": self.tokens,
            },
        }
        torch.save(state, self.args.out / name)


def main() -> None:
    """Finish from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--weights", type=Path, required=True, help="folder with the trained weights")
    add("--data", type=Path, required=True, help="folder of tales_data.py")
    add("--out", type=Path, required=True)
    add("--size", choices=sorted(SIZES), default="base")
    add("--seed", type=int, default=1)
    add("--rounds", type=int, default=3)
    add("--texts", type=int, default=2000, help="written in a round")
    add("--length", type=int, default=320, help="tokens of a text")
    add("--shortest", type=int, default=200, help="tokens of whole stories")
    add("--early", type=int, default=100, help="an end before so many tokens is unlearned")
    add("--density", type=float, default=0.2, help="of repeated runs, from which on it is too much")
    add("--steps", type=int, default=24, help="of a round at most")
    add("--together", type=int, default=8, help="texts of a step")
    add("--weight", type=float, default=0.2, help="of unlearning beside reading")
    add("--ending", type=float, default=3.0, help="weight of the ends of stories in reading")
    add("--context", type=int, default=512, help="tokens of the corpus' windows")
    add("--batch-tokens", type=int, default=6144, help="of the corpus in a step")
    add("--muon-lr", type=float, default=0.001)
    add("--adam-lr", type=float, default=0.0002)
    add("--weight-decay", type=float, default=0.02)
    add("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    Finishing(args).run()


if __name__ == "__main__":
    main()
