"""Fails unless pytest collects tests from every test file that git knows.

A file in a folder that pytest does not enter (`build`, say) would otherwise never run.
Usage: python .ci/check_collected.py, from the repository's root.
"""

from __future__ import annotations

import re
import subprocess
import sys


def output(*command: str) -> str:
    """What a command prints, whatever its exit status."""
    return subprocess.run(command, capture_output=True, text=True).stdout


def main() -> int:
    """Compares, prints the difference."""
    known = {p for p in output("git", "ls-files", "tests").splitlines() if "/test_" in p}
    known = {path for path in known if path.endswith(".py")}
    listed = output(sys.executable, "-m", "pytest", "--collect-only", "-qq")
    collected = {found[1] for found in re.finditer(r"^(tests/\S+\.py): \d+$", listed, re.MULTILINE)}
    for path in sorted(known - collected):
        sys.stderr.write(f"{path}: pytest collects no test from it\n")
    for path in sorted(collected - known):
        sys.stderr.write(f"{path}: pytest collects it, git does not know it\n")
    print(f"{len(collected)} test files collected, {len(known)} in git")
    return 1 if known != collected or not known else 0


if __name__ == "__main__":
    sys.exit(main())
