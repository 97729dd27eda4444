"""How fast each level trains and days are prepared.

Each in a process of its own, as Airflow runs them.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow.parquet as pq
import yaml

from ecdctr.config import LEVELS, Level
from ecdctr.config.terms import FULL
from ecdctr.errors import EcdctrError
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window

if TYPE_CHECKING:
    from ecdctr.levels.request import Reporter
    from ecdctr.studies.ablation.plan import Study

PREPARED_DAYS = 4


class Speed(NamedTuple):
    """Median and range over the repeats.

    `peak_memory_mb` is the largest resident set of the training process.
    """

    what: str
    samples: int
    seconds: float
    per_second: float
    slowest: float
    fastest: float
    peak_memory_mb: float | None


def measure(study: Study, repeats: int, reporter: Reporter) -> list[Speed]:
    """Time the three levels and the preparation on the first seed's world, alone."""
    seed = study.seeds[0]
    reporter.start("speed", repeats * (len(LEVELS) + 1))
    with tempfile.TemporaryDirectory(dir=study.work) as folder:
        store = Path(folder) / "store"
        shutil.copytree(study.store(seed).root, store)
        config = _write_config(study, seed, Path(folder) / "config.yaml")
        date = study.dates(seed)[0]
        dates: dict[Level, dt.date] = {
            "tpm": study.tpm_dates(seed, FULL)[-1],
            "cpm": date,
            "actr": date,
        }
        speeds = []
        for level in LEVELS:
            runs = []
            for _ in range(repeats):
                experiment = study.request(seed, FULL, level, date).experiment
                runs.append(_train(config, store, level, experiment, dates[level]))
                reporter.advance(1)
            rates = [run["samples_per_second"] for run in runs]
            samples = runs[0]["samples"]
            memory = max(run["peak_memory_mb"] for run in runs)
            speeds.append(_speed(f"train {level}", samples, rates, memory))
    rates = []
    for _ in range(repeats):
        rows, seconds = _prepare(study, seed, date)
        rates.append(rows / seconds)
        reporter.advance(1)
    speeds.append(_speed("prepare natural", rows, rates, None))
    return speeds


def _speed(what: str, samples: int, rates: list[float], memory: float | None) -> Speed:
    rate = median(rates)
    return Speed(what, samples, samples / rate, rate, min(rates), max(rates), memory)


def _write_config(study: Study, seed: int, path: Path) -> Path:
    path.write_text(yaml.safe_dump(study.config(seed).model_dump(mode="json")), "utf-8")
    return path


def _train(config: Path, store: Path, level: str, experiment: str, date: dt.date) -> dict[str, Any]:
    command = [
        sys.executable, "-P", "-m", "ecdctr.cli", "--config", str(config), "--store", str(store),
        "--json", "train", level, "--date", str(date), "--experiment", experiment, "--force",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EcdctrError(f"Timing {level} failed: {done.stderr.strip()[-500:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _prepare(study: Study, seed: int, date: dt.date) -> tuple[int, float]:
    """Return rows and seconds of further natural days.

    The days before them are prepared already.
    """
    config = study.config(seed)
    with tempfile.TemporaryDirectory(dir=study.work) as folder:
        data = config.data.model_copy(update={"prepared": Path(folder)})
        config = config.model_copy(update={"data": data})
        days = window(date, PREPARED_DAYS + 1)
        prepare(config, "natural", days[:1])
        started = time.perf_counter()
        made = prepare(config, "natural", days[1:])
        seconds = time.perf_counter() - started
        return sum(pq.read_metadata(day.path).num_rows for day in made), seconds
