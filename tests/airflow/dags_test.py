"""`airflow dags test` many times in one process, whose start alone costs some seconds."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecdctr.airflow.standalone import Airflow
from tests.conftest import DATE


class DagsTest:
    """An Airflow without a scheduler that runs one DAG run after the other."""

    def __init__(self, process: subprocess.Popen[bytes], answers: Iterator[str], log: Path) -> None:
        self._process, self._answers, self._log = process, answers, log

    def run(self, level: str, conf: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """Return how the run ended and what it said."""
        said = self._log.stat().st_size
        command = ["airflow", "dags", "test", f"ecdctr_{level}", str(DATE)]
        command += ["--conf", json.dumps(conf)]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        code = next(self._answers, "-1")
        output = self._log.read_bytes()[said:].decode(errors="replace")
        return subprocess.CompletedProcess(command, int(code), output, "")


@contextlib.contextmanager
def dags_test(airflow: Airflow) -> Iterator[DagsTest]:
    """Yield it on a database that is there."""
    log, (reading, writing) = airflow.home / "dags-test.log", os.pipe()
    with log.open("w") as file, os.fdopen(reading) as answers:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.airflow.dags_test", str(writing)],
            env=airflow.environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            pass_fds=[writing],
        )
        os.close(writing)
        with process:  # which ends with its input
            yield DagsTest(process, iter(answers), log)


def serve(answers: int) -> None:
    """Run what each line of the input says as `airflow` would, and answer with its exit code."""
    gc.disable()
    from airflow.__main__ import main

    gc.freeze()  # as ecdctr/cli/warm.py does
    gc.enable()
    for line in sys.stdin:
        sys.argv = json.loads(line)
        code: Any = 0
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(answers, f"{code if isinstance(code, int) else 1}\n".encode())


if __name__ == "__main__":
    serve(int(sys.argv[1]))
