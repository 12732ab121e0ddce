"""The corpus of the built-in model: tokenizer, token file and packed training windows.

A corpus file is plain text in which a line holding only ``<|story|>`` separates stories. The text
itself is kept exactly (a blank line between paragraphs), so what the model was trained on is what
anybody reads from the file.
"""

from __future__ import annotations

import argparse
import io
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import sentencepiece as spm

SEPARATOR = "<|story|>"
BOS, EOS = 1, 2


def read_stories(path: Path) -> list[str]:
    """Stories of a corpus file (``.xz`` or plain), stripped of surrounding blank lines.

    Args:
        path: UTF-8 text; stories are separated by lines holding only ``<|story|>``.

    Returns:
        The stories in file order; empty ones are dropped.
    """
    raw = path.read_bytes()
    text = (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")
    stories: list[str] = []
    lines: list[str] = []
    for line in [*text.split("\n"), SEPARATOR]:
        if line == SEPARATOR:
            story = "\n".join(lines).strip("\n")
            if story:
                stories.append(story)
            lines = []
        else:
            lines.append(line)
    return stories


def train_tokenizer(stories: Sequence[str], vocab_size: int, threads: int = 2) -> bytes:
    """Train a SentencePiece BPE model with LLaMA's recipe.

    Identity normalisation, a dummy prefix space, digits split, byte fallback, whitespace-only
    pieces, unk 0, bos 1, eos 2, no pad. Newlines are not in any piece: they are byte tokens.

    Args:
        stories: training text.
        vocab_size: pieces including the 3 control and 256 byte pieces.
        threads: worker threads; the result does not depend on it.

    Returns:
        The serialized ``tokenizer.model``.
    """
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=(line for story in stories for line in story.split("\n") if line),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        byte_fallback=True,
        character_coverage=0.99995,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=True,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        max_sentence_length=1 << 20,
        unk_id=0,
        bos_id=BOS,
        eos_id=EOS,
        pad_id=-1,
        unk_surface=" \u2047 ",
        num_threads=threads,
        minloglevel=1,
    )
    return model.getvalue()


@dataclass(frozen=True)
class Corpus:
    """Stories as ids: story i is ``ids[starts[i]:starts[i + 1]]``, BOS first and EOS last."""

    ids: npt.NDArray[np.uint16]
    starts: npt.NDArray[np.int64]
    characters: int

    def stories(self) -> Iterator[npt.NDArray[np.uint16]]:
        """Each story's ids in file order."""
        for begin, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            yield self.ids[begin:end]


def encode_stories(stories: Sequence[str], tokenizer: spm.SentencePieceProcessor) -> Corpus:
    """Encode every story as BOS ... EOS.

    Args:
        stories: text, one story each.
        tokenizer: a model of at most 65536 pieces.

    Returns:
        All ids end to end, with the story boundaries and the count of characters of text.
    """
    encoded = [[BOS, *tokenizer.encode(story), EOS] for story in stories]
    starts = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    ids = np.fromiter((i for story in encoded for i in story), dtype=np.uint16, count=starts[-1])
    return Corpus(ids, starts, sum(map(len, stories)))


def epoch_windows(corpus: Corpus, context: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """One epoch of packed windows: stories in a fresh order, cut every ``context`` tokens.

    The order and the phase of the cut depend on (seed, epoch) alone, so a resumed run sees the
    windows that an uninterrupted one would have seen.

    Args:
        corpus: encoded stories.
        context: tokens predicted per window.
        seed: seed of the run.
        epoch: number of the epoch, from 0.

    Returns:
        int64 ``[windows, context + 1]``, shuffled; consecutive windows of the packed stream share
        one token (the last target of one is the first input of the next).
    """
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(corpus.starts) - 1)
    stream = np.concatenate([corpus.ids[corpus.starts[i] : corpus.starts[i + 1]] for i in order])
    stream = np.roll(stream, -int(rng.integers(0, min(context, len(stream)))))
    count = (len(stream) - 1) // context
    picks = np.arange(count)[:, None] * context + np.arange(context + 1)[None, :]
    windows: npt.NDArray[np.int64] = stream[picks[rng.permutation(count)]].astype(np.int64)
    return windows


def whole_tale_windows(
    corpus: Corpus, context: int, seed: int, epoch: int
) -> npt.NDArray[np.int64]:
    """One epoch of the stories that fit into a window, each window beginning with a story.

    Packed windows rarely show a beginning and its end together; these do, so that a model learns
    where stories stop. A window is filled up with further stories, the last one cut.

    Args:
        corpus: encoded stories.
        context: tokens predicted per window.
        seed: seed of the run.
        epoch: number of the epoch, from 0.

    Returns:
        int64 ``[windows, context + 1]``.
    """
    rng = np.random.default_rng([seed, epoch, 1])
    fitting = [ids for ids in corpus.stories() if len(ids) <= context + 1]
    rows, row = [], np.empty(0, dtype=np.uint16)
    for index in rng.permutation(len(fitting)):
        row = np.concatenate([row, fitting[index]])
        if len(row) > context:
            rows.append(row[: context + 1])
            row = np.empty(0, dtype=np.uint16)
    return np.array(rows, dtype=np.int64).reshape(-1, context + 1)


def prepare(corpus: Path, heldout: Path, out: Path, vocab_size: int, threads: int) -> None:
    """Write ``tokenizer.model``, ``train.npz`` and ``heldout.npz`` to ``out`` where absent."""
    out.mkdir(parents=True, exist_ok=True)
    model = out / "tokenizer.model"
    stories = read_stories(corpus)
    if not model.exists():
        model.write_bytes(train_tokenizer(stories, vocab_size, threads))
    tokenizer = spm.SentencePieceProcessor(model_file=str(model))
    for name, texts in (("train", stories), ("heldout", read_stories(heldout))):
        target = out / f"{name}.npz"
        if not target.exists():
            data = encode_stories(texts, tokenizer)
            np.savez(target, ids=data.ids, starts=data.starts, characters=data.characters)


def load_corpus(path: Path) -> Corpus:
    """Read a corpus written by :func:`prepare`."""
    with np.load(path) as data:
        return Corpus(data["ids"], data["starts"], int(data["characters"]))


def main() -> None:
    """Prepare the data folder from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--heldout", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    prepare(args.corpus, args.heldout, args.out, args.vocab_size, args.threads)
    for name in ("train", "heldout"):
        data = load_corpus(args.out / f"{name}.npz")
        per = data.characters / len(data.ids)
        print(f"{name}: {len(data.ids)} tokens, {data.characters} characters, {per:.3f} each")


if __name__ == "__main__":
    main()
