"""The first commands on other x86-64 processors, emulated by qemu, and on every level of this one.

On each: the import, `doctor`, sixteen tokens of the built-in model, the same text on all, and a
golden case. Usage: `python .ci/processors.py LEVELS`, by the Python that has the package and what
its tests need; a line for each processor is added to the file LEVELS (`levels.py` prints it).
qemu comes from Debian's qemu-user.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

# x86-64-v2 is the least that numpy takes, and the least here; qemu has no AVX-512.
MODELS = ("Nehalem", "SandyBridge", "Haswell", "Skylake-Client", "EPYC", "max")
CASE_TOOL = Path(__file__).with_name("golden_case.py")
RUN = ("-m", "llama_rt", "run", "--max-tokens", "16", "--temperature", "0", "Once upon a time")
TIME_LIMIT = 600  # seconds of one command; the slowest takes half a minute on two quiet cores


class FailedError(Exception):
    """A command did not do what it must; the message says which and how it ended."""


@dataclass
class Processor:
    """One processor to try: how it is named, and how a Python is started on it."""

    name: str
    how: str
    python: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def output(self, *arguments: str) -> str:
        """What Python prints on this processor."""
        command = [*self.python, *arguments]
        done = subprocess.run(
            command,
            env={**os.environ, "LLAMA_RT_THREADS": "1", **self.environment},
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT,
            check=False,
            cwd=tempfile.gettempdir(),
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["nothing on standard error"])[-1]
            msg = f"{' '.join(arguments)[:60]}: exit status {done.returncode}: {last}"
            raise FailedError(msg)
        return done.stdout.strip()

    def level(self) -> str:
        """The level that is used, by `doctor`."""
        return str(json.loads(self.output("-m", "llama_rt", "doctor", "--json"))["isa"])


def native_levels() -> list[str]:
    """The levels of this processor."""
    code = "from llama_rt import hardware; print(*hardware.inspect().tiers)"
    return Processor("", "", [sys.executable]).output("-c", code).split()


def tried(processor: Processor, case: Path) -> tuple[str, str]:
    """The level in use and the text of the built-in model; raises where anything fails."""
    level = processor.level()
    text = processor.output(*RUN)
    processor.output(str(CASE_TOOL), "check", str(case))
    return level, text


def verdict(processor: Processor, case: Path, expected: str) -> tuple[str, str]:
    """The level in use ("?" if that is not known) and the result."""
    level = "?"
    try:
        level, text = tried(processor, case)
    except (FailedError, subprocess.TimeoutExpired) as error:
        return level, f"FAILED: {error}"
    if text != expected:
        return level, f"FAILED: another text: {text!r}"
    return level, "import, doctor, run, golden case: ok"


def main() -> int:
    """Tries every processor; the exit status is 1 if any failed."""
    lines: list[tuple[str, str, str, str]] = []
    processors = [
        Processor(level, "hardware", [sys.executable], {"LLAMA_RT_ISA": level})
        for level in native_levels()
    ]
    qemu = shutil.which("qemu-x86_64") if platform.machine() == "x86_64" else None
    for model in MODELS:
        if qemu:
            how = f"qemu {model}"
            processors.append(Processor(model, how, [qemu, "-cpu", model, sys.executable]))
        else:
            lines.append(("x86-64", f"of {model}", "not run", "there is no qemu-x86_64"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        case = Path(folder)
        subprocess.run([sys.executable, str(CASE_TOOL), "make", folder], check=True)
        expected = processors[0].output(*RUN)
        results = pool.map(lambda one: verdict(one, case, expected), processors)
        for processor, (level, result) in zip(processors, results, strict=True):
            print(f"{processor.how:20} {level:12} {result}", flush=True)
            lines.append(("x86-64", level, processor.how, result))
    with Path(sys.argv[1]).open("a", encoding="utf-8") as file:
        file.writelines("\t".join(line) + "\n" for line in lines)
    return any("FAILED" in line[3] for line in lines)


if __name__ == "__main__":
    sys.exit(main())
