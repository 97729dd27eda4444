"""Who forgets what: every variant trained for every day of a range, each day's model evaluated on all the days.

The training is that of an ablation (ecdctr/experiments/ablation.py) with a share of the ads held out, in namespaces of
its own: nothing here touches production.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.errors import EcdctrError
from ecdctr.experiments.ablation import Study, run_study
from ecdctr.levels.common import Reporter
from ecdctr.training.matrix import held_out_ads, matrix_row

Record = dict[str, Any]


def run_forgetting(study: Study, workers: int, reporter: Reporter) -> tuple[list[Record], dict[str, str]]:
    """Train and evaluate all variants.

    Returns a record per seed, variant, model date, day and user (also written as Parquet), and for each variant that
    failed the reason; the others finish. Raises what a study raises when nothing at all can be trained.
    """
    failed: dict[str, str] = {}
    for row in study.rows:
        try:
            run_study(replace(study, rows=(row,)), workers, reporter)
        except EcdctrError as error:
            failed[row] = str(error)
    done = [row for row in study.rows if row not in failed]
    if not done:
        raise EcdctrError(f"No variant could be trained: {failed}")
    jobs = [(seed, row) for row in done for seed in study.seeds]
    reporter.start("forgetting matrices", len(jobs))
    records: list[Record] = []
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(_matrix, study, *job) for job in jobs]
        for _ in as_completed(futures):
            reporter.advance(1)
        for future in futures:
            records += future.result()
    pq.write_table(pa.Table.from_pylist(records), study.work / f"forgetting-{study.preset}.parquet")
    return records, failed


def _matrix(study: Study, seed: int, row: str) -> list[Record]:
    """One variant on one seed's world: every day's model on the held-out ads of every day."""
    config, store, dates = study.config(seed, row), study.store(seed), study.dates(seed)
    held_out = held_out_ads(config, dates, study.hold_out_every)
    experiment = study.request(seed, row, "actr", dates[0]).experiment
    newest = {ref.date: ref for ref in store.versions(experiment, "actr")}
    records: list[Record] = []
    for model_date in dates:
        cells = matrix_row(config, store, newest[model_date], held_out)
        for day, cell in zip(dates, cells, strict=True):
            for user, auc, count in zip(*cell, strict=True):
                key = {"seed": seed, "row": row, "model_date": model_date, "day": day}
                records.append({**key, "user": int(user), "auc": float(auc), "impressions": int(count)})
    return records
