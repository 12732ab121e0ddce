"""Tokenizer of LLaMA 1, Llama 2 and their derivatives: a sentencepiece model plus added rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.protocol import check_ids, check_text, frame
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel
from llama_rt.tokenizer.sentencepiece.spm_stream import SpmDecoder, SpmSurfaces
from llama_rt.tokenizer.special import AddedToken, SpecialTokens, is_padding_text

__all__ = ["SpmTokenizer", "open_proto"]

_SPACE = "▁"
_CONTROL_KINDS = (PieceKind.CONTROL, PieceKind.UNKNOWN)


class SpmTokenizer:
    """Sentencepiece encoding and decoding, with the special-token rule of 2023.

    That rule (transformers' `legacy`) cuts the text at special tokens and encodes every part on
    its own, each with its own leading space.
    """

    def __init__(
        self,
        model: SpmModel,
        encode: Callable[[str], list[int]],
        *,
        name: str,
        added: Mapping[int, AddedToken] | None = None,
        vocab_size: int = 0,
        stop_ids: Iterable[int] = (),
        unsampled_ids: Iterable[int] = (),
    ) -> None:
        """Builds the tokenizer.

        Args:
            model: Pieces and rules.
            encode: Encodes ordinary text (see `open_proto`).
            name: File or source, for errors.
            added: Tokens by id, beyond the pieces or in place of one.
            vocab_size: Rows of the model's embedding; rows that no token stands for are padding.
            stop_ids: Ids that end a generation in addition to eos.
            unsampled_ids: Ids suppressed in sampling in addition to the padding rows.

        Raises:
            TokenizerError: The model has rules that are not supported; names `name`.
        """
        if model.whitespace_as_suffix or model.denormalizes:
            msg = f"{name}: whitespace as suffix and denormalisation are not supported"
            raise TokenizerError(msg)
        added = dict(added or {})
        self._encode = encode
        self._size = max(len(model.texts), vocab_size, max(added, default=-1) + 1)
        padding = set(range(len(model.texts), self._size)) - added.keys()
        self._names = model.texts + [f"[PAD{id}]" for id in range(len(model.texts), self._size)]
        kinds = model.kinds + [int(PieceKind.CONTROL)] * (self._size - len(model.texts))
        for id, token in added.items():
            self._names[id] = token.text
            kinds[id] = PieceKind.CONTROL if token.special else PieceKind.USER_DEFINED
        self._surfaces = SpmSurfaces(
            kinds=kinds,
            texts=_surface_texts(self._names, kinds, model.unk_surface, name),
            strips=model.add_dummy_prefix or model.remove_extra_whitespaces,
            strips_again=model.remove_extra_whitespaces,
        )
        self._bos_id = _control(model.bos_id, kinds)
        self._eos_id = _control(model.eos_id, kinds)
        special = {
            text: id
            for id, (text, kind) in enumerate(zip(self._names, kinds, strict=True))
            if (kind in _CONTROL_KINDS or id in added) and id not in padding
        }
        words = {token.text: id for id, token in added.items() if not token.special}
        self._special = SpecialTokens(special, words)
        ends = self._special.end_ids | set(stop_ids)
        self._stop_ids = frozenset(ends if self._eos_id is None else {*ends, self._eos_id})
        suppressed = {id for id, token in added.items() if is_padding_text(token.text)}
        suppressed |= padding | set(unsampled_ids)
        self._unsampled_ids = frozenset(suppressed - self._stop_ids - {self._bos_id})

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding rows included."""
        return self._size

    @property
    def bos_id(self) -> int | None:
        """Id that starts a text."""
        return self._bos_id

    @property
    def eos_id(self) -> int | None:
        """Id that ends a text."""
        return self._eos_id

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a generation."""
        return self._stop_ids

    @property
    def unsampled_ids(self) -> frozenset[int]:
        """Ids suppressed in sampling."""
        return self._unsampled_ids

    @property
    def special_ids(self) -> dict[str, int]:
        """Control and added tokens by text."""
        return dict(self._special.ids)

    def encode(
        self, text: str, bos: bool = True, eos: bool = False, *, special: bool = False
    ) -> list[int]:
        """See `Tokenizer.encode`."""
        ids = self._special.encode(check_text(text), self._encode, special=special)
        return frame(ids, self._bos_id if bos else None, self._eos_id if eos else None)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        decoder = SpmDecoder(self._surfaces)
        return decoder.push(ids) + decoder.finish()

    def decoder(self, prompt_ids: Iterable[int] = ()) -> SpmDecoder:
        """See `Tokenizer.decoder`."""
        return SpmDecoder(self._surfaces, prompt_ids)

    def piece(self, id: int) -> str:
        """See `Tokenizer.piece`."""
        (id,) = check_ids([id], self._size)
        return self._names[id].replace(_SPACE, " ")

    def token_bytes(self) -> list[bytes]:
        """Returns the bytes each id shows, b"" for control tokens."""
        byte = PieceKind.BYTE
        pairs = zip(self._surfaces.texts, self._surfaces.kinds, strict=True)
        return [text.encode("latin-1" if kind == byte else "utf-8") for text, kind in pairs]


def open_proto(proto: bytes, name: str) -> Callable[[str], list[int]]:
    """Opens a serialized ModelProto and returns its encoder.

    Raises:
        TokenizerError: sentencepiece refuses the model; names `name`.
    """
    import sentencepiece  # loaded late: `import llama_rt` stays quick

    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(proto)
    except (RuntimeError, OSError, ValueError) as error:
        msg = f"{name}: sentencepiece refuses the model: {error}"
        raise TokenizerError(msg) from error
    encode: Callable[[str], list[int]] = processor.encode
    return encode


def _control(id: int, kinds: list[int]) -> int | None:
    return id if 0 <= id < len(kinds) and kinds[id] == PieceKind.CONTROL else None


def _surface_texts(names: list[str], kinds: list[int], unknown: str, name: str) -> list[str]:
    """What each id shows when decoded (see `SpmSurfaces.texts`)."""
    texts = [text.replace(_SPACE, " ") for text in names]
    for id, kind in enumerate(kinds):
        if kind == PieceKind.CONTROL:
            texts[id] = ""
        elif kind == PieceKind.UNKNOWN:
            texts[id] = unknown
        elif kind == PieceKind.BYTE:
            texts[id] = _byte_text(names[id], id, name)
    return texts


def _byte_text(text: str, id: int, name: str) -> str:
    try:
        if len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
            return chr(int(text[3:5], 16))
    except ValueError:
        pass
    msg = f"{name}: token {id} is of type byte and named {text!r}, expected <0x00> to <0xFF>"
    raise TokenizerError(msg)
