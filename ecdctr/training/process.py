"""Memory of this process: what training keeps, and how much it ever had."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path


def keep_freed_memory() -> None:
    """Let glibc reuse what a step frees, instead of asking the system for fresh pages in the next.

    By default blocks above 128 KiB are mapped anew each time; a training step has dozens of them.
    Elsewhere than on Linux with glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: its largest value
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def peak_memory_mb() -> float:
    """Return the largest resident set of this process so far, MiB.

    From /proc where there is one: what getrusage says starts at the size of the process that
    started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)
