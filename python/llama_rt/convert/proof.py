"""Proof that a written model reads text as its source does, taken before the file gets its name.

The weights are checked as they are written; what a wrong key of the vocabulary does is seen only by
who uses the file. So the result is opened again, and both encode the same texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from llama_rt.chat import choose_template
from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.errors import CheckpointError, MissingExtraError, TemplateError, TokenizerError
from llama_rt.formats.gguf import read_gguf
from llama_rt.tokenizer import Tokenizer, load_tokenizer

__all__ = ["prove_folder", "prove_gguf"]

_TEXTS = (
    "Hello world",
    "  two  spaces,\ttabs \n\n\n and lines\r\n",
    "It's 1234567.89 or 10 000; I'LL don't.",
    "def f(x):\n    return [x**2 for x in range(10)]  # code\n\n\nclass A:\n\tpass\n",
    "naïve café — “quotes” … e\u0301 \u00a0x",
    "日本語テキスト、한국어 文字 ไทย हिन्दी",
    "🦙🚀👩‍👩‍👧 ☃️",
    "русский текст; ελληνικά; עברית",
    "{'a': [1, 2.5e-3], \"b\": null}</div> <|x|> [INST]",
    " leading",
    "",
)
_MAX_SPECIALS = 64
_CONVERSATIONS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": " Hello, 日本 🦙\n"}],
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "<think>\nadd\n</think>\n\n2"},
        {"role": "user", "content": "Twice that? "},
    ],
)


def prove_gguf(checkpoint: Checkpoint, file: Path, name: Path) -> None:
    """Compares the vocabulary of a written GGUF file with its source's.

    Args:
        checkpoint: the source.
        file: what was written.
        name: what it will be called, for errors.

    Raises:
        CheckpointError: it reads a text otherwise; names the text and both results.
    """
    metadata = read_gguf(file).metadata
    _prove(checkpoint, "gguf", metadata, file, name)


def prove_folder(
    checkpoint: Checkpoint, folder: Path, metadata: Mapping[str, object], name: Path
) -> None:
    """The same for a Hugging Face folder; `metadata` is its config.json."""
    _prove(checkpoint, "hf", metadata, folder, name)


def _prove(
    checkpoint: Checkpoint, kind: str, metadata: Mapping[str, object], path: Path, name: Path
) -> None:
    try:
        source = load_tokenizer(checkpoint.tokenizer_source, checkpoint.metadata, checkpoint.kind)
    except (TokenizerError, MissingExtraError):
        return  # nothing to compare with: a model without tokenizer, which the notes say
    try:
        written = load_tokenizer(path, metadata, kind)
    except TokenizerError as error:
        if kind == "hf" and not any(path.glob("tokenizer.*")):
            return  # a vocabulary that folders cannot hold, which the notes say
        msg = f"{name}: the tokenizer that was written cannot be read: {error}"
        raise CheckpointError(msg) from None
    own = None if kind == "gguf" else path
    theirs = None if checkpoint.kind == "gguf" else checkpoint.tokenizer_source
    before = _answers(source, checkpoint.metadata, theirs, set(source.special_ids))
    after = _answers(written, metadata, own, set(source.special_ids))
    for (what, wanted), (_, got) in zip(before, after, strict=True):
        expected, result = wanted(), got()
        if expected != result:
            msg = (
                f"{name}: not written, because it would not read text as its source does: {what} "
                f"gives {_short(result)}, in {checkpoint.path} {_short(expected)}"
            )
            raise CheckpointError(msg)


def _answers(
    tokenizer: Tokenizer,
    metadata: Mapping[str, object],
    path: Path | None,
    specials: set[str],
) -> Iterator[tuple[str, Callable[[], object]]]:
    """What both sides are asked, in words and as a function."""
    yield "begin-of-text", lambda: tokenizer.bos_id
    yield "end-of-text", lambda: tokenizer.eos_id
    yield "the ids that end an answer", lambda: sorted(tokenizer.stop_ids)
    for text in _TEXTS:
        yield f"the text {text[:40]!r}", lambda text=text: tokenizer.encode(text)  # type: ignore[misc]
    marked = [f"a{text}b {text} \n" for text in sorted(specials)[:_MAX_SPECIALS]]
    for text in marked:
        yield (
            f"the text {text[:40]!r} with its control tokens",
            lambda text=text: tokenizer.encode(text, special=True),  # type: ignore[misc]
        )
    for messages in _CONVERSATIONS:
        yield (
            f"a conversation of {len(messages)} messages",
            lambda messages=messages: _chat(tokenizer, metadata, path, messages),  # type: ignore[misc]
        )


def _chat(
    tokenizer: Tokenizer,
    metadata: Mapping[str, object],
    path: Path | None,
    messages: list[dict[str, str]],
) -> object:
    """A prompt by the model's own template; None if it has none, or refuses the conversation."""
    try:
        return choose_template(None, tokenizer, metadata, path).render(messages)
    except TemplateError:
        return None


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 120 else text[:117] + "..."
