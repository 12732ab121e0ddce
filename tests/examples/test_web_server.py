"""The web server of `examples/` over loopback: streams, vectors, refusals, clients that leave."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote_plus, urlsplit

import numpy as np
import pytest

from llama_rt import Llama

PROGRAM = Path(__file__).parents[2] / "examples" / "web_server.py"


@pytest.fixture
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address of the example serving the built-in model, and its process."""
    with subprocess.Popen(
        [sys.executable, str(PROGRAM), "", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.kill()


def ask(url: str) -> tuple[int, str, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=60) as reply:
            return reply.status, reply.headers["Content-Type"], reply.read()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.headers["Content-Type"], refused.read()


def test_serves_until_interrupted(server: tuple[str, subprocess.Popen[str]]) -> None:
    address, process = server
    status, kind, body = ask(f"{address}/tell?prompt=Once+upon+a+time&max_tokens=100&seed=5")
    *events, end = [event.removeprefix("data: ") for event in body.decode().split("\n\n")[:-1]]
    assert (status, kind, end) == (200, "text/event-stream", "[DONE]")
    text = "".join(json.loads(event) for event in events)
    assert len(events) > 1  # it came in pieces
    with Llama.load(progress=False) as llm:
        assert text == llm.generate("Once upon a time", max_tokens=100, seed=5).text
        vector = llm.embed("The fox and the crow")
    status, kind, body = ask(f"{address}/embed?text={quote_plus('The fox and the crow')}")
    assert (status, kind) == (200, "application/json")
    np.testing.assert_allclose(json.loads(body), vector, atol=1e-6)

    long = quote_plus("word " * 3000)
    for path, code, words in (
        ("/", 404, b"/tell"),
        ("/tell", 400, b"prompt"),
        (f"/tell?prompt={long}", 400, b"CapacityError"),
        ("/tell?prompt=x&max_tokens=many", 400, b"many"),
    ):
        status, _, body = ask(address + path)
        assert status == code
        assert words in body

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (0, "")


def test_a_client_that_leaves_ends_its_generation(
    server: tuple[str, subprocess.Popen[str]],
) -> None:
    address, process = server
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=60) as client:
        client.sendall(b"GET /tell?prompt=Once&max_tokens=480&seed=1 HTTP/1.1\r\n\r\n")
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "/tell: the client left"
    assert ask(f"{address}/tell?prompt=Once&max_tokens=4")[0] == 200  # and the others are served
