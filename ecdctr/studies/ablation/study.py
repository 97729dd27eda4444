"""Rows × seeds: what each part of the method brings, by next-day GAUC on simulated worlds.

A row is a variant of the configuration, 'full' is the configuration as it stands; 'name@7'
refreshes CPM every seven days instead of daily. With a base, itself a variant, every row lies on
top of it and 'full' is the base. Each seed draws its own world and its own weights. All rows of a
seed read the same ads days.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import LEVELS, digest
from ecdctr.config.studies import split_row
from ecdctr.errors import StoreError
from ecdctr.evaluation.basis import evaluating_code
from ecdctr.evaluation.stored import current
from ecdctr.examples.extracts import preparing_code
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.fingerprint import level_code
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.studies.ablation.plan import DAY
from ecdctr.studies.floors import FLOORS, require_boosting
from ecdctr.studies.jobs import stages
from ecdctr.studies.kept_floors import kept_floors
from ecdctr.worlds.simulate import simulate

if TYPE_CHECKING:
    from ecdctr.config import Domain
    from ecdctr.levels.request import Reporter
    from ecdctr.studies.ablation.plan import Study

# Where the records of a study come from, beside preparation and the levels that it trains
MEASURING = (
    "evaluation", "examples.held_out", "studies.ablation.plan", "studies.ablation.study",
    "studies.floors", "worlds",
)  # fmt: skip
Record = dict[str, Any]


def run_study(study: Study, workers: int, reporter: Reporter) -> tuple[list[Record], list[Record]]:
    """Train and evaluate everything.

    Returns one record per seed, row, day and cohort, and one per seed, row, day and user; both are
    also written as Parquet. Raises ConfigError for an unknown row before anything is made.
    """
    if study.next_day:
        require_boosting()
    for row in study.rows:
        study.config(0, row)
    pairs = [(seed, row) for row in study.rows for seed in study.seeds]
    seeds = [(study, seed) for seed in study.seeds]
    with stages(workers, reporter) as stage:
        stage("worlds", _make_world, seeds)
        tpms = _distinct(study, pairs, "tpm")
        stage("TPM chains", _train_tpms, [(study, *job) for job in tpms])
        cpms = [
            (study, *job, dates)
            for job in _distinct(study, pairs, "cpm")
            for dates in study.cpm_chains(*job)
        ]
        stage("CPM", _train_cpms, cpms)
        done = stage("A-CTR rows", _run_row, [(study, *pair) for pair in pairs])
        if study.next_day:
            done += stage("floors", _run_floors, seeds)
    records = [record for some, _ in done for record in some]
    users = [record for _, some in done for record in some]
    order = {row: i for i, row in enumerate((*FLOORS, *study.rows, "oracle"))}
    refuse_other_impressions(records)
    records.sort(key=lambda r: (r["seed"], order[r["row"]], r["date"], r["cohort"]))
    if not study.next_day:
        return [], []
    name = "own" if study.own_data else study.world.name
    for what, table in (("", records), ("-users", users)):
        columns = list(dict.fromkeys(key for record in table for key in record))
        complete = [{key: record.get(key) for key in columns} for record in table]
        pq.write_table(
            pa.Table.from_pylist(complete), study.work / f"ablation-{name}{what}.parquet"
        )
    return records, users


def refuse_other_impressions(records: list[Record]) -> None:
    """Raise StoreError when two rows were evaluated on other impressions of a day."""
    first: dict[tuple[Any, ...], Record] = {}
    for record in records:
        if "judged_on" in record:
            other = first.setdefault((record["seed"], record["date"]), record)
            if other["judged_on"] != record["judged_on"]:
                raise StoreError(
                    f"Rows {other['row']} and {record['row']} were judged on other impressions of "
                    f"{record['date'] + DAY} or of the days that it looks back on (delivered again "
                    "between: run the study again, what it has trained is re-used; or "
                    "data.lookback_days is another: such rows are not comparable)."
                )


def _distinct(study: Study, pairs: list[tuple[int, str]], level: str) -> list[tuple[int, str]]:
    """Keep of pairs that share a level's versions the first."""
    firsts: dict[tuple[int, str], tuple[int, str]] = {}
    for seed, row in pairs:
        if level == "tpm" or study.cpm_dates(seed, row):
            experiment = study.request(seed, row, level, study.dates(seed)[0]).experiment
            firsts.setdefault((seed, experiment), (seed, row))
    return list(firsts.values())


def _make_world(study: Study, seed: int) -> None:
    """Make a world and its examples, so that later stages prepare no day side by side."""
    data = study.config(seed).data
    if not study.own_data:
        simulate(study.world.settings, seed, study.folder(seed) / "data", workers=1)
    last = study.dates(seed)[-1] + dt.timedelta(days=1)
    for row in study.rows:
        config = study.config(seed, row)
        first = study.chain(seed, row)[0]
        start_cpm = [
            date - dt.timedelta(days=config.cpm.first_days - 1)
            for date in study.cpm_dates(seed, row)[:1]
        ]
        starts: dict[Domain, list[dt.date]] = {
            "ads": [first - dt.timedelta(days=config.actr.window_days - 1)],
            "natural": [first - dt.timedelta(days=config.actr.natural_days - 1), *start_cpm],
        }
        for domain, dates in starts.items():
            delivered = open_impressions(data.root).dates(domain)
            start = min(dates)
            prepare(config, domain, [date for date in delivered if start <= date <= last])


def _train_tpms(study: Study, seed: int, row: str) -> None:
    with study.store(seed).in_use():
        for date in study.tpm_dates(seed, row):
            train_tpm(study.request(seed, row, "tpm", date))


def _train_cpms(study: Study, seed: int, row: str, dates: list[dt.date]) -> None:
    with study.store(seed).in_use():
        for date in dates:
            train_cpm(study.request(seed, row, "cpm", date))


def _run_row(study: Study, seed: int, row: str) -> tuple[list[Record], list[Record]]:
    """Train A-CTR of all days of a row and evaluate them on their next days' ads."""
    with study.store(seed).in_use():
        return _train_and_evaluate(study, seed, row)


def _train_and_evaluate(study: Study, seed: int, row: str) -> tuple[list[Record], list[Record]]:
    records: list[Record] = []
    users: list[Record] = []
    store, evaluated = study.store(seed), study.dates(seed)
    for date in study.chain(seed, row):
        request = study.request(seed, row, "actr", date)
        first_of_chain = date == study.chain(seed, row)[0] and request.config.chained("actr")
        manifest = train_actr(replace(request, restart=first_of_chain)).manifest
        if not study.next_day or date not in evaluated:
            continue
        day = date + dt.timedelta(days=1)
        evaluation = current(request.config, store, manifest.ref, day)
        metrics = evaluation.content["metrics"]
        key = {"seed": seed, "date": date, "code": measuring_code()[:12]}
        for cohort, values in metrics.items():
            name, of = ("oracle", "all") if cohort == "oracle" else (row, cohort)
            if name != "oracle" or row == study.rows[0]:
                of_row: Record = {}
                if (name, of) == (row, "all"):
                    of_row |= _cost(study, seed, row, manifest)
                    of_row["judged_on"] = evaluation.content["judged_on"]
                records.append({**key, "row": name, "cohort": of, **values, **of_row})
        users += _judged(evaluation.users, {"seed": seed, "date": date, "row": row})
        if evaluation.expected is not None:
            of_user = {"seed": seed, "date": date, "row": row, "measure": "expected"}
            users += _judged(evaluation.expected, of_user)
    return records, users


def _run_floors(study: Study, seed: int) -> tuple[list[Record], list[Record]]:
    """Evaluate the floors on the evaluated days of all rows."""
    records: list[Record] = []
    users: list[Record] = []
    for date in study.dates(seed):
        key = {"seed": seed, "date": date, "code": measuring_code()[:12]}
        for floor in kept_floors(study.config(seed), date, study.folder(seed) / "floors"):
            for cohort, values in floor.metrics.items():
                of_all: Record = {}
                if cohort == "all":
                    of_all = {"daily_seconds": floor.seconds}
                    of_all["judged_on"] = floor.judged_on
                records.append({**key, "row": floor.name, "cohort": cohort, **values, **of_all})
            users += _judged(floor.users, {"seed": seed, "date": date, "row": floor.name})
            if floor.expected is not None:
                of_floor = {"seed": seed, "date": date, "row": floor.name}
                users += _judged(floor.expected, {**of_floor, "measure": "expected"})
    return records, users


def _judged(users: pa.Table, key: Record) -> list[Record]:
    """Return a record for each user with an AUC, by drawn clicks unless the key says otherwise."""
    judged = users.filter(pc.is_valid(users.column("auc")))
    return [
        {"measure": "drawn"} | key | one
        for one in judged.select(["user", "auc", "impressions"]).to_pylist()
    ]


@lru_cache(maxsize=1)
def measuring_code() -> str:
    """Digest the code that the records of a row or a floor come from."""
    measuring = code_digest(["studies.ablation.study"], MEASURING)
    trained = [preparing_code(), *(level_code(level) for level in LEVELS)]
    return digest([*trained, evaluating_code(), measuring])


def refresh_days(tpm: Manifest) -> int:
    """Return days since the TPM before it, whatever window it reads.

    The first one counts with its window.
    """
    for before in tpm.parents.get("tpm", []):
        return (tpm.data_date - Ref.parse(before).date).days
    return (tpm.window_end - tpm.window_start).days + 1


def _cost(study: Study, seed: int, row: str, actr: Manifest) -> dict[str, float]:
    """Return per day of operation: samples, seconds of training, and bytes that all levels store.

    A level that is refreshed every n days counts with an n-th: CPM by the row, TPM by the distance
    of its versions.
    """
    store = study.store(seed)
    parts = [(actr, 1)]
    parts += [
        (store.manifest(Ref.parse(ref)), split_row(row)[1]) for ref in actr.parents.get("cpm", [])
    ]
    for ref in actr.parents.get("tpm", [])[:1]:
        tpm = store.manifest(Ref.parse(ref))
        parts.append((tpm, refresh_days(tpm)))
    return {
        "daily_samples": sum(m.rows["samples"] / days for m, days in parts),
        "daily_seconds": sum(m.metrics["train_seconds"] / days for m, days in parts),
        "daily_bytes": sum(m.total_bytes / days for m, days in parts),
    }
