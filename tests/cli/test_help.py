"""Help is where a newcomer starts: it exists, it fits a terminal, its examples parse."""

from __future__ import annotations

import re
import shlex

import pytest

from llama_rt import __version__
from llama_rt.cli import bench, chat, convert, doctor, info, perplexity, run
from llama_rt.cli.parser import build_parser

COMMANDS = {
    command.NAME: command for command in (run, chat, info, convert, bench, perplexity, doctor)
}


def shown(call_main, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as exit_:
        call_main(list(words))
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.fixture
def help_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from llama_rt.cli import main

    monkeypatch.setenv("COLUMNS", "80")
    return lambda *words: shown(main, capsys, *words, "--help")


def test_the_first_page_lists_the_commands(help_of) -> None:
    page = help_of()
    for name, command in COMMANDS.items():
        assert re.search(rf"^    {name}\b", page, re.MULTILINE)
        assert command.SUMMARY.split()[0] in page
    assert "examples:" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_examples(help_of, name: str) -> None:
    page = help_of(name)
    assert "examples:\n  " in page
    assert "--json" in page
    assert max(map(len, page.splitlines())) <= 100


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str) -> None:
    commands = [
        part.strip()
        for line in COMMANDS[name].EXAMPLES.splitlines()
        for part in line.split(">")[0].split("|")
        if part.strip().startswith("llama-rt")
    ]
    assert commands
    for command in commands:
        args = build_parser().parse(shlex.split(command)[1:])
        assert args.parser.prog == f"llama-rt {name}"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    from llama_rt.cli import main

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"llama-rt {__version__}\n"
