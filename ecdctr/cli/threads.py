"""Whether this process may start the threads that its libraries need.

Where a limit of processes (ulimit -u, a container's pids limit) is met, Arrow waits for ever for
its first thread, and OpenBLAS ends the process in words of its own.
"""

from __future__ import annotations

import os
import threading

from ecdctr.errors import MORE_THREADS, TryAgain

WITHOUT = ("", "schema", "store")  # commands whose work needs no threads
NEEDED = 24  # of Arrow for files, of DuckDB, of Python; beside two for each processor


def check_threads(command: str) -> None:
    """Raise TryAgain where so many threads cannot be started."""
    if command.partition(" ")[0] in WITHOUT:
        return
    count = NEEDED + 2 * (os.cpu_count() or 1)
    enough = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=enough.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError:
        raise TryAgain(
            f"This process may start {len(started)} threads, expected {count}: {MORE_THREADS} and "
            "run the same command again."
        ) from None
    finally:
        enough.set()
        for thread in started:
            thread.join()
