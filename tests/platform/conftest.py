"""What the tests of the platform share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.fixture
def run_python():
    """Runs a script in a fresh interpreter, because affinity, environment and fork need one."""

    def run(script, **environment):
        env = {k: v for k, v in os.environ.items() if not k.startswith("LLAMA_RT_")}
        env["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**env, **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run
