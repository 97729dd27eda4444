"""`./run demo` again and again in fresh folders: how many end well, how long, and what they leave.

python -m benchmarks.demos 20    # every second one beside processes that keep it busy
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from ecdctr.airflow.standalone import MARK

PATIENCE = 3600.0  # seconds until a demo counts as hung
BUSY = "while True: pass"


class Demo(NamedTuple):
    """How one demo ended."""

    seconds: float
    code: int
    left: list[str]
    end: str

    @property
    def well(self) -> bool:
        """Whether it ended in order and took everything with it."""
        return self.code == 0 and not self.left


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """Keep as many processors busy for the block."""
    started = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for one in started:
            one.kill()
            one.wait()


def left_running(home: Path) -> list[str]:
    """Return the living processes of a demo: those marked with its folder, or started on it."""
    running = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            words = [process.environ().get(MARK, ""), *process.cmdline()]
            ended = process.status() == psutil.STATUS_ZOMBIE
            if not ended and process.pid != os.getpid() and any(str(home) in one for one in words):
                running.append(" ".join(process.cmdline())[:100])
    return running


def once(home: Path) -> Demo:
    """Run one demo in a folder of its own."""
    command = [sys.executable, "-m", "ecdctr.demo.run", "run", "--home", str(home)]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        code, said = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, said = -1, "it hung"
    seconds = time.perf_counter() - began
    return Demo(seconds, code, left_running(home), said[-1500:])


def main() -> None:
    """Run them, say how each one ended, and end with 1 if one did not end well."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    failed = 0
    for i in range(count):
        load = (i % 2) * (os.cpu_count() or 1)
        with tempfile.TemporaryDirectory(prefix="demo-") as folder, busy(load):
            demo = once(Path(folder) / "demo")
        failed += not demo.well
        beside = f" beside {load} busy processes" if load else ""
        print(f"{i + 1}/{count}{beside}: exit {demo.code}, {demo.seconds:.0f} s, left {demo.left}")
        if not demo.well:
            print(demo.end)
    print(f"{count - failed} of {count} ended well and left nothing running.")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
