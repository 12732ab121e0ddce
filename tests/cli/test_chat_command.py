"""`llama-rt chat`, through a pipe and as a person at a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from llama_rt.cli import main


@pytest.fixture
def talk(call, tiny_hf_folder, template_file):
    """Talks to the tiny model, greedily, in answers of at most eight tokens."""

    def run(stdin: str, *words: str, code: int = 0):
        options = ("--template", template_file, "--temperature", "0", "--max-tokens", "8")
        done = call("chat", "-m", tiny_hf_folder, *options, *words, stdin=stdin)
        assert done.code == code, done.err
        return done

    return run


def test_a_piped_conversation_reuses_the_cache(talk) -> None:
    report = talk("Hello\n\nAnd you?\n", "--json").object
    roles = [message["role"] for message in report["messages"]]
    assert roles == ["user", "assistant", "user", "assistant"]
    first, second = (done["usage"] for done in report["completions"])
    assert first["cached_tokens"] == 0
    assert second["cached_tokens"] >= first["prompt_tokens"] - 1
    assert second["prompt_tokens"] > first["prompt_tokens"]


def test_the_history_is_the_prompt(talk, tiny_hf_folder) -> None:
    """The second answer is what the model gives for the whole conversation, no cache involved."""
    from llama_rt import Llama

    report = talk("Hello\nAnd you?\n", "--json", "--system", "Be kind.").object
    messages = report["messages"]
    assert messages[0] == {"role": "system", "content": "Be kind."}
    prompt = "".join(f"{m['role']}: {m['content']}\n" for m in messages[:-1]) + "assistant:"
    with Llama.load(tiny_hf_folder, progress=False) as llm:
        expected = llm.generate(prompt, max_tokens=8, temperature=0.0)
    assert report["completions"][1]["tokens"] == expected.tokens


def test_answers_go_to_standard_output_and_the_rest_does_not(talk) -> None:
    done = talk("Hello\n/help\n/nonsense\n")
    assert "/undo" in done.err
    assert "no command /nonsense" in done.err
    assert "tok/s" in done.err
    assert "context" in done.err
    assert "/undo" not in done.out
    assert done.out.strip()


def test_undo_and_edit_and_reset_and_system(talk, tmp_path) -> None:
    path = tmp_path / "talk.json"
    stdin = f"""\
one
two
/undo
/edit uno
/system Be brief.
/save {path}
/reset
/undo
/edit
/system
three
"""
    done = talk(stdin, "--json")
    saved = json.loads(path.read_text())
    assert [m["content"] for m in saved if m["role"] != "assistant"] == ["Be brief.", "uno"]
    assert "took back: two" in done.err
    assert "nothing to take back" in done.err
    assert "no question to change yet" in done.err
    kept = [m["content"] for m in done.object["messages"] if m["role"] != "assistant"]
    assert kept == ["three"]


def test_template_can_be_seen_and_changed(talk) -> None:
    done = talk("/template\n/template no-such-one\n/template vicuna\n/template\nHello\n")
    assert "plain.jinja" in done.err
    assert "no-such-one" in done.err
    assert done.err.count("vicuna") >= 2


def test_a_line_goes_on_after_a_backslash(talk) -> None:
    report = talk("first\\\nsecond\n", "--json").object
    assert report["messages"][0]["content"] == "first\nsecond"


def test_quit_ends_and_the_rest_is_not_read(talk) -> None:
    report = talk("one\n/quit\ntwo\n", "--json").object
    assert [m["content"] for m in report["messages"] if m["role"] == "user"] == ["one"]


def test_saving_to_nowhere_is_no_end(talk, tmp_path) -> None:
    done = talk(f"one\n/save {tmp_path}/no/where.json\n/save\n/undo\n")
    assert "not saved" in done.err
    assert "where to?" in done.err
    assert "took back: one" in done.err


LONG = "a word and another " * 4


def test_an_outgrown_context_says_so_and_loses_nothing(call, tiny_hf_folder, template_file) -> None:
    options = ("--template", template_file, "--max-tokens", "4", "--ctx", "128")
    done = call("chat", "-m", tiny_hf_folder, *options, stdin=f"{LONG}\n" * 8)
    assert done.code == 1
    assert "outgrown" in done.err
    assert "128" in done.err
    assert "--drop-oldest" in done.err.splitlines()[-1]


def test_dropping_the_oldest_turns_goes_on(call, tiny_hf_folder, template_file) -> None:
    options = ("--template", template_file, "--max-tokens", "4", "--ctx", "128", "--drop-oldest")
    numbered = "".join(f"{number} {LONG}\n" for number in range(8))
    done = call("chat", "-m", tiny_hf_folder, *options, "--json", stdin=numbered)
    assert done.code == 0, done.err
    assert "dropped 1 turn" in done.err
    asked = [m["content"] for m in done.object["messages"] if m["role"] == "user"]
    assert 1 <= len(asked) < 8
    assert asked[-1].startswith("7 ")


@pytest.mark.parametrize("option", [(), ("--drop-oldest",)])
def test_a_message_too_long_alone_fails(call, tiny_hf_folder, template_file, option) -> None:
    options = ("--template", template_file, "--max-tokens", "4", "--ctx", "64", *option)
    done = call("chat", "-m", tiny_hf_folder, *options, "--json", stdin=f"{LONG * 8}\nHi\n")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("llama-rt: error: this message alone does not fit")
    assert done.err.count("\n") == 1


def test_a_message_too_long_alone_is_no_end_for_a_person(
    tiny_hf_folder, template_file, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    typed = io.StringIO(f"{LONG * 8}\nHi\n")
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)
    options = ("--template", str(template_file), "--max-tokens", "4", "--ctx", "64")
    assert main(["chat", "-m", str(tiny_hf_folder), *options]) == 0
    said = capsys.readouterr().err
    assert "alone does not fit" in said
    assert said.count("seed") == 1


def test_a_model_without_template_names_the_choices_before_anything_is_typed(
    call, tiny_hf_folder
) -> None:
    done = call("chat", "-m", tiny_hf_folder, stdin="Hello\n")
    assert done.code == 1
    assert "vicuna" in done.err
    assert done.out == ""


class Terminal:
    """A person at a terminal: what is typed goes in, what is shown comes out."""

    def __init__(self, *words: str | Path) -> None:
        self.process, self.shown = 0, ""
        self.process, self.handle = pty.fork()
        if self.process == 0:  # the command's own process
            os.environ.update(TERM="xterm", COLUMNS="80")
            os.environ.pop("NO_COLOR", None)
            os.execv(sys.executable, [sys.executable, "-m", "llama_rt", *map(str, words)])

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def wait_for(self, text: str, seconds: float = 60) -> None:
        limit = time.monotonic() + seconds
        while text not in self.shown:
            assert time.monotonic() < limit, f"no {text!r} in {self.shown!r}"
            self.read()

    def prompted(self) -> None:
        """Waits for the next prompt: what is typed before it may go to nobody."""
        _, _, self.shown = self.shown.rpartition("\n")
        self.wait_for("> ")

    def code(self, seconds: float = 60) -> int:
        """The exit code, once all that is still shown has been read."""
        limit = time.monotonic() + seconds
        while self.read() and time.monotonic() < limit:
            pass
        if time.monotonic() >= limit:
            os.kill(self.process, signal.SIGKILL)
        _, status = os.waitpid(self.process, 0)
        return os.waitstatus_to_exitcode(status)

    def read(self) -> bool:
        """Takes what is shown now; False at the end."""
        if not select.select([self.handle], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self.handle, 4096)
        except OSError:  # the other side is closed
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def test_at_a_terminal(long_folder, template_file) -> None:
    words = ("--template", template_file, "--temperature", "0", "--logit-bias", "2=-1e9")
    terminal = Terminal("chat", "-m", long_folder, *words)
    terminal.wait_for("/help helps")
    terminal.wait_for("> ")
    terminal.type("Hello\n")
    terminal.wait_for("Hello\r\n")
    seen = len(terminal.shown)
    while len(terminal.shown) < seen + 20:  # the answer is on its way, and would take long
        terminal.read()
    terminal.type("\x03")
    terminal.wait_for("cancelled")
    assert "\x1b[2m" in terminal.shown
    terminal.prompted()
    terminal.type("/undo\n")
    terminal.wait_for("took back: Hello")
    terminal.prompted()
    terminal.type("\x04")
    assert terminal.code() == 0


def test_interrupted_at_the_prompt(tiny_hf_folder, template_file) -> None:
    terminal = Terminal("chat", "-m", tiny_hf_folder, "--template", template_file)
    terminal.wait_for("> ")
    for _ in range(5):  # between the prompt and the wait for a key, one may go unseen
        terminal.type("\x03")
        with contextlib.suppress(AssertionError):
            terminal.wait_for("interrupted", seconds=5)
            break
    assert terminal.code() == 130
    assert "interrupted" in terminal.shown


def test_asks_before_it_drops_turns(tiny_hf_folder, template_file) -> None:
    words = ("--template", template_file, "--max-tokens", "4", "--ctx", "128")
    terminal = Terminal("chat", "-m", tiny_hf_folder, *words)
    for turn in range(8):
        terminal.prompted()
        terminal.shown = ""
        terminal.type(f"{LONG}\n")
        terminal.wait_for("seed" if turn < 1 else "context")
        if "outgrown" in terminal.shown:
            break
    terminal.wait_for("drop the oldest turns? [Y/n]")
    terminal.type("n\n")
    terminal.wait_for("nothing dropped")
    terminal.prompted()
    terminal.shown = ""
    terminal.type(f"{LONG}\n")
    terminal.wait_for("[Y/n]")
    terminal.type("\n")
    terminal.wait_for("dropped 1 turn")
    terminal.wait_for("seed")
    terminal.prompted()
    terminal.type("/quit\n")
    assert terminal.code() == 0


def test_interrupting_a_pipe_ends_it(start, long_folder, template_file) -> None:
    words = ("--template", template_file, "--logit-bias", "2=-1e9")
    running = start("chat", "-m", long_folder, *words)
    running.stdin.write(b"Hello\n")
    running.stdin.flush()
    assert running.stdout.read(8)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 130
    assert b"Traceback" not in err


def test_no_input_is_an_empty_conversation(process, tiny_hf_folder, template_file) -> None:
    done = process("chat", "-m", tiny_hf_folder, "--template", template_file)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_variables_of_the_template(call, tiny_hf_folder, tmp_path) -> None:
    file = tmp_path / "t.jinja"
    file.write_text("{{ messages[-1].content }}{% if brief %} briefly{% endif %}:")
    options = ("--template", file, "--temperature", "0", "--max-tokens", "1", "--json")
    counts = []
    for more in ((), ("--chat-template-kwargs", '{"brief": true}')):
        done = call("chat", "-m", tiny_hf_folder, *options, *more, stdin="Hello\n")
        counts.append(done.object["completions"][0]["usage"]["prompt_tokens"])
    assert counts[0] < counts[1]
    done = call("chat", "-m", tiny_hf_folder, "--chat-template-kwargs", "[1]")
    assert done.code == 2
    assert "is not an object in JSON" in done.err
