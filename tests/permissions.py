"""Paths without rights, also for a test that runs as root."""

import os
from contextlib import contextmanager


@contextmanager
def without_permission(path, mode=0):
    """Leaves a path only `mode`, and takes root's rights from this process."""
    before = path.stat().st_mode
    path.chmod(mode)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        path.chmod(before)
