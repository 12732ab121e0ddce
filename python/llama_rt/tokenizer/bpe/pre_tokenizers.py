r"""The splits before the merges, by the names that GGUF files have for them.

A split is a list of patterns, applied in turn: what a pattern matches, and what is between its
matches, goes to the next one on its own. Names and which of them share a split are those of
llama.cpp (`src/llama-vocab.cpp`); the patterns are those of the models' own `tokenizer.json`, which
llama.cpp writes without features that its own matcher lacks. All agree with `tokenizers`
(`tests/tokenizer/test_pre_tokenizers.py`).

One differs on purpose: for files without a name, or called `default`, llama.cpp has a split of its
own that no model was trained with; here they get GPT-2's.
"""

# ruff: noqa: RUF001 - the patterns are about such characters

from __future__ import annotations

from dataclasses import dataclass

from llama_rt.errors import TokenizerError

__all__ = [
    "GPT2",
    "LINEAR_PATTERNS",
    "LLAMA3",
    "ONE_PATTERN",
    "PRE_TOKENIZERS",
    "PreTokenizer",
    "name_of",
    "pre_tokenizer_named",
    "spelled",
]


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text becomes words.

    Attributes:
        patterns: Applied in turn, in the syntax of the package `regex`.
        whole_words: A word that is a token is that token, whatever the merges make of it.
        add_bos: A GGUF file that does not say so begins a text with begin-of-text.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False
    add_bos: bool = False


def spelled(pattern: str) -> str:
    """A pattern in one spelling: files write line ends and repetitions in several ways."""
    return pattern.replace("\r", r"\r").replace("\n", r"\n").replace("{1}", "")


def _spelled(split: PreTokenizer) -> tuple[str, ...]:
    return tuple(map(spelled, split.patterns))


# Parts that the patterns below share.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
_HAN_AND_KANA = "[一-龥\u3040-ゟ゠-ヿ]+"
_FALCON_SYMBOLS = r"\p{P}\$\+<=>\^~\|"
_ASCII_THEN_WORD = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"""


def _cased(prefix: str, suffix: str, *, then: str) -> str:
    """Words that end where a capital follows a small letter (o200k, tekken)."""
    return rf"{prefix}[{_UPPER}]*[{_LOWER}]+{suffix}|{prefix}[{_UPPER}]+[{_LOWER}]*{suffix}|{then}"


GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_NO_WORD = r"[^\r\n\p{L}\p{N}]?"
_SLASHES = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_O200K = _cased(_NO_WORD, f"{_CONTRACTIONS}?", then=rf"\p{{N}}{{1,3}}|{_SLASHES}")
_TEKKEN = _cased(_NO_WORD, "", then=rf"\p{{N}}|{_SLASHES}")
_YOUTU = _cased(_NO_WORD, f"{_CONTRACTIONS}?", then=rf"\p{{N}}|{_SLASHES}")
_NOT_HAN = r"(?!\p{Han})"
_KIMI_UPPER, _KIMI_LOWER = rf"(?:{_NOT_HAN}[{_UPPER}])", rf"(?:{_NOT_HAN}[{_LOWER}])"
_KIMI = (
    rf"\p{{Han}}+|{_NO_WORD}{_KIMI_UPPER}*{_KIMI_LOWER}+{_CONTRACTIONS}?"
    rf"|{_NO_WORD}{_KIMI_UPPER}+{_KIMI_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}|{_REST}"
)
_DEEPSEEK3 = (
    rf"{_ASCII_THEN_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_SPARK = (
    rf"{_ASCII_THEN_WORD}|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+"
    r"| ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+"
)
# Letters of alphabets with capitals, as the first DeepSeek listed them.
_DEEPSEEK_LETTERS = (
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    r"\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
    r"\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    r"\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134"
    r"\u2139"
    r"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184Ⰰ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎ\uab70-\uabbf"
    r"\ufb00-\ufb06\ufb13-\ufb17Ａ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
_DEEPSEEK_SYMBOLS = "!-/:-~！-／：-～‘-‟\u3000-。"
_DEEPSEEK_EAST_ASIA = "[一-龥\u0800-一가-\ud7ff]+"
_LONG_SPACES = "|".join(rf"\s{{{2**n}}}(?!\S)" for n in range(9, 1, -1))

_TABLE: dict[str, PreTokenizer] = {
    "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano": PreTokenizer(
        (LLAMA3,), whole_words=True, add_bos=True
    ),
    "gpt-2 phi-2 jina-es jina-de jina-v2-es jina-v2-de jina-v1-en jina-v2-code roberta-bpe "
    "gigachat a.x-4.0 mellum modern-bert mpt olmo jais trillion granite-docling exaone4 "
    "default": PreTokenizer((GPT2,)),
    "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2": PreTokenizer(
        (r"\p{N}", GPT2)
    ),
    "qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2": PreTokenizer(
        (_QWEN2,)
    ),
    "qwen35": PreTokenizer((_QWEN35,)),
    "ufakzeka": PreTokenizer((rf"{_WORD}|\p{{N}}|{_REST}",)),
    "laguna": PreTokenizer((r"[^\n]+|\n+", _QWEN2)),
    "dbrx smaug-bpe glm4 chatglm-bpe": PreTokenizer((LLAMA3,)),
    "minicpm5": PreTokenizer(
        (r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_REST}"), whole_words=True
    ),
    "jais-2": PreTokenizer(
        (
            rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+"
            rf"|{_LONG_SPACES}|\s{{1,2}}(?!\S)|\s{{1}}",
        )
    ),
    "seed-coder": PreTokenizer(
        (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
    ),
    "bailingmoe bailingmoe2 llada-moe": PreTokenizer(
        (
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "exaone-moe": PreTokenizer(
        (
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+"
            r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ),
    "tekken": PreTokenizer((_TEKKEN,), whole_words=True, add_bos=True),
    "gpt-4o llama4 kanana2 talkie minimax-m2": PreTokenizer((_O200K,)),
    "granite-embed-multi-97m": PreTokenizer((_O200K,), whole_words=True),
    "tiny_aya cohere2moe": PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", _O200K)),
    "youtu": PreTokenizer(
        ("[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|" + _HAN_AND_KANA, _YOUTU),
        whole_words=True,
    ),
    "kimi-k2": PreTokenizer((_KIMI,)),
    "deepseek-llm": PreTokenizer(
        (
            r"[\r\n]",
            rf"\s?[{_DEEPSEEK_LETTERS}]+",
            rf"\s?[{_DEEPSEEK_SYMBOLS}]+",
            r"\s+$",
            _DEEPSEEK_EAST_ASIA,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": PreTokenizer(
        (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_EAST_ASIA, r"\p{N}")
    ),
    "deepseek-v3 hunyuan-dense joyai-llm hy_v4": PreTokenizer(
        (r"\p{N}{1,3}", _HAN_AND_KANA, _DEEPSEEK3)
    ),
    "spark2_5": PreTokenizer((r"\p{N}{1,3}", _HAN_AND_KANA, _SPARK, r"\p{N}")),
    "afmoe": PreTokenizer(
        (
            r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))",
            "[一-鿿㐀-䶿\uf900-\ufaff\u3040-ゟ゠-ヿ･-ﾟ⼀-⿟เ-\u0e7f\u0e80-\u0effក-\u17ffက-႟ꩠ-ꩿꧠ-\ua9ff"
            "가-\ud7afᄀ-ᇿ]+",
            _DEEPSEEK3,
        )
    ),
    "falcon": PreTokenizer((rf"[{_FALCON_SYMBOLS}`]+", GPT2, "[0-9][0-9][0-9]")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>",
            "IMGIMG[A-I]{1,4}Z",
            r"[\t\n]|    |  ",
            r"\p{N}",
            r"[\p{P}!-/:-@\[-`{-~]",
            GPT2,
        ),
        add_bos=True,
    ),
    "poro-chat bloom gpt3-finnish": PreTokenizer((r" ?[^(\s|.,!?…。，、।۔،)]+",)),
    "viking": PreTokenizer((r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}")),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(?:\d{3})+(?!\d))")),
}
# Two patterns in turn as one that gives the same words: a digit ends the white space before it as
# the end of the text does.
ONE_PATTERN: dict[tuple[str, ...], str] = {
    (r"\p{N}", GPT2): (
        r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
    )
}
# What no file can make slow: these take time in proportion to the text. Patterns that look ahead or
# for an end do not.
LINEAR_PATTERNS = frozenset(
    pattern
    for split in _TABLE.values()
    for pattern in _spelled(split)
    if "(?=" not in pattern and not pattern.endswith("$")
) | set(ONE_PATTERN.values())
PRE_TOKENIZERS = {name: split for names, split in _TABLE.items() for name in names.split()}
# Splits of vocabularies that are not of bytes.
_OTHER_KINDS = ("gemma4", "granite-embed-multi-311m", "sarvam-moe", "whitespace")


def pre_tokenizer_named(name: str, source: str) -> PreTokenizer:
    """Returns the split of `tokenizer.ggml.pre`.

    Raises:
        TokenizerError: There is no such name, or its split is not for byte-level BPE; names
            `source`.
    """
    if name in PRE_TOKENIZERS:
        return PRE_TOKENIZERS[name]
    reason = "unknown"
    if name in _OTHER_KINDS:
        reason = "of a vocabulary that is not byte-level BPE"
    known = ", ".join(sorted(PRE_TOKENIZERS))
    msg = f"{source}: tokenizer.ggml.pre: {name!r} is {reason}; known are {known}"
    raise TokenizerError(msg)


def name_of(split: PreTokenizer) -> str | None:
    """Returns the first name of a split, None if it has none."""
    wanted = (_spelled(split), split.whole_words)
    all_names = PRE_TOKENIZERS.items()
    return next((n for n, s in all_names if (_spelled(s), s.whole_words) == wanted), None)
