"""An `ecdctr` command as a process: started anew, or forked by a warm one (ecdctr/cli/warm.py)."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import IO

WARM = "ECDCTR_WARM"  # environment variable: the socket of a warm process


class Forked:
    """A command that a warm process runs; of a Popen what is needed of it here."""

    def __init__(
        self,
        path: str | Path,
        arguments: list[str],
        environment: dict[str, str],
        output: int,
        errors: int,
        folder: str | Path | None = None,
    ) -> None:
        """Ask for it, output and errors to these files; raises OSError if nobody listens."""
        self.stdout: IO[str] | None = None
        self._code: int | None = None
        folder = str(folder or Path.cwd())
        asked = {"arguments": arguments, "environment": environment, "folder": folder}
        text = json.dumps(asked).encode() + b"\n"
        self._asked = socket.socket(socket.AF_UNIX)
        try:
            self._asked.connect(str(path))
            sent = socket.send_fds(self._asked, [text], [output, errors])
            self._asked.sendall(text[sent:])
            self._answers = self._asked.makefile()
            number = self._answers.readline()
            if not number:
                raise ConnectionError(f"{path} did not take the command")
        except OSError:
            self._asked.close()
            raise
        self.pid = int(number)

    def poll(self) -> int | None:
        """Return None while it runs, then its exit code."""
        if self._code is None:
            try:
                self._asked.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        return self.wait()

    def wait(self) -> int:
        """Return its exit code; -9 if it ended without one, as when it was killed."""
        if self._code is None:
            with self._asked, self._answers:
                answer = self._answers.readline()
            self._code = int(answer) if answer else -signal.SIGKILL
        return self._code


def start(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[str] | Forked:
    """Start a command in a session of its own, so that its workers end with it.

    Its output and errors are the lines of `stdout`.
    """
    reading, writing = os.pipe()
    try:
        made = Forked(os.environ.get(WARM, ""), arguments, environment, writing, writing)
    except OSError:  # there is none
        os.close(reading)
        # a list, no shell; values are checked by the command; -P: no module from where it starts
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "ecdctr.cli", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    finally:
        os.close(writing)
    made.stdout = os.fdopen(reading, encoding="utf-8")
    return made
