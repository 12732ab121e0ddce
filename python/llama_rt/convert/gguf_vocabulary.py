"""A checkpoint's tokenizer files as GGUF keys (llama.cpp `gguf-py/gguf/vocab.py`).

Sentencepiece models become `tokenizer.ggml.model = llama`; Llama 3's byte-level BPE, from
`tokenizer.json` or from Meta's rank file, becomes `gpt2` with the name of its split.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llama_rt.checkpoint.checkpoint import Checkpoint
from llama_rt.convert.gguf_writer import Value, array, flag, string, unsigned
from llama_rt.errors import CheckpointError, TokenizerError
from llama_rt.tokenizer import find_tokenizer, load_tokenizer
from llama_rt.tokenizer.bpe.alphabet import BYTE_TO_CHAR
from llama_rt.tokenizer.bpe.bpe_ranks import (
    parse_ranks,
    rank_merges,
    special_texts,
    uses_scaled_rope,
)
from llama_rt.tokenizer.bpe.bpe_tekken import tekken_rows
from llama_rt.tokenizer.folder_tokens import added_tokens, end_ids
from llama_rt.tokenizer.gguf_values import (
    NORMALIZATION_KEY,
    PREFIX_SPACE_KEY,
    SECOND_SPACE_KEY,
    TOKEN_FLAGS,
)
from llama_rt.tokenizer.sentencepiece.spm_json import model_from_json
from llama_rt.tokenizer.sentencepiece.spm_model import (
    PieceKind,
    SpmModel,
    SpmModelError,
    parse_model,
    serialize_model,
)
from llama_rt.tokenizer_files import json_object, read_bytes

__all__ = ["read_vocabulary", "sentencepiece_model", "vocabulary_keys"]

_PREFIX = "tokenizer.ggml."
_STRING, _F32, _I32 = 8, 6, 5
_ADDED_SCORE = -1000.0
_PADDING_SCORE = -10000.0
_END_OF_TURN = {"<|eot_id|>": "eot_token_id", "<|eom_id|>": "eom_token_id"}
_BOS_TEXTS = ("<|begin_of_text|>", "<s>")
_EOS_TEXTS = ("<|end_of_text|>", "</s>")


@dataclass
class _Rows:
    """A vocabulary in the making: three lists by id."""

    texts: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)

    def place(self, id: int, text: str, score: float, kind: int) -> None:
        """Sets one row; rows in between become padding."""
        self.pad(id + 1)
        self.texts[id], self.scores[id], self.kinds[id] = text, score, int(kind)

    def pad(self, size: int) -> None:
        """Fills up to `size` rows with padding."""
        for id in range(len(self.texts), size):
            self.texts.append(f"[PAD{id}]")
            self.scores.append(_PADDING_SCORE)
            self.kinds.append(int(PieceKind.UNUSED))


def read_vocabulary(metadata: Mapping[str, object]) -> dict[str, Value]:
    """The keys of a sentencepiece vocabulary that a reader made; none if there are none."""
    kinds = {"tokens": _STRING, "scores": _F32, "token_type": _I32}
    keys: dict[str, Value] = {}
    for name, value in metadata.items():
        kind = kinds.get(name.removeprefix(_PREFIX))
        if not name.startswith(_PREFIX):
            continue
        if kind is not None and isinstance(value, list):
            keys[name] = array(kind, value)
        elif isinstance(value, str):
            keys[name] = string(value)
        elif isinstance(value, int):
            keys[name] = unsigned(value)
    return keys


def vocabulary_keys(checkpoint: Checkpoint) -> dict[str, Value]:
    """Keys for the tokenizer of a Meta or Hugging Face checkpoint.

    Returns:
        `tokenizer.*` keys; none if the checkpoint brings no tokenizer.

    Raises:
        CheckpointError: the tokenizer has more tokens than the embedding has rows, or is of a kind
            that GGUF's llama architecture does not have.
        TokenizerError: a file is damaged.
    """
    folder = checkpoint.tokenizer_source
    rows = checkpoint.config.vocab_size
    candidates = [folder, folder.parent] if checkpoint.kind == "meta" else [folder]
    for candidate in candidates:
        file = find_tokenizer(candidate)
        if file is None:
            continue
        if file.name == "tekken.json":
            keys = _from_tekken(file, rows)
        elif file.suffix == ".json":
            keys = _from_json(file, rows, checkpoint.metadata)
        else:
            keys = _from_model_file(file, read_bytes(file), rows, checkpoint.metadata)
        return keys | _settings_keys(checkpoint) | _templates(candidate)
    return {}


def _settings_keys(checkpoint: Checkpoint) -> dict[str, Value]:
    """The tokenizer's own settings; three of them have no key in llama.cpp."""
    tokenizer = load_tokenizer(checkpoint.tokenizer_source, checkpoint.metadata, checkpoint.kind)
    settings = tokenizer.settings
    if settings.pre_tokenizer is None:
        msg = f"{checkpoint.path}: GGUF has no name for the pre-tokenizer of its tokenizer.json"
        raise CheckpointError(msg)
    keys = {
        _PREFIX + "pre": string(settings.pre_tokenizer),
        _PREFIX + "add_bos_token": flag(settings.add_bos),
        _PREFIX + "add_eos_token": flag(settings.add_eos),
    }
    for name, id in (("bos", settings.bos_id), ("eos", settings.eos_id)):
        if id is not None:
            keys[f"{_PREFIX}{name}_token_id"] = unsigned(id)
    if settings.prefix_space == "first":
        keys[PREFIX_SPACE_KEY] = string(settings.prefix_space)
    if settings.prefix_space != "never" and not settings.adds_second_space:
        keys[SECOND_SPACE_KEY] = flag(False)
    for name, key in TOKEN_FLAGS.items():
        ids = [id for id, token in settings.added_tokens.items() if getattr(token, name)]
        if ids:
            keys[key] = array(_I32, sorted(ids))
    if settings.normalization:
        keys[NORMALIZATION_KEY] = string(settings.normalization)
    return keys


def _from_model_file(
    file: Path, data: bytes, rows: int, metadata: Mapping[str, object]
) -> dict[str, Value]:
    try:
        return _spm_keys(file, parse_model(data), rows)
    except SpmModelError as error:
        try:
            ranks = parse_ranks(data, file)
        except TokenizerError:
            msg = f"{file}: neither sentencepiece ({error}) nor Meta's rank file of Llama 3"
            raise TokenizerError(msg) from None
    words = {token: "".join(map(BYTE_TO_CHAR.__getitem__, token)) for token in ranks}
    count = len(ranks)
    ends = end_ids(file.parent, metadata)
    specials = special_texts(newer=uses_scaled_rope(metadata) or count + 8 in ends)
    table = _Rows()
    for token, rank in ranks.items():
        table.place(rank, words[token], 0.0, PieceKind.NORMAL)
    for offset, text in enumerate(specials):
        table.place(count + offset, text, 0.0, PieceKind.CONTROL)
    return _bpe_keys(file, table, rank_merges(ranks, words), rows, ends)


def _spm_keys(file: Path, model: SpmModel, rows: int) -> dict[str, Value]:
    table = _Rows(list(model.texts), list(model.scores), list(model.kinds))
    pieces = len(model.texts)
    for id, token in sorted(added_tokens(file.parent).items()):
        if pieces <= id < rows:
            kind = PieceKind.CONTROL if token.special else PieceKind.USER_DEFINED
            table.place(id, token.text, _ADDED_SCORE, kind)
    _fit(file, table, rows)
    keys = {
        _PREFIX + "model": string("llama"),
        _PREFIX + "tokens": array(_STRING, table.texts),
        _PREFIX + "scores": array(_F32, table.scores),
        _PREFIX + "token_type": array(_I32, table.kinds),
    }
    for name, id in (("bos", model.bos_id), ("eos", model.eos_id), ("unknown", model.unk_id),
                     ("padding", model.pad_id)):  # fmt: skip
        if id >= 0:
            keys[f"{_PREFIX}{name}_token_id"] = unsigned(id)
    if not model.add_dummy_prefix:
        keys[_PREFIX + "add_space_prefix"] = flag(False)
    if model.remove_extra_whitespaces:
        keys[_PREFIX + "remove_extra_whitespaces"] = flag(True)
    return keys


def _from_json(file: Path, rows: int, metadata: Mapping[str, object]) -> dict[str, Value]:
    document = json_object(file)
    model = document.get("model")
    if not isinstance(model, dict):
        model = {}
    vocab, merges = model.get("vocab"), model.get("merges")
    if not isinstance(vocab, dict) or not isinstance(merges, list):
        msg = f"{file}: its model has no vocabulary and merges of byte-pair encoding"
        raise TokenizerError(msg)
    if not all(isinstance(id, int) and 0 <= id < rows for id in vocab.values()):
        msg = f"{file}: its vocabulary has ids beyond the {rows} rows of the embedding"
        raise CheckpointError(msg)
    if model.get("byte_fallback") and "\u0120" not in vocab:
        pieces = model_from_json(document, file)
        if pieces is None:
            msg = (
                f"{file}: byte-pair encoding with merges that no sentencepiece model has, which "
                "GGUF's llama vocabulary cannot hold"
            )
            raise CheckpointError(msg)
        return _spm_keys(file, pieces, rows)
    table = _Rows()
    for text, id in vocab.items():
        table.place(id, text, 0.0, PieceKind.NORMAL)
    for id, token in added_tokens(file.parent, document).items():
        if id < rows:
            kind = PieceKind.CONTROL if token.special else PieceKind.USER_DEFINED
            table.place(id, token.text, 0.0, kind)
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else merge for merge in merges]
    return _bpe_keys(file, table, pairs, rows, end_ids(file.parent, metadata))


def _from_tekken(file: Path, rows: int) -> dict[str, Value]:
    ranks, added = tekken_rows(json_object(file), file)
    words = {token: "".join(map(BYTE_TO_CHAR.__getitem__, token)) for token in ranks}
    table = _Rows()
    for id, token in added.items():
        table.place(id, token.text, 0.0, PieceKind.CONTROL)
    for piece, rank in ranks.items():
        table.place(len(added) + rank, words[piece], 0.0, PieceKind.NORMAL)
    return _bpe_keys(file, table, rank_merges(ranks, words), rows, [])


def _bpe_keys(
    file: Path, table: _Rows, merges: Iterable[Iterable[str]], rows: int, ends: list[int]
) -> dict[str, Value]:
    _fit(file, table, rows)
    control = {text: id for id, text in enumerate(table.texts)
               if table.kinds[id] == PieceKind.CONTROL}  # fmt: skip
    keys = {
        _PREFIX + "model": string("gpt2"),
        _PREFIX + "tokens": array(_STRING, table.texts),
        _PREFIX + "token_type": array(_I32, table.kinds),
        _PREFIX + "merges": array(_STRING, [" ".join(pair) for pair in merges]),
    }
    bos = next((control[text] for text in _BOS_TEXTS if text in control), None)
    eos = next((id for id in ends if id < rows), None)
    if eos is None:
        eos = next((control[text] for text in _EOS_TEXTS if text in control), None)
    if bos is not None:
        keys[_PREFIX + "bos_token_id"] = unsigned(bos)
    if eos is not None:
        keys[_PREFIX + "eos_token_id"] = unsigned(eos)
    for text, name in _END_OF_TURN.items():
        if text in control:
            keys[_PREFIX + name] = unsigned(control[text])
    return keys


def _fit(file: Path, table: _Rows, rows: int) -> None:
    if len(table.texts) > rows:
        msg = f"{file}: {len(table.texts)} tokens, but the embedding has {rows} rows"
        raise CheckpointError(msg)
    table.pad(rows)


def _templates(folder: Path) -> dict[str, Value]:
    """Chat templates: a file of their own, or a string or list in tokenizer_config.json."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return {"tokenizer.chat_template": string(read_bytes(file).decode("utf-8", "replace"))}
    template = json_object(folder / "chat_template.json").get("chat_template")
    if template is None:
        template = json_object(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(template, str):
        return {"tokenizer.chat_template": string(template)}
    keys: dict[str, Value] = {}
    for item in template if isinstance(template, list) else []:
        name = item.get("name") if isinstance(item, dict) else None
        text = item.get("template") if isinstance(item, dict) else None
        if isinstance(name, str) and isinstance(text, str):
            suffix = "" if name == "default" else f".{name}"
            keys[f"tokenizer.chat_template{suffix}"] = string(text)
    return keys


def sentencepiece_model(metadata: Mapping[str, object]) -> bytes | None:
    """A `tokenizer.model` with the rows of a GGUF vocabulary, or None if it is of another kind."""
    lists = [metadata.get(_PREFIX + key) for key in ("tokens", "scores", "token_type")]
    if metadata.get(_PREFIX + "model") != "llama" or not all(isinstance(x, list) for x in lists):
        return None
    texts, scores, kinds = ([*x] if isinstance(x, list) else [] for x in lists)
    if not len(texts) == len(scores) == len(kinds):
        return None

    def number(key: str, default: int) -> int:
        value = metadata.get(f"{_PREFIX}{key}_token_id")
        return value if isinstance(value, int) and 0 <= value < len(texts) else default

    return serialize_model(
        SpmModel(
            texts=texts,
            scores=[float(score) for score in scores],
            kinds=kinds,
            unk_id=number("unknown", 0),
            bos_id=number("bos", 1),
            eos_id=number("eos", 2),
            pad_id=number("padding", -1),
            byte_fallback=PieceKind.BYTE in kinds,
            add_dummy_prefix=metadata.get(_PREFIX + "add_space_prefix") is not False,
            remove_extra_whitespaces=metadata.get(_PREFIX + "remove_extra_whitespaces") is True,
        )
    )
