"""Processes that are killed with SIGKILL before a change of a file."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    ["tests.store.loaded", "tests.store.test_faults", "tests.store.test_soak"]
)
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def killed_at(root: str, count: int, work: Callable[..., Any], *arguments: Any) -> None:
    """In a child: do the work, but die before the count-th change of a file under `root`."""
    left = count

    def hook(event: str, values: tuple) -> None:
        nonlocal left
        if event == "open":
            if not (isinstance(values[2], int) and values[2] & WRITES):
                return
        elif event not in (
            "os.rename",
            "os.link",
            "os.remove",
            "os.mkdir",
            "os.rmdir",
            "os.truncate",
        ):
            return
        if str(values[0]).startswith(root):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    gc.freeze()  # else it looks through all that the server of forks has loaded, and copies it
    work(*arguments)


def dies(root: Path, count: int, work: Callable[..., Any], *arguments: Any) -> bool:
    """Tell whether the work died before its count-th change; else it has ended well."""
    child = FORKED.Process(target=killed_at, args=(str(root), count, work, *arguments))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0
