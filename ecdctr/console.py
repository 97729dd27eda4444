"""What the command line shows.

Progress bars on a terminal, lines with their context elsewhere, JSON for machines.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

LOG_EVERY_SECONDS = 10.0
WIDE = 10_000  # columns of what is no terminal
OF_TABLES = 80  # columns in which every table has all of its own
SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH", "JUPYTER_COLUMNS", "JUPYTER_LINES")
SIZE = re.compile(r"[2-9][0-9]|[1-9][0-9]{2,3}")  # of a terminal in which a table can be read
JSON_LINES = "ECDCTR_LOG"  # environment variable; "json" makes each line of a log an object


logger = logging.getLogger("ecdctr")
AnyTable = TypeVar("AnyTable", bound=Table)


def log(event: str, **fields: object) -> None:
    """Log what happened and what it is about.

    Level, experiment, data date, version, as far as they are known.
    """
    logger.info("%s", event, extra={"about": fields})


class Lines(logging.Formatter):
    """A line for a person: the event, then what it is about in brackets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        about = " ".join(f"{name}={value}" for name, value in _about(record).items())
        return f"{record.getMessage()}  [{about}]" if about else record.getMessage()


class JsonLines(logging.Formatter):
    """An object of JSON for a machine: time, event, and what it is about."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        time_ = dt.datetime.fromtimestamp(record.created, dt.UTC).isoformat(timespec="milliseconds")
        about = {name: str(value) for name, value in _about(record).items()}
        return json.dumps({"time": time_, "event": record.getMessage(), **about})


def _about(record: logging.LogRecord) -> dict[str, object]:
    return getattr(record, "about", {})


class _Stderr(logging.Handler):
    """Writes to whatever sys.stderr is at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        with writing_what_fits():
            print(self.format(record), file=sys.stderr, flush=True)


@contextlib.contextmanager
def writing_what_fits() -> Iterator[None]:
    """Go on where the log cannot be written, as on a full disk: it is no part of the work.

    Raises BrokenPipeError where nobody reads it any more.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        pass


def log_to_stderr() -> None:
    """Show the log of this process on stderr; ECDCTR_LOG=json makes each line an object."""
    handler = _Stderr()
    handler.setFormatter(JsonLines() if os.environ.get(JSON_LINES) == "json" else Lines())
    logger.handlers = [handler]
    logger.setLevel(logging.INFO)


def forget_odd_sizes() -> None:
    """Forget sizes in the environment that no terminal has.

    Containers set COLUMNS=0 where nobody looks: tables and help would be empty. Rich and typer end
    with a traceback at what is no number, and take the memory for what is too large.
    """
    for name in SIZES:
        if not SIZE.fullmatch(os.environ.get(name, "80")):
            del os.environ[name]


def terminal(stderr: bool = False) -> Console:
    """Return a console that shows text as it is: no markup, no emoji codes, no guessed colours.

    What is no terminal has no width: there tables are as wide as their words. A narrower one than
    tables need wraps their lines, where Rich would leave columns out.
    """
    forget_odd_sizes()  # a console keeps those that it finds when it is made
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    elif not stderr:  # where progress is drawn over itself, which a wrapped line would spoil
        console.width = max(console.width, OF_TABLES)
    return console


def labelled(label: str, style: str, text: str) -> Text:
    """Return a coloured label, and text after it."""
    return Text.assemble((label, style), "  ", text)


class WordTable(Table):
    """A table of names and numbers: too wide for the terminal, it breaks between words alone."""

    def add_words(self, *cells: str) -> None:
        """Add a row; `_` is shown as a space, where a name may break."""
        shown = [cell.replace("_", " ") for cell in cells]
        for column, cell in zip(self.columns, shown, strict=True):
            column.min_width = max(column.min_width or 0, *map(len, cell.split()))
        self.add_row(*shown)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Give each column its longest word where all of them whole have no room."""
        whole = self.__rich_measure__(console, options.update_width(WIDE)).maximum
        if whole > options.max_width:
            for column in self.columns:  # Rich shrinks the widest ones, and cuts the last
                column.width = column.min_width
        yield from super().__rich_console__(console, options)


def table(*names: str, title: str | None = None) -> Table:
    """Return a table whose headings are whole at 80 columns; long values fold."""
    return _headed(Table(title=title, box=SIMPLE_HEAD, padding=0), names)


def table_of_words(*names: str, title: str | None = None) -> WordTable:
    """Return a table of names and numbers, all of them whole at 80 columns."""
    return _headed(WordTable(title=title, box=SIMPLE_HEAD, padding=0), names)


def _headed(made: AnyTable, names: Iterable[str]) -> AnyTable:
    for name in names:
        heading = name.replace("_", " ")
        made.add_column(heading, overflow="fold", min_width=max(map(len, heading.split())))
    return made


def current_step() -> str:
    """Return the piece of work that was begun last, empty before the first."""
    return Bars.step


class Bars:
    """Progress of long work on stderr: bars on a terminal, a line every ten seconds in a log.

    `fields` say what the work is about; every line of a log carries them.
    """

    step = ""  # a process does one thing at a time; for the message of an error that nobody foresaw

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        self.console = terminal(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description:<18}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.live = self.console.is_terminal
        self._task = TaskID(0)
        self._what, self._total, self._done, self._since, self._logged = "", 0, 0, 0.0, 0.0

    def start(self, what: str, total: int) -> None:
        """Begin a piece of work of `total` units."""
        Bars.step = what
        self._what, self._total, self._done, self._since = what, total, 0, time.perf_counter()
        self._logged = self._since
        if self.live:
            self.progress.start()
            self._task = self.progress.add_task(what, total=total, note="")
        else:
            log(f"{what}: {total:,} to do", **self.fields)

    def advance(self, units: int, loss: float | None = None) -> None:
        """Count some units as done; with a loss, units are samples."""
        self._done += units
        now = time.perf_counter()
        rate = self._done / max(now - self._since, 1e-9)
        note = "" if loss is None else f"loss {loss:.4f}  {rate:,.0f} samples/s"
        if self.live:
            self.progress.update(self._task, advance=units, note=note)
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
