"""Who forgets what.

Every variant trained for every day of a range, each day's model evaluated on all the days.

Two ways lead to the same matrices. `run_forgetting` trains on simulated worlds, like an ablation
(ecdctr/studies/ablation/study.py) with a share of the ads held out. `collect` reads what Airflow's
backfills have trained on any data (ecdctr/studies/forgetting/dag.py). Neither touches production.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ecdctr.errors import EcdctrError
from ecdctr.studies.ablation.study import run_study
from ecdctr.studies.forgetting.matrix import held_out_ads, load_rows, stored_row
from ecdctr.studies.forgetting.measures import Matrix
from ecdctr.studies.jobs import stages

if TYPE_CHECKING:
    import pyarrow as pa

    from ecdctr.levels.request import Reporter
    from ecdctr.store.store import Store
    from ecdctr.studies.ablation.plan import Study
    from ecdctr.studies.forgetting.basis import RowBasis

NAMED = 3  # missing rows in a message

Matrices = tuple[dict[str, Matrix], dict[str, str]]


def run_forgetting(study: Study, workers: int, reporter: Reporter) -> Matrices:
    """Train and evaluate all variants on simulated worlds.

    Returns the matrices of each variant, seeds stacked, and for each variant that failed the
    reason; the others finish. Raises EcdctrError when nothing at all can be trained.
    """
    failed: dict[str, str] = {}
    for row in study.rows:
        try:
            run_study(replace(study, rows=(row,), next_day=False), workers, reporter)
        except EcdctrError as error:
            failed[row] = str(error)
    done = [row for row in study.rows if row not in failed]
    if not done:
        why = "; ".join(f"{row}: {reason}" for row, reason in failed.items())
        raise EcdctrError(f"No variant could be trained. {why}")
    jobs = [(seed, row) for row in done for seed in study.seeds]
    with stages(workers, reporter) as stage:
        made = stage("forgetting matrices", _matrix, [(study, *job) for job in jobs])
    rows = dict(zip(jobs, made, strict=True))
    days = {seed: study.dates(seed) for seed in study.seeds}
    return {
        row: Matrix.stack([Matrix.of_rows(rows[seed, row], days[seed]) for seed in study.seeds])
        for row in done
    }, failed


def collect(
    store: Store, experiments: dict[str, list[str]], bases: dict[str, RowBasis]
) -> Matrices:
    """Return the matrices of variants whose rows are in the store, an experiment per seed.

    The others come back with the reason why they have none. `bases` says what all rows of a variant
    must rest on: the same days, read as the variant says. Raises EcdctrError when no variant is
    complete.
    """
    matrices: dict[str, Matrix] = {}
    failed: dict[str, str] = {}
    for variant, names in experiments.items():
        dates = list(bases[variant].dates)
        seeds = {name: load_rows(store, name, bases[variant]) for name in names}
        missing = [
            f"{name} of {date}"
            for name, rows in seeds.items()
            for date in dates
            if date not in rows
        ]
        if missing:
            rest = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
            failed[variant] = (
                f"no matrix row on the ads as they are now for {', '.join(missing[:NAMED])}{rest}; "
                "see the runs of these days, or start the study again"
            )
        else:
            matrices[variant] = Matrix.stack(
                [Matrix.of_rows([rows[date] for date in dates], dates) for rows in seeds.values()]
            )
    if not matrices:
        raise EcdctrError(f"No variant is complete: {failed}")
    return matrices, failed


def _matrix(study: Study, seed: int, row: str) -> list[pa.Table]:
    """Return one variant on one seed's world.

    Every day's model on the held-out ads of every day.
    """
    config, store, dates = study.config(seed, row), study.store(seed), study.dates(seed)
    with store.in_use():
        held_out = held_out_ads(config, dates, study.hold_out_every)
        experiment = study.request(seed, row, "actr", dates[0]).experiment
        newest = {ref.date: ref for ref in store.versions(experiment, "actr")}
        return [stored_row(config, store, newest[date], held_out) for date in dates]
