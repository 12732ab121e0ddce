"""Words that this project once had of its own, for which the field has others, stay out.

A name is right if an engineer of llama.cpp, vLLM or CTranslate2 would look for it. Each word here
has the field's beside it; what looks like one and is fine (a field of a public result, an ordinary
sense of the word) is in ALLOWED.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("csrc", "python", "tests", "docs", "cmake", "benchmarks", "examples", "tools")
FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "CMakeLists.txt")
WORDS = {
    r"paint(s|ed|ing|_\w+)?": "register kernels",
    r"[Tt]iers?": "ISA level, SM architecture",
    r"(Stored|Packed|Product)Task|WideForm|WideAttention": "...MatmulTask, GemmKernel",
    r"[Ff]eeder(_of)?|kStretch|kSweep\w+": "pipeline, K-block, blocked GEMM",
    r"soften|weigh|Seen|seen_by": "online softmax, accumulate, mask range",
    r"sixths|sixteens": "6-bit scales, scales per 16",
    r"[Rr]ecode(d|s|Task)?": "requantize",
    r"[Aa]daptedBlocks|LinearPatch|EmbeddingPatch|AdapterMix": "adapter forward, delta, active",
    r"Landing|make_landing|(start|finish)_download": "read-back buffer, asynchronous read-back",
    r"take_back|settle|grown": "discard step, synchronize, ensure capacity",
    r"Feed|Growth|moves_|turn_": "sequence input, reservation, generation, mutex",
    r"StepKey|RecordedSteps": "graph key, graph cache",
    r"turn_for": "RoPE permutation",
    r"project_add": "linear residual",
    r"barred|is_unwanted|heard|Transcript": "suppressed, is_cancelled, queue, detokenizer",
    r"laid onto|mixes": "attached, recipes",
    r"anew|strangers|mended": "again, untrusted, fixed",
    r"rooms": "packages",
}
ALLOWED = (
    r"[._\"]tiers\b|\btiers(=|:|\(self\)|`)|unused_tiers",  # of cpu_info() and of `doctor --json`
    r"heard a great|heard the voice",  # the built-in model's own text
    r"def tiers|tiers: (every|tuple)",
)


def texts() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", *FOLDERS, *FILES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    paths = [ROOT / name for name in listed.stdout.splitlines()]
    endings = {".h", ".cpp", ".inl", ".inc", ".cu", ".cuh", ".py", ".pyi", ".md", ".cmake", ".txt"}
    return [path for path in paths if path.suffix in endings and path != Path(__file__)]


@pytest.mark.parametrize("word", WORDS)
def test_the_fields_words(word: str) -> None:
    pattern, allowed = re.compile(rf"(?<![\w-])({word})(?!\w)"), re.compile("|".join(ALLOWED))
    found = []
    for path in texts():
        if not path.exists():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if pattern.search(allowed.sub("", line)):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:90]}")
    assert not found, f"the field says: {WORDS[word]}\n" + "\n".join(found)


def test_the_files_are_there() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    assert len(texts()) > 300
