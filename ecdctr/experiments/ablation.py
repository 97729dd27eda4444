"""Rows × seeds: what each part of the method brings, by next-day GAUC on simulated worlds.

A row is a variant of the configuration in an experiment of its own; 'full' is the configuration as it stands, in
production. Each seed draws its own world and its own weights. All rows of a seed read the same ads days. A version is
found again by its fingerprint, so a killed study goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import multiprocessing
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.config import PRODUCTION, Config, load_config
from ecdctr.data.days import available_dates
from ecdctr.data.prepare import prepare
from ecdctr.data.simulate import PRESETS, simulate
from ecdctr.errors import ConfigError
from ecdctr.levels.actr import train_actr
from ecdctr.levels.common import Reporter, Request, code_digest
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.store import Store
from ecdctr.training.evaluate import evaluate
from ecdctr.training.evaluations import load_evaluation

FULL = "full"


@dataclass(frozen=True)
class Study:
    """One study; a seed's world, prepared data and store lie in a folder of their own under `work`."""

    config_path: Path
    preset: str
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    eval_days: int
    work: Path

    def config(self, seed: int, row: str = FULL) -> Config:
        """The configuration of a row on a seed's world."""
        folder = self.folder(seed)
        base = load_config(self.config_path)
        data = base.data.model_copy(update={"root": folder / "data", "prepared": folder / "prepared"})
        seeded = base.model_copy(update={"seed": seed, "data": data})
        return seeded if row == FULL else seeded.with_variant(row)

    def folder(self, seed: int) -> Path:
        """Where everything of a seed lies."""
        return self.work.resolve() / f"{self.preset}-{seed}"

    def store(self, seed: int) -> Store:
        """The seed's store."""
        return Store(self.folder(seed) / "store")

    def request(self, seed: int, row: str, date: dt.date) -> Request:
        """Training of one row for one data date."""
        experiment, variant = (PRODUCTION, "default") if row == FULL else (row, row)
        return Request(self.config(seed, row), self.store(seed), date, experiment, variant)

    def dates(self, seed: int) -> list[dt.date]:
        """The data dates: each has a next day to be evaluated on."""
        days = available_dates(self.config(seed).data.root, "ads")
        return days[-self.eval_days - 1 : -1]


def run_study(study: Study, workers: int, reporter: Reporter) -> list[dict[str, Any]]:
    """Train and evaluate everything; returns one record per seed, row, day and cohort, also written as Parquet.

    Raises ConfigError for an unknown row or preset before anything is made.
    """
    if study.preset not in PRESETS:
        raise ConfigError(f"Unknown preset '{study.preset}'; presets are {', '.join(PRESETS)}.")
    for row in study.rows:
        study.config(0, row)
    days = study.eval_days * len(study.seeds)
    reporter.start(f"ablation, {len(study.seeds)} worlds", len(study.seeds))
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        _gather([pool.submit(_prepare_seed, study, seed) for seed in study.seeds], reporter)
        reporter.start(f"ablation, {days} days", days)
        dates = study.dates(study.seeds[0])
        jobs = [pool.submit(_run_day, study, seed, date) for date in dates for seed in study.seeds]
        records = _gather(jobs, reporter)
    order = {row: i for i, row in enumerate((*study.rows, "oracle"))}
    records.sort(key=lambda r: (r["seed"], order[r["row"]], r["date"], r["cohort"]))
    target = study.work / f"ablation-{study.preset}.parquet"
    pq.write_table(pa.Table.from_pylist(records), target)
    return records


def _gather(jobs: list[Future], reporter: Reporter) -> list[dict[str, Any]]:
    records = []
    try:
        for job in as_completed(jobs):
            records += job.result()
            reporter.advance(1)
    except BaseException:
        for job in jobs:
            job.cancel()
        raise
    return records


def _prepare_seed(study: Study, seed: int) -> list[dict[str, Any]]:
    """World, examples and the chain of TPM versions of a seed."""
    config = study.config(seed)
    simulate(PRESETS[study.preset], seed, config.data.root, workers=1)
    dates = study.dates(seed)
    for domain, days in (("natural", config.cpm.window_days), ("ads", config.actr.window_days)):
        first = dates[0] - dt.timedelta(days=days - 1)
        last = dates[-1] + dt.timedelta(days=1)
        known = available_dates(config.data.root, domain)  # type: ignore[arg-type]
        prepare(config, domain, [date for date in known if first <= date <= last])  # type: ignore[arg-type]
    for date in reversed(config.snapshots.as_of(dates[0])):
        train_tpm(study.request(seed, FULL, date))
    for row in study.rows:  # a row that takes snapshots of other dates has TPM versions of its own
        wanted = study.config(seed, row).snapshots
        for date in reversed(wanted.as_of(dates[0]) if wanted.lag_days != config.snapshots.lag_days else []):
            train_tpm(study.request(seed, row, date))
    return []


def _run_day(study: Study, seed: int, date: dt.date) -> list[dict[str, Any]]:
    """All rows of one data date, evaluated on the next day's ads."""
    records: list[dict[str, Any]] = []
    store = study.store(seed)
    day = date + dt.timedelta(days=1)
    for row in study.rows:
        request = study.request(seed, row, date)
        if request.config.actr.init == "cpm":
            train_cpm(request)
        ref = train_actr(request).manifest.ref
        found = load_evaluation(store, ref, day)
        if found and found.get("low_activity_below") == request.config.evaluation.low_activity_below:
            metrics = found["metrics"]
        else:
            metrics = evaluate(request.config, store, ref, day).metrics
        key = {"seed": seed, "date": date, "code": code_digest()[:12]}
        for cohort, values in metrics.items():
            name, of = ("oracle", "all") if cohort == "oracle" else (row, cohort)
            if name != "oracle" or row == study.rows[0]:
                records.append({**key, "row": name, "cohort": of, **values})
    return records
