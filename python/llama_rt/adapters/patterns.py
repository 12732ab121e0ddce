"""Ranks and alphas of single modules: the tables of patterns in adapter_config.json.

A pattern is a regular expression that names a module by its whole name or its last parts (peft
`src/peft/utils/other.py`, `get_pattern_key`). It comes with the file, and Python's matcher may
search for longer than anyone waits; so the cost of a search is bounded before anything is matched.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from llama_rt.config.checked_keys import shown
from llama_rt.config.model_config import MAX_NUMBER
from llama_rt.errors import CheckpointError

__all__ = ["values_by_module"]

_TABLES = {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
_LONGEST = 512
_MAX_CHARACTERS = 2**16  # of all patterns; twice what naming every matrix of 405B takes
_MAX_STEPS = 2**26  # a few seconds

_ESCAPE = re.compile(r"\\.", re.DOTALL)
_CLASS = re.compile(r"\[\^?\]?[^\]]*\]")
# A group that is repeated, whose repeats multiply; a construct other than plain groups and looks.
_ENDLESS = re.compile(r"\)\s*[*+{]|\(\?(?![:=!<]|P<)")
_WIDE = re.compile(r"\\[uUxN]|[^\x00-\x7f]")  # classes of them take long to compile
_MARKS = re.compile(r"\(\??|[)|?*+{]")
_MATCH, _REPEAT = 8, 16  # a match without any choice; the ways to divide a name at a repeat


def values_by_module(
    source: Path, config: Mapping[str, object], key: str, modules: Collection[str]
) -> dict[str, float]:
    """`r` or `lora_alpha` of each module: of the first pattern that matches, or the common one.

    Args:
        source: named in errors.
        config: the parsed adapter_config.json.
        key: `"r"` or `"lora_alpha"`; its table is `rank_pattern` or `alpha_pattern`.
        modules: names that a model has, so that they are short.

    Raises:
        CheckpointError: no table, a pattern that is none or takes too long, or no positive number.
    """
    name = _TABLES[key]
    table = config.get(name) or {}
    if not isinstance(table, dict):
        msg = f"{source}: {name} must be an object, not {shown(table)}"
        raise CheckpointError(msg)
    if sum(map(len, table)) > _MAX_CHARACTERS:
        msg = f"{source}: {name} holds more than {_MAX_CHARACTERS} characters of patterns"
        raise CheckpointError(msg)
    steps = sum(_MATCH + _steps(source, name, pattern) for pattern in table) * len(modules)
    if steps > _MAX_STEPS:
        msg = f"{source}: {name} holds patterns that would take too long on {len(modules)} modules"
        raise CheckpointError(msg)
    patterns = [(_compiled(source, name, pattern), value) for pattern, value in table.items()]
    return {
        module: _positive(
            source, f"{key} for {module}",
            next((own for p, own in patterns if p.fullmatch(module)), config.get(key)),
        )
        for module in modules
    }  # fmt: skip


def _steps(source: Path, name: str, pattern: str) -> int:
    """About how many ways the matcher may try on a short name: the choices multiply."""
    plain = _CLASS.sub("x", _ESCAPE.sub("x", pattern))
    if len(pattern) > _LONGEST or _WIDE.search(pattern) or _ENDLESS.search(plain):
        msg = (
            f"{source}: {name} holds {shown(pattern)}; supported are regular expressions of up to "
            f"{_LONGEST} ASCII characters, in which no group is repeated by *, + or a count"
        )
        raise CheckpointError(msg)
    steps, branches = 1, [1]
    for mark in _MARKS.findall(plain):
        if mark.startswith("("):
            branches.append(1)
        elif mark == "|":
            branches[-1] += 1
        elif mark == ")" and len(branches) > 1:
            steps *= branches.pop()
        elif mark == "?":
            steps *= 2
        elif mark != ")":
            steps *= _REPEAT
    return steps * math.prod(branches)


def _compiled(source: Path, name: str, pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})")
    except (re.error, OverflowError, RecursionError) as error:
        msg = f"{source}: {name} holds a pattern that is none, {shown(pattern)}: {error}"
        raise CheckpointError(msg) from None


def _positive(source: Path, what: str, value: object) -> float:
    if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 < value <= MAX_NUMBER):
        msg = f"{source}: {what} must be a positive number, got {shown(value)}"
        raise CheckpointError(msg)
    return float(value)
