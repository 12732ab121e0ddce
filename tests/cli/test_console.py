"""Where output goes, when it has colours, and how numbers read."""

from __future__ import annotations

import io

import pytest

from llama_rt.cli.console import Console, duration, plural, rate, size


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def console(out: io.StringIO, err: io.StringIO | None = None) -> Console:
    return Console(io.StringIO(), out, err or io.StringIO())


def test_colours_only_on_a_terminal_that_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert console(io.StringIO()).styled("x", "red") == "x"
    assert console(Terminal()).styled("x", "red") == "\x1b[31mx\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert console(Terminal()).styled("x", "red") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert console(Terminal()).styled("x", "red") == "x"


def test_json_silences_everything_else_on_standard_output() -> None:
    out = io.StringIO()
    quiet = console(out)
    quiet.json = True
    quiet.write("text")
    quiet.line("line")
    quiet.table({"a": "b"})
    quiet.finish_line()
    quiet.object({"only": "this", "ü": None})
    assert out.getvalue() == '{"only": "this", "ü": null}\n'


def test_finish_line_ends_open_lines_only() -> None:
    out = io.StringIO()
    talking = console(out)
    talking.finish_line()
    talking.write("open")
    talking.finish_line()
    talking.finish_line()
    talking.write("closed\n")
    talking.finish_line()
    assert out.getvalue() == "open\nclosed\n"


def test_a_line_whose_writing_was_interrupted_is_ended() -> None:
    class Interrupted(io.StringIO):
        def flush(self) -> None:
            if self.getvalue() == "open":
                raise KeyboardInterrupt

    out = Interrupted()
    talking = console(out)
    with pytest.raises(KeyboardInterrupt):
        talking.write("open")
    talking.finish_line()
    assert out.getvalue() == "open\n"


def test_progress_rewrites_a_terminal_and_spares_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    screen, log = Terminal(), io.StringIO()
    for err in (screen, log):
        talking = console(io.StringIO(), err)
        talking.progress("one")
        talking.progress("two", keep=True)
        talking.error("bad")
    assert screen.getvalue() == "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[Kllama-rt: error: bad\n"
    assert log.getvalue() == "two\nllama-rt: error: bad\n"


def test_table_aligns_and_indents() -> None:
    out = io.StringIO()
    console(out).table({"a": "1", "long": "2\n3"})
    assert out.getvalue() == "a     1\nlong  2\n      3\n"


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (3 << 20, "3 MiB"), (3_825_000_000, "3.56 GiB"),
     (1 << 41, "2 TiB")],
)  # fmt: skip
def test_sizes(count: int, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.0123, "12 ms"), (1.25, "1.2 s"), (119, "119.0 s"), (125, "2 min 05 s"),
     (3600 * 2 + 60, "2 h 01 min")],
)  # fmt: skip
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_plural() -> None:
    assert plural(1, "token") == "1 token"
    assert plural(12345, "token") == "12,345 tokens"


@pytest.mark.parametrize(
    ("speed", "said"), [(0.5, "0.5 tok/s"), (12.345, "12.3 tok/s"), (12345.6, "12,346 tok/s")]
)
def test_speeds(speed: float, said: str) -> None:
    assert rate(speed) == said
