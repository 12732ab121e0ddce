"""What makes a release agrees with itself; the workflows themselves run on GitHub alone."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def workflow(name: str) -> dict[str, Any]:
    if not WORKFLOWS.is_dir():
        pytest.skip("an sdist, which has no workflows")
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["ci.yml", "release.yml"])
def test_every_step_runs_or_uses_something(name: str) -> None:
    jobs = workflow(name)["jobs"]
    for job in jobs.values():
        assert "runs-on" in job
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])
        assert set(job.get("needs", [])) <= set(jobs)


def test_only_the_publishing_job_may_ask_for_an_identity() -> None:
    release = workflow("release.yml")
    assert release["permissions"] == {"contents": "read"}
    may = {name: job.get("permissions") for name, job in release["jobs"].items()}
    assert may == {"wheels": None, "sdist": None, "publish": {"id-token": "write"}}


def test_wheels_are_made_for_the_pythons_that_the_classifiers_name(project: dict[str, Any]) -> None:
    lines = "\n".join(project["project"]["classifiers"])
    named = set(re.findall(r"Python :: 3\.(\d+)", lines))
    built = project["tool"]["cibuildwheel"]["build"]
    assert {f"cp3{minor}-*" for minor in named} <= set(built)


def test_one_version_of_ziglang_is_used() -> None:
    ci = ROOT / ".ci" / "clang.sh"
    if not ci.is_file():
        pytest.skip("an sdist, which has no .ci")
    files = [ci, ROOT / "tools" / "build_wheels.py"]
    versions = [
        re.findall(r"ziglang==([\d.]+)", path.read_text(encoding="utf-8")) for path in files
    ]
    assert versions[0] == versions[1]
    assert len(versions[0]) == 1
