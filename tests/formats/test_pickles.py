"""Pickles that try to do something, or to be something huge: refused before anything happens."""

import builtins
import os
import pickle
import subprocess
import sys
import textwrap
import time
import zipfile

import pytest
import torch

from llama_rt.errors import CheckpointError
from llama_rt.formats.pickles import PickleError, load_pickle
from llama_rt.formats.pth import read_pth


def as_checkpoint(path, stream: bytes):
    """A torch archive around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", stream)
        archive.writestr("x/version", "3\n")
    return path


class Exploit:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    "exploit",
    [
        Exploit(os.system, "touch PWNED"),
        Exploit(builtins.eval, "open('PWNED', 'w')"),
        Exploit(builtins.exec, "open('PWNED', 'w')"),
        Exploit(builtins.open, "PWNED", "w"),
        Exploit(os.mkdir, "PWNED"),
        Exploit(subprocess.call, ["touch", "PWNED"]),
        Exploit(torch.load, "PWNED"),
    ],
    ids=["system", "eval", "exec", "open", "mkdir", "subprocess", "torch.load"],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_calls_are_refused_by_name(tmp_path, monkeypatch, exploit, protocol):
    monkeypatch.chdir(tmp_path)
    stream = pickle.dumps({"w": exploit}, protocol=protocol)
    with pytest.raises(CheckpointError, match=r"never loaded|not allowed"):
        read_pth(as_checkpoint(tmp_path / "x.pth", stream))
    assert not (tmp_path / "PWNED").exists()


def test_same_in_the_legacy_container(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"w": Exploit(os.mkdir, "PWNED")}, "x.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="never loaded"):
        read_pth(tmp_path / "x.pth")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize(
    "stream",
    [
        b"(S'touch PWNED'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nS'touch PWNED'\no.",  # OBJ
        b"\x80\x02cos\nsystem\n)\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nq\x00h\x00(tR.",
        b"\x80\x02ctorch\nload\n.",
        b"\x80\x02ctorch._utils\n__builtins__\n.",
        b"\x80\x02ccollections\nOrderedDict.__init__\n.",
        b"P1\n.",  # PERSID
    ],
)
def test_hand_made_streams(tmp_path, stream):
    with pytest.raises(CheckpointError, match="refused"):
        read_pth(as_checkpoint(tmp_path / "x.pth", stream))


def plain(stream: bytes):
    return load_pickle(stream, 0, allowed={}, persistent=lambda _: None)[0]


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, 255, 65535, -1, 2**31, -(2**63), 2**100, 1.5, "", "text", "é" * 300,
     b"", b"abc" * 100, [], [1, [2]], (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {}, {"a": {1: 2}}],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_as_pickle_reads_them(value, protocol):
    if isinstance(value, bytes):
        protocol = max(protocol, 3)  # protocol 2 spells bytes as a call
    assert plain(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize(
    "stream",
    [
        b"", b".", b"\x80", b"\x80\x09.", b"\x80\x02", b"K", b"X\xff\xff\xff\xff.", b"q\x00.",
        b"h\x00.", b"t.", b"(", b"(.", b"s.", b"}s.", b"}NNs.", b"]e.", b"(e.", b"N(a.", b"R.",
        b"NNR.", b"b.", b"0.", b"2.", b"\x85.", b"\x87.", b"u.", b"(u.", b"}(Nu.", b"Q.",
        b"\x8b\xff\xff\xff\x7f\x00.", b"\x8d" + b"\xff" * 8 + b".", b"\x8e" + b"\xff" * 8 + b".",
        b"I" + b"9" * 2000 + b"\n.", b"L123L\n", b"\x93.", b"NN\x93.", b"X\x01\x00\x00\x00\xff.",
        b"}}}s.", b"}((K\x01tK\x02u.",
    ],
    ids=lambda s: s[:12].hex(),
)  # fmt: skip
def test_damaged_streams(stream):
    with pytest.raises(PickleError):
        plain(stream)


BOMBS = {
    "memo index": b"\x80\x02Nr\xff\xff\xff\xff.",
    "deep tuples": b"\x80\x02)" + b"\x85" * 500_000 + b".",
    "deep lists": b"\x80\x02" + b"]" * 250_000 + b"a" * 249_999 + b".",
    "doubling": b"\x80\x02)" + b"2\x86" * 2000 + b".",
    "doubling as a key": b"\x80\x02}K\x01" + b"2\x86" * 200 + b"Ns.",
    "many lists": b"\x80\x02" + b"]" * 4_000_000 + b".",
    "many marks": b"\x80\x02" + b"(" * 4_000_000 + b".",
    "many extensions": b"\x80\x02]" + b"(e" * 2_000_000 + b".",
    "declared length": b"\x80\x02X\xff\xff\xff\x7f.",
    "frame length": b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_little(tmp_path, name):
    path = as_checkpoint(tmp_path / "x.pth", BOMBS[name])
    began = time.monotonic()
    with pytest.raises(CheckpointError, match="refused"):
        read_pth(path)
    assert time.monotonic() - began < 10


def test_bombs_fit_in_little_memory(tmp_path):
    """All of them in a process of limited address space: a crash would be seen here."""
    paths = [str(as_checkpoint(tmp_path / f"{i}.pth", b)) for i, b in enumerate(BOMBS.values())]
    script = textwrap.dedent(
        """
        import resource, sys
        from pathlib import Path
        from llama_rt.errors import CheckpointError
        from llama_rt.formats.pth import read_pth
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (768 << 20),) * 2)
        for path in sys.argv[1:]:
            try:
                read_pth(Path(path))
            except CheckpointError:
                continue
            raise SystemExit(f"{path} was read")
        """
    )
    done = subprocess.run([sys.executable, "-c", script, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_huge_pickle_is_not_read(tmp_path):
    path = as_checkpoint(tmp_path / "x.pth", b"\x80\x02" + b"}" * (5 << 20) + b".")
    with pytest.raises(CheckpointError, match="at most"):
        read_pth(path)
