"""A command that the system ends (SIGTERM, SIGHUP) says so in one sentence, at once.

Python's own handlers wait until a query or a step of training returns, which may take minutes; so a
thread hears of the signal and ends the process. Nothing is unwound: what a process leaves that dies
at any moment is the same, and is what the next command takes away or goes on from.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

from ecdctr.console import current_step

ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def telling_signals() -> Iterator[None]:
    """Let the process say that it was ended, with 128 and the signal's number as exit code.

    Not where somebody else handles a signal, or it is ignored (nohup), nor among processes that
    train together, of which the one that started them tells.
    """
    ours = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    alone = threading.current_thread() is threading.main_thread()
    if not (ours and alone) or "WORLD_SIZE" in os.environ:
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        threading.Thread(target=_end, args=(reading, os.getpid()), daemon=True).start()
    except RuntimeError:  # no thread is left here: signals end the process as ever
        os.close(reading)
        os.close(writing)
        yield
        return
    for number in ours:
        signal.signal(number, _heard)
    before = signal.set_wakeup_fd(writing)
    try:
        yield
    finally:
        _forget(before)
        os.close(writing)  # the thread sees the end of its pipe


def _heard(_number: int, _frame: object) -> None:
    """Do nothing: that there is a handler makes Python write the signal's number into the pipe."""


def _end(reading: int, process: int) -> None:
    """Wait for one of the signals, tell and end the process; end alone with the pipe."""
    while content := os.read(reading, 1):
        number = content[0]
        if os.getpid() != process or signal.getsignal(number) is not _heard:
            continue  # who handles the signal by now finishes what it was asked for
        with contextlib.suppress(OSError):
            os.write(2, f"ecdctr: {sentence(number)}\n".encode())
        _end_workers()
        os._exit(128 + number)
    os.close(reading)


def _end_workers() -> None:
    """End the processes that were started to work for this one, which would wait for ever.

    Killed: one that was just forked still has our handler, which does nothing, for SIGTERM.
    """
    if made := sys.modules.get("multiprocessing"):
        for process in made.active_children():
            with contextlib.suppress(OSError, ValueError):  # it has ended by itself
                process.kill()


def sentence(number: int) -> str:
    """Say that a signal ended a command, what is kept and how to go on."""
    step = f" at the step '{current_step()}'" if current_step() else ""
    return (
        f"ended by {signal.Signals(number).name}{step}. Nothing was published in part, and what "
        "was finished before is kept; run the same command again to go on."
    )


def _forget(before: int = -1) -> None:
    """Leave the signals as they were; a process that was forked has no thread that hears."""
    ours = [number for number in ENDING if signal.getsignal(number) is _heard]
    if not ours:
        return
    for number in ours:
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(before)


os.register_at_fork(after_in_child=_forget)
