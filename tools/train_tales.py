"""Train the built-in model: one command, fixed seed, interruptible at any moment.

    python tools/tales_data.py --corpus tales.txt.xz --heldout tales_heldout.txt.xz --out run/data
    python tools/train_tales.py --data run/data --out run/base --size base --minutes 120

Warm-up, constant rate, then a linear cooldown to zero, which ends on longer windows. What it starts
from is kept as ``stable.pt``, so that a later run can go on from there; ``last.pt`` is written
every few minutes and a run that finds one resumes it. Hidden matrices are trained with Muon, the
rest with AdamW. Every number goes to ``log.jsonl``. ``--workers 2`` trains on two cores as two
processes of one thread each, which share a step's windows and add their gradients: nothing spins,
so that other work beside the run costs it no more than what that work takes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
import torch
from muon import Muon
from safetensors.torch import load_file
from tales_data import Corpus, epoch_windows, load_corpus, whole_tale_windows
from tales_eval import bits_per_character, heldout_nats
from tales_model import SIZES, TalesConfig, TalesModel
from torch import Tensor

WARMUP_STEPS = 100


@dataclasses.dataclass
class Progress:
    """Where a run stands; saved with the weights, so that resuming repeats nothing."""

    step: int = 0
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0  # training time, pauses left out
    epoch: int = 0
    window: int = 0  # next window of the epoch
    context: int = 0
    cooldown_from: int = -1  # step; -1 = not begun
    cooldown_steps: int = 0
    long: bool = False  # on the longer windows of the end

    def rate(self) -> float:
        """Learning-rate factor of the coming step, 0..1."""
        warm = min(1.0, (self.step + 1) / WARMUP_STEPS)
        if self.cooldown_from < 0:
            return warm
        return warm * max(0.0, 1 - (self.step - self.cooldown_from) / self.cooldown_steps)

    def done(self) -> bool:
        """Whether the cooldown has reached its end."""
        return self.cooled(1.0)

    def cooled(self, share: float) -> bool:
        """Whether that share of the cooldown is over."""
        steps = round(share * self.cooldown_steps)
        return self.cooldown_from >= 0 and self.step >= self.cooldown_from + steps


def build_optimizers(model: TalesModel, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embedding, head and norms."""
    hidden = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in hidden}
    others = [p for p in model.parameters() if id(p) not in chosen]
    groups = [
        {"params": [p for p in others if p.ndim == 2], "weight_decay": args.weight_decay},
        {"params": [p for p in others if p.ndim < 2], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=args.adam_lr, betas=(0.9, 0.95), fused=True)
    muon = Muon(hidden, lr=args.muon_lr, weight_decay=args.weight_decay)
    optimizers = [muon, adam]
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def take_step(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    """Step at ``rate`` times the peak rates, then forget the gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


class Windows:
    """Batches of windows in the run's order; the place is kept in ``Progress``.

    The windows of an epoch are the packed ones; of the long ones, ``whole`` epochs of whole stories
    are among them.
    """

    def __init__(self, corpus: Corpus, seed: int, batch_tokens: int, whole: int) -> None:
        self.corpus, self.seed, self.batch_tokens, self.whole = corpus, seed, batch_tokens, whole
        self.loaded: tuple[int, int] | None = None

    def load(self, at: Progress) -> None:
        """Lay out the windows of the epoch."""
        self.table = epoch_windows(self.corpus, at.context, self.seed, at.epoch)
        if at.long and self.whole:
            passes = range(at.epoch * self.whole, (at.epoch + 1) * self.whole)
            more = [whole_tale_windows(self.corpus, at.context, self.seed, i) for i in passes]
            self.table = np.concatenate([self.table, *more])
            np.random.default_rng([self.seed, at.epoch, 2]).shuffle(self.table)
        self.loaded = (at.epoch, at.context)

    def next(self, at: Progress) -> Tensor:
        """The next batch, int64 ``[batch, context + 1]``; moves ``at`` on."""
        size = max(1, self.batch_tokens // at.context)
        while True:
            if self.loaded != (at.epoch, at.context):
                self.load(at)
            if at.window + size <= len(self.table):
                break
            at.epoch, at.window = at.epoch + 1, 0
        rows = self.table[at.window : at.window + size]
        at.window += size
        return torch.from_numpy(rows)


class Workers:
    """The processes of a run; number 0 speaks, writes and decides for all of them.

    They meet in memory that all of them see: ``rows``, float32 ``[workers, parameters]``.
    """

    def __init__(
        self, rank: int = 0, rows: Tensor | None = None, barrier: Barrier | None = None
    ) -> None:
        self.rank, self.rows, self.barrier = rank, rows, barrier
        self.count = 1 if rows is None else len(rows)

    def average(self, parameters: list[torch.nn.Parameter]) -> None:
        """Replace gradients by their mean over the workers: the same bits in each of them."""
        if self.rows is None or self.barrier is None:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        sizes = [g.numel() for g in gradients]
        torch.cat([g.flatten() for g in gradients], out=self.rows[self.rank, : sum(sizes)])
        self.barrier.wait()
        means = self.rows[:, : sum(sizes)].mean(0).split(sizes)
        self.barrier.wait()  # nobody writes again before all have read
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    def agreed(self, value: float) -> float:
        """What worker 0 passed, rounded to float32."""
        if self.rows is None or self.barrier is None:
            return value
        if self.rank == 0:
            self.rows[0, 0] = value
        self.barrier.wait()
        agreed = float(self.rows[0, 0])
        self.barrier.wait()
        return agreed


def kept_state(args: argparse.Namespace) -> dict[str, Any] | None:
    """The checkpoint that a run goes on from: its own last one, else the one that was given."""
    last = args.out / "last.pt"
    source = last if last.exists() else args.resume_from
    return torch.load(source, map_location="cpu", weights_only=True) if source else None


class Run:
    """A model in training: its optimizers, its place, its files."""

    def __init__(self, args: argparse.Namespace, workers: Workers | None = None) -> None:
        self.args, self.workers = args, workers or Workers()
        self.out: Path = args.out
        self.out.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        self.device = args.device
        if self.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.at = Progress(context=args.context)
        state = kept_state(args)
        config = TalesConfig(**state["config"]) if state else SIZES[args.size]
        self.model = TalesModel(config, dropout=args.dropout).to(self.device)
        if args.weights and not state:
            self.model.load_state_dict(load_file(args.weights / "model.safetensors"))
        self.optimizers = build_optimizers(self.model, args)
        if state:
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                peaks = [group["peak"] for group in optimizer.param_groups]
                optimizer.load_state_dict(saved)
                for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                    group["peak"] = peak
            self.at = Progress(**state["progress"])
        self.probe = TalesModel(self.model.config).to(self.device).eval()
        self.windows = Windows(
            load_corpus(args.data / "train.npz"), args.seed, args.batch_tokens, args.whole_tales
        )
        self.heldout = load_corpus(args.data / "heldout.npz")
        self.loss: Callable[[Tensor], Tensor] = self.model.loss
        if args.compile:
            for layer in self.model.model.layers:
                layer.compile(dynamic=False)
            self.model.head_loss = torch.compile(  # type: ignore[method-assign]
                self.model.head_loss, dynamic=False
            )

    def log(self, **fields: Any) -> None:  # noqa: ANN401
        """Append one JSON line."""
        if self.workers.rank != 0:
            return
        line = {
            "step": self.at.step,
            "tokens": self.at.tokens,
            "flops": self.at.flops,
            "seconds": round(self.at.seconds, 1),
            "context": self.at.context,
            **fields,
        }
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def save(self, name: str) -> None:
        """Write a checkpoint whole or not at all."""
        if self.workers.rank != 0:
            return
        state = {
            "config": dataclasses.asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": dataclasses.asdict(self.at),
        }
        part = self.out / f"{name}.part"
        torch.save(state, part)
        part.replace(self.out / name)

    def train_step(self) -> Tensor:
        """One optimizer step; the mean loss of this worker's part of the batch in nats."""
        self.model.train()
        batch = self.windows.next(self.at)
        mine = batch[self.workers.rank :: self.workers.count]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.args.bf16):
            loss = self.loss(mine.to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        self.workers.average(list(self.model.parameters()))
        take_step(self.optimizers, self.at.rate())
        count = batch.shape[0] * (batch.shape[1] - 1)
        self.at.step += 1
        self.at.tokens += count
        self.at.flops += 6.0 * self.model.matrix_parameters() * count
        return loss.detach()

    def evaluate(self, stride: int, max_stories: int | None) -> tuple[float, float]:
        """Held-out nats per token and, over all stories, bits per character."""
        self.probe.load_state_dict(self.model.state_dict())
        with torch.autocast(self.device, torch.bfloat16, enabled=self.args.bf16):
            nats, count = heldout_nats(
                lambda ids: self.probe(ids.to(self.device)).cpu(),
                self.heldout,
                self.at.context,
                stride,
                max_stories=max_stories,
            )
        return nats / count, bits_per_character(nats, self.heldout.characters)

    def begin_cooldown(self) -> None:
        """Keep the state, then fix the length of the cooldown."""
        self.save("stable.pt")
        self.at.cooldown_from = self.at.step
        steps = self.args.cooldown_steps or int(self.at.step * self.args.cooldown_fraction)
        self.at.cooldown_steps = max(1, steps)
        self.log(event="cooldown", cooldown_steps=self.at.cooldown_steps)

    def lengthen(self) -> None:
        """Go on with the windows of the end."""
        self.at.long = True
        self.at.context = self.args.long_context
        self.at.epoch, self.at.window = self.at.epoch + 1, 0
        self.log(event="long windows")

    def cooldown_due(self) -> bool:
        """Whether steps, time, effort or the signal file ask for the cooldown now."""
        args, at = self.args, self.at
        if at.cooldown_from >= 0:
            return False
        share = 1 / (1 + args.cooldown_fraction)
        return (
            (args.steps > 0 and at.step >= args.steps * share)
            or (args.minutes > 0 and at.seconds >= args.minutes * 60 * share)
            or (args.flops > 0 and at.flops >= args.flops * share)
            or (
                args.cooldown_file is not None
                and self.workers.agreed(args.cooldown_file.exists()) > 0
            )
        )

    def pause(self) -> None:
        """Sleep while the pause file exists."""
        while self.args.pause_file is not None and self.args.pause_file.exists():
            time.sleep(1)

    def train(self) -> None:
        """Run to the end of the cooldown."""
        args = self.args
        self.log(
            event="start",
            config=dataclasses.asdict(self.model.config),
            seed=args.seed,
            parameters=sum(p.numel() for p in self.model.parameters()),
            options={k: str(v) for k, v in vars(args).items()},
        )
        saved, sums = time.monotonic(), []
        while not self.at.done():
            self.pause()
            if self.cooldown_due():
                self.begin_cooldown()
            if not self.at.long and self.at.cooled(1 - args.long_share):
                self.lengthen()
            begin = time.monotonic()
            sums.append(float(self.train_step()))
            spent = self.workers.agreed(time.monotonic() - begin)
            self.at.seconds += spent
            if self.at.step % 10 == 0:
                self.log(
                    loss=round(sum(sums) / len(sums), 4),
                    rate=round(self.at.rate(), 4),
                    tok_s=round(args.batch_tokens / spent),
                )
                sums = []
            if self.at.step % args.eval_steps == 0 and self.workers.rank == 0:
                self.log(heldout_20_stories=self.evaluate(self.at.context, 20)[0])
            if time.monotonic() - saved > args.save_minutes * 60:
                self.save("last.pt")
                saved = time.monotonic()
        self.save("final.pt")
        self.save("last.pt")
        if self.workers.rank != 0:
            return
        nats, bits = self.evaluate(self.at.context // 2, None)
        self.log(event="end", heldout_nats=nats, heldout_bits_per_character=bits)
        print(f"{args.size}: {bits:.4f} bits/character after {self.at.tokens} tokens")


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder written by tales_data.py")
    add("--out", type=Path, required=True, help="checkpoints and log; resumed when it has some")
    add("--size", choices=sorted(SIZES), default="base")
    add("--seed", type=int, default=1)
    add("--resume-from", type=Path, help="checkpoint to start from when --out has none")
    add("--weights", type=Path, help="folder with weights to begin with, all else from the start")
    stop = parser.add_argument_group("length (cooldown included; whichever comes first)")
    stop.add_argument("--minutes", type=float, default=0, help="training time, pauses left out")
    stop.add_argument("--steps", type=int, default=0)
    stop.add_argument("--flops", type=float, default=0, help="6 x matrix weights x tokens")
    stop.add_argument("--cooldown-file", type=Path, help="cool down as soon as this file exists")
    stop.add_argument("--cooldown-fraction", type=float, default=0.25, help="of the steps before")
    stop.add_argument("--cooldown-steps", type=int, default=0, help="instead of a fraction")
    stop.add_argument("--pause-file", type=Path, help="pause while this file exists")
    add("--batch-tokens", type=int, default=8192)
    add("--context", type=int, default=256, help="tokens per window")
    add("--long-context", type=int, default=512, help="tokens per window at the end")
    add("--long-share", type=float, default=1.0, help="part of the cooldown that has long windows")
    add("--whole-tales", type=int, default=0, help="passes over fitting tales per epoch at the end")
    add("--muon-lr", type=float, default=0.02)
    add("--adam-lr", type=float, default=0.004)
    add("--weight-decay", type=float, default=0.02)
    add("--dropout", type=float, default=0.0)
    add("--device", default="auto")
    add("--threads", type=int, default=2, help="of each worker")
    add("--workers", type=int, default=1, help="processes; a step's windows divide by them")
    add("--bf16", action=argparse.BooleanOptionalAction, default=True)
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    add("--eval-steps", type=int, default=200)
    add("--save-minutes", type=float, default=3)
    return parser.parse_args()


def work(rank: int, args: argparse.Namespace, workers: Workers) -> None:
    """Train as one of the workers."""
    torch.set_num_threads(args.threads)
    workers.rank = rank
    run = Run(args, workers)
    if rank == 0:
        (args.out / "pid").write_text(f"{os.getpid()}\n")
    run.train()


def train(args: argparse.Namespace) -> None:
    """Train in this process, or in as many as were asked for."""
    if args.workers == 1:
        work(0, args, Workers())
        return
    state = kept_state(args)
    model = TalesModel(TalesConfig(**state["config"]) if state else SIZES[args.size])
    rows = torch.empty(args.workers, sum(p.numel() for p in model.parameters()))
    barrier = torch.multiprocessing.get_context("spawn").Barrier(args.workers)
    workers = Workers(0, rows.share_memory_(), barrier)
    torch.multiprocessing.spawn(work, (args, workers), nprocs=args.workers)


if __name__ == "__main__":
    train(parse_arguments())
