"""Where the command line writes: text and JSON to standard output, everything else to the other.

Owns colours (only on a terminal, never with NO_COLOR) and units; knows no model.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TextIO

__all__ = ["Console", "duration", "plural", "rate", "size"]

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "cyan": "36"}


class Console:
    """Standard input, output and error of one run.

    Attributes:
        has_input: whoever started the command left standard input open.
        json: standard output carries one JSON object and nothing else.
    """

    def __init__(self, source: TextIO | None, out: TextIO | None, err: TextIO | None) -> None:
        self.has_input = source is not None
        self.source = _or_null_device(source, "r")
        self.out = _or_null_device(out, "w")
        self.err = _or_null_device(err, "w")
        self.json = False
        self._progress = False  # a line of progress is on standard error
        self._column = 0  # 0: standard output is at the start of a line

    @property
    def interactive(self) -> bool:
        """A person is typing."""
        return self.source.isatty()

    @property
    def on_terminal(self) -> bool:
        """A person is reading standard output."""
        return self.out.isatty()

    def write(self, text: str, style: str = "") -> None:
        """Model text, shown at once."""
        if not text or self.json:
            return
        if self.on_terminal:
            # A model may produce any character; a terminal must not take it for a command.
            text = _CONTROLS.sub("\ufffd", text)
        self._column = 0 if text.endswith("\n") else 1  # first: Ctrl-C may end what follows
        self._put(self.styled(text, style) if style else text, "replace")
        self.out.flush()

    def line(self, text: str = "") -> None:
        """One line of a report."""
        if not self.json:
            self._put(text + "\n", "backslashreplace")
            self._column = 0

    def finish_line(self) -> None:
        """Ends a line of streamed text that was left open."""
        if self._column:
            self.write("\n")

    def object(self, value: Mapping[str, object]) -> None:
        """The one JSON object: in UTF-8, or in ASCII where the output has another encoding.

        Bytes of a file's name that are not UTF-8 become JSON's escapes of their surrogates.
        """
        utf8 = codecs.lookup(self._encoding).name == "utf-8"
        text = json.dumps(value, ensure_ascii=not utf8, allow_nan=False)
        self._put(text + "\n", "backslashreplace")

    def note(self, text: str) -> None:
        """One quiet line on standard error."""
        self._report(self.styled(text, "dim", self.err))

    def error(self, text: str) -> None:
        """The line that says what went wrong."""
        self._report(self.styled("llama-rt: error:", "red", self.err) + f" {text}")

    def progress(self, text: str, *, keep: bool = False) -> None:
        """A line on standard error that the next one replaces; in a log, only those to `keep`."""
        if self.err.isatty():
            self.err.write(f"\r\x1b[K{self.styled(text, 'dim', self.err)}")
            self.err.flush()
            self._progress = True
        elif keep:
            self.note(text)

    def end_progress(self) -> None:
        """Takes the line away."""
        if self._progress:
            self.err.write("\r\x1b[K")
            self._progress = False

    @property
    def _encoding(self) -> str:
        return self.out.encoding or "utf-8"

    def _put(self, text: str, errors: str) -> None:
        """Writes text; `errors` handles what the output's encoding cannot hold, as in `codecs`."""
        self.out.write(text.encode(self._encoding, errors).decode(self._encoding))

    def _report(self, text: str) -> None:
        self.flush()
        self.end_progress()
        self.err.write(text + "\n")
        self.err.flush()

    def flush(self) -> None:
        """Hands what is buffered to the reader."""
        self.out.flush()

    def styled(self, text: str, style: str, stream: TextIO | None = None) -> str:
        """`text` in a colour or weight, where the stream is a terminal that wants it."""
        target = stream or self.out
        plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return text if plain or not target.isatty() else f"\x1b[{_STYLES[style]}m{text}\x1b[0m"

    def table(self, rows: Mapping[str, str]) -> None:
        """Names and values, aligned."""
        width = max((len(name) for name in rows), default=0)
        for name, value in rows.items():
            first, *rest = value.split("\n")
            self.line(f"{self.styled(name.ljust(width), 'cyan')}  {first}".rstrip())
            for more in rest:
                self.line(f"{'':{width}}  {more}")


def _or_null_device(stream: TextIO | None, mode: Literal["r", "w"]) -> TextIO:
    """A standard stream; the null device in place of one that was closed before the start."""
    return Path(os.devnull).open(mode, encoding="utf-8") if stream is None else stream


def size(count: float) -> str:
    """Bytes for people: binary units, three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def rate(tokens_per_second: float) -> str:
    """A speed for people: three digits, no exponent."""
    digits = f"{tokens_per_second:,.0f}"
    return f"{digits if tokens_per_second >= 100 else f'{tokens_per_second:.3g}'} tok/s"


def duration(seconds: float) -> str:
    """A span of time for people."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def plural(count: int, noun: str) -> str:
    """`1 token`, `2 tokens`, `10,000 tokens`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
