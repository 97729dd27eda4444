"""What the command line shows: progress bars on a terminal, lines with their context elsewhere, JSON for machines."""

from __future__ import annotations

import datetime as dt
import json
import os
import sys
import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LOG_EVERY_SECONDS = 10.0
JSON_LINES = "ECDCTR_LOG"  # environment variable; "json" makes each line of a log an object


def log(event: str, **fields: object) -> None:
    """A line on stderr that says what it is about: level, experiment, data date, version, as far as they are known."""
    if os.environ.get(JSON_LINES) == "json":
        now = dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
        line = json.dumps(
            {"time": now, "event": event, **{name: str(value) for name, value in fields.items()}}
        )
    else:
        about = " ".join(f"{name}={value}" for name, value in fields.items())
        line = f"{event}  [{about}]" if about else event
    print(line, file=sys.stderr, flush=True)


class Bars:
    """Progress of long work on stderr: bars on a terminal, a line every ten seconds in a log.

    `fields` say what the work is about; every line of a log carries them.
    """

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.live = self.console.is_terminal
        self._task: object | None = None
        self._what, self._total, self._done, self._since, self._logged = "", 0, 0, 0.0, 0.0

    def start(self, what: str, total: int) -> None:
        """A piece of work of `total` units begins."""
        self._what, self._total, self._done, self._since = what, total, 0, time.perf_counter()
        self._logged = self._since
        if self.live:
            self.progress.start()
            self._task = self.progress.add_task(what, total=total, note="")
        else:
            log(f"{what}: {total:,} to do", **self.fields)

    def advance(self, units: int, loss: float | None = None) -> None:
        """Some units are done; with a loss, units are samples."""
        self._done += units
        now = time.perf_counter()
        rate = self._done / max(now - self._since, 1e-9)
        note = "" if loss is None else f"loss {loss:.4f}  {rate:,.0f} samples/s"
        if self.live:
            self.progress.update(self._task, advance=units, note=note)  # type: ignore[arg-type]
        elif now - self._logged > LOG_EVERY_SECONDS:
            self._logged = now
            left = (self._total - self._done) / max(rate, 1e-9)
            log(
                f"{self._what}: {self._done:,}/{self._total:,} {note}, {left:.0f} s left",
                **self.fields,
            )

    def close(self) -> None:
        """Leave the terminal tidy."""
        if self.live:
            self.progress.stop()
