"""Tokenizer of LLaMA 1, Llama 2 and their derivatives: a sentencepiece model plus added rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from llama_rt.errors import TokenizerError
from llama_rt.tokenizer.base import TokenizerBase
from llama_rt.tokenizer.protocol import check_ids
from llama_rt.tokenizer.sentencepiece.spm_model import PieceKind, SpmModel, with_dummy_prefix
from llama_rt.tokenizer.sentencepiece.spm_stream import SpmDecoder, SpmSurfaces
from llama_rt.tokenizer.settings import TextRules
from llama_rt.tokenizer.special import AddedToken, SpecialTokens, end_texts, is_padding_text

__all__ = ["SpmEncoder", "SpmTokenizer", "open_proto"]

_SPACE = "▁"
_CONTROL_KINDS = (PieceKind.CONTROL, PieceKind.UNKNOWN)

SpmEncoder = Callable[[str, bool], list[int]]
"""Encodes ordinary text; the second argument says whether it gets a leading space."""


class SpmTokenizer(TokenizerBase):
    """Sentencepiece encoding and decoding of the text between special tokens."""

    def __init__(
        self,
        model: SpmModel,
        encode: SpmEncoder,
        *,
        name: str,
        rules: TextRules,
        added: Mapping[int, AddedToken] | None = None,
        listed: Mapping[int, AddedToken] | None = None,
        vocab_size: int = 0,
        stop_ids: Iterable[int] = (),
        unsampled_ids: Iterable[int] = (),
    ) -> None:
        """Builds the tokenizer.

        Args:
            model: Pieces and rules.
            encode: Encodes ordinary text (see `open_proto`).
            name: File or source, for errors.
            rules: Begin and end of a text, and its leading space.
            added: Tokens by id, beyond the pieces or in place of one.
            listed: What files say of control pieces: white space that is theirs, for example.
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
        size = max(len(model.texts), vocab_size, max(added, default=-1) + 1)
        padding = set(range(len(model.texts), size)) - added.keys()
        self._names = model.texts + [f"[PAD{id}]" for id in range(len(model.texts), size)]
        kinds = model.kinds + [int(PieceKind.CONTROL)] * (size - len(model.texts))
        for id, token in added.items():
            self._names[id] = token.text
            kinds[id] = PieceKind.CONTROL if token.special else PieceKind.USER_DEFINED
        self._surfaces = SpmSurfaces(
            kinds=kinds,
            texts=_surface_texts(self._names, kinds, model.unk_surface, name),
            strips=model.add_dummy_prefix or model.remove_extra_whitespaces,
            strips_again=model.remove_extra_whitespaces,
        )
        listed = listed or {}
        special = added | {
            id: replace(listed.get(id, AddedToken(text, True)), text=text, special=True)
            for id, (text, kind) in enumerate(zip(self._names, kinds, strict=True))
            if kind in _CONTROL_KINDS and id not in added and id not in padding
        }
        words = [id for id, token in added.items() if not token.special]
        tokens = SpecialTokens(special, words)
        ends = {tokens.ids[text] for text in end_texts(tokens.ids)} | set(stop_ids)
        eos_id = _control(model.eos_id, kinds)
        settings = rules.settings(
            bos_id=_control(model.bos_id, kinds),
            eos_id=eos_id,
            added_tokens=special,
            byte_fallback=model.byte_fallback,
            end_ids=frozenset(ends if eos_id is None else {*ends, eos_id}),
        )
        suppressed = {id for id, token in added.items() if is_padding_text(token.text)}
        suppressed |= padding | set(unsampled_ids)
        super().__init__(
            settings,
            tokens,
            vocab_size=size,
            unsampled_ids=frozenset(suppressed - settings.end_ids - {settings.bos_id}),
        )

    def _encode_text(self, text: str, *, first: bool) -> list[int]:
        scheme = self.settings.prefix_space
        prefix = scheme == "always" or (scheme == "first" and first)
        if prefix and not self.settings.adds_second_space:
            prefix = not text.startswith((" ", _SPACE))
        return self._encode(text, prefix)

    def decode(self, ids: Iterable[int]) -> str:
        """See `Tokenizer.decode`."""
        decoder = SpmDecoder(self._surfaces)
        return decoder.push(ids) + decoder.finish()

    def decoder(self, prompt_ids: Iterable[int] = ()) -> SpmDecoder:
        """See `Tokenizer.decoder`."""
        return SpmDecoder(self._surfaces, prompt_ids)

    def piece(self, id: int) -> str:
        """See `Tokenizer.piece`."""
        (id,) = check_ids([id], self.vocab_size)
        return self._names[id].replace(_SPACE, " ")

    def token_bytes(self) -> list[bytes]:
        """Returns the bytes each id shows, b"" for control tokens."""
        byte = PieceKind.BYTE
        pairs = zip(self._surfaces.texts, self._surfaces.kinds, strict=True)
        return [text.encode("latin-1" if kind == byte else "utf-8") for text, kind in pairs]


def open_proto(proto: bytes, name: str) -> SpmEncoder:
    """Opens a serialized ModelProto and returns its encoder.

    Raises:
        TokenizerError: sentencepiece refuses the model; names `name`.
    """
    import sentencepiece  # loaded late: `import llama_rt` stays quick

    encoders: dict[bool, Callable[[str], list[int]]] = {}

    def encode(text: str, prefix: bool) -> list[int]:
        if prefix not in encoders:
            processor = sentencepiece.SentencePieceProcessor()
            try:
                processor.LoadFromSerializedProto(with_dummy_prefix(proto, prefix))
            except (RuntimeError, OSError, ValueError) as error:
                msg = f"{name}: sentencepiece refuses the model: {error}"
                raise TokenizerError(msg) from error
            encoders[prefix] = processor.encode
        return encoders[prefix](text)

    encode("a", True)  # a model that is refused is refused here
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
