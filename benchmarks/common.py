"""What benchmarks share: alternating timings, the machine.

A table on the terminal and a JSON file.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "build" / "bench"
ONE_ROW: dict[str, Any] = {"variants": {}, "tables": {}, "tuning": {}}  # no rows of a study
MOST = 1.1  # the largest exponent that counts as linear: one part in ten is noise
PACKAGES = ("torch", "numpy", "duckdb", "pyarrow", "pandas", "polars", "scikit-learn")


class Timing(NamedTuple):
    """Seconds of several runs."""

    seconds: list[float]

    @property
    def median(self) -> float:
        """Of all runs."""
        return median(self.seconds)

    def __str__(self) -> str:
        return f"{self.median:.3g} s ({min(self.seconds):.3g} to {max(self.seconds):.3g})"


class Row(NamedTuple):
    """One comparison: `ratio` is theirs over ours, so that above 1 we are faster."""

    work: str
    against: str
    ours: str
    theirs: str
    ratio: float
    least: float | None = None  # what the project asks for


def alternate(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, Timing]:
    """Return time each function `repeats` times, in turns, after one warm-up of each."""
    for function in functions.values():
        function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            began = time.perf_counter()
            function()
            seconds[name].append(time.perf_counter() - began)
    return {name: Timing(times) for name, times in seconds.items()}


def output_of(command: list[str]) -> str:
    """Return what a command prints; ends the bench with the command's own words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout


def json_of(command: list[str]) -> dict[str, Any]:
    """Return the last line that a command prints, which is JSON.

    A measurement in a process of its own.
    """
    answer: dict[str, Any] = json.loads(output_of(command).strip().splitlines()[-1])
    return answer


def ecdctr(config: Path, store: Path, *arguments: str) -> list[str]:
    """Return the command line with its global options; its results are JSON."""
    options = ["--config", str(config), "--store", str(store), "--json"]
    return [sys.executable, "-m", "ecdctr.cli", *options, *arguments]


def slope(sizes: list[int], values: list[float]) -> float:
    """Exponent of growth between the two largest sizes; 1 is linear."""
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def machine() -> dict[str, Any]:
    """Return where and with what the figures were made."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    git = ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "packages": versions,
        "commit": commit or None,
    }


def report(name: str, rows: list[Row]) -> None:
    """Print the table and write build/bench/NAME.json."""
    table = Table("work", "against", "ours", "theirs", "ratio", "asked for", title=name)
    for row in rows:
        asked = "–" if row.least is None else f"{row.least:g}"
        table.add_row(row.work, row.against, row.ours, row.theirs, f"{row.ratio:.3g}", asked)
    Console(width=160).print(table)
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": name, "machine": machine(), "rows": [row._asdict() for row in rows]}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1))
