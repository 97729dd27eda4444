"""Processes that work for another one end with it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from multiprocessing import connection


def end_with_parent() -> None:
    """End this process when the one that started it has ended, however that came.

    A process of a pool waits for jobs for ever, with its memory and the standard streams in hand,
    so that whoever reads these never sees an end.
    """
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)
