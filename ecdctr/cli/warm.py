"""`python -m ecdctr.cli.warm SOCKET` forks a process for each command that it is asked for.

It has loaded what commands need, which takes longer (two seconds of a processor) than most steps of
the demo, and has digested its code (a third of one). Each command is a process of its own all the
same. For an Airflow that lives for minutes (ecdctr/airflow/standalone.py): code that is changed
meanwhile is not seen. Asked by ecdctr/airflow/commands.py.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import NoReturn

from ecdctr.cli.base import app
from ecdctr.cli.net import run
from ecdctr.config import LEVELS

LOADED = (
    "ecdctr.evaluation.evaluate",
    "ecdctr.evaluation.gate",
    "ecdctr.examples.prepare",
    "ecdctr.impressions.quality",
    "ecdctr.levels.actr",
    "ecdctr.levels.cpm",
    "ecdctr.levels.tpm",
    "pyarrow.dataset",  # which reading Parquet asks for
)


def serve(path: Path) -> None:
    """Listen on a socket until the process is ended; who asks before all is loaded waits."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen(64)
        gc.disable()
        load()
        gc.freeze()  # no command looks through what was loaded, nor copies its pages by that
        gc.enable()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # each command tells its own end
        while True:
            asking, _ = server.accept()
            if os.fork() == 0:
                server.close()
                _command(asking)
            asking.close()


def load() -> None:
    """Load what commands need and digest its code, so that a digest is of what is loaded."""
    for name in LOADED:
        importlib.import_module(name)
    from ecdctr.evaluation.basis import evaluating_code
    from ecdctr.examples.extracts import preparing_code
    from ecdctr.levels.fingerprint import level_code

    preparing_code()
    evaluating_code()
    for level in LEVELS:
        level_code(level)


def _command(asking: socket.socket) -> NoReturn:
    """Run the command that is asked for; tell its process first, its exit code at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    text, files, *_ = socket.recv_fds(asking, 1 << 16, 2)
    while not text.endswith(b"\n"):
        more = asking.recv(1 << 16)
        if not more:
            os._exit(1)  # who asks has ended
        text += more
    asked = json.loads(text)
    os.environ.clear()
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in zip((1, 2), files, strict=True):
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8")
    sys.argv = ["ecdctr", *asked["arguments"]]  # what several processes are started with
    asking.sendall(f"{os.getpid()}\n".encode())
    code = run(app, asked["arguments"])
    sys.stdout.flush()
    sys.stderr.flush()
    asking.sendall(f"{code}\n".encode())
    os._exit(code)


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
