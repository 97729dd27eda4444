"""Rows × seeds: what each part of the method brings, by next-day GAUC on simulated worlds.

A row is a variant of the configuration, 'full' is the configuration as it stands; 'name@7'
refreshes CPM every seven days instead of daily. With a base, itself a variant, every row lies on
top of it and 'full' is the base. Each seed draws its own world and its own weights. All rows of a
seed read the same ads days.

TPM, CPM and A-CTR versions lie in experiments named by the digest of the settings behind them, so
that rows with the same CPM share it, and a killed study goes on where it was.
"""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import LEVELS, PRODUCTION, Config, Domain, digest, load_config
from ecdctr.config.studies import CHAIN_DAYS
from ecdctr.config.terms import DEFAULT, FULL
from ecdctr.errors import ConfigError, StoreError
from ecdctr.evaluation.basis import evaluating_code
from ecdctr.evaluation.stored import current
from ecdctr.examples.prepare import prepare, preparing_code
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.fingerprint import level_code
from ecdctr.levels.request import Reporter, Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store
from ecdctr.studies.floors import FLOORS, require_boosting
from ecdctr.studies.jobs import stages
from ecdctr.studies.kept_floors import kept_floors
from ecdctr.worlds.simulate import simulate

if TYPE_CHECKING:
    from ecdctr.worlds.named import NamedWorld

# Where the records of a study come from, beside preparation and the levels that it trains
MEASURING = (
    "evaluation", "examples.held_out", "studies.ablation.study", "studies.floors", "worlds",
)  # fmt: skip
DAY = dt.timedelta(days=1)
WEEK = dt.timedelta(days=7)
FIRST_TPM = dt.timedelta(days=6)  # the first TPM has at least a week to learn from
Record = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One study.

    A seed's world, prepared data and store lie in a folder of their own under `work`.
    """

    config_path: Path
    world: NamedWorld
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    eval_days: int
    work: Path
    # How long what goes on day by day has lived before its first evaluation
    chain_days: int = CHAIN_DAYS
    # Each n-th ads impression that no row trains on, for the forgetting matrix
    hold_out_every: int = 0
    next_day: bool = True  # whether each day's model is evaluated on the next day
    base: str = DEFAULT  # the variant that every row lies on top of
    own_data: bool = False  # the configuration's own impressions instead of simulated worlds
    until: dt.date | None = None  # the last evaluated day; the last one that is there by default
    # Evaluate each n-th day alone; what goes on day by day is trained on all of them
    eval_every: int = 1

    def folder(self, seed: int) -> Path:
        """Return where everything of a seed lies."""
        return self.work.resolve() / f"{'own' if self.own_data else self.world.name}-{seed}"

    def store(self, seed: int) -> Store:
        """Return the seed's store."""
        return Store(self.folder(seed) / "store")

    def config(self, seed: int, row: str = FULL) -> Config:
        """Return the configuration of a row on a seed's world."""
        folder = self.folder(seed)
        of_this_row = of_row(load_config(self.config_path).with_variant(self.base), row)
        places = {"root": folder / "data", "prepared": folder / "prepared"}
        data = of_this_row.data if self.own_data else of_this_row.data.model_copy(update=places)
        actr = of_this_row.actr.model_copy(update={"hold_out_every": self.hold_out_every})
        return of_this_row.model_copy(update={"seed": seed, "data": data, "actr": actr})

    def dates(self, seed: int, row: str = FULL) -> list[dt.date]:
        """Return the data dates of A-CTR: each has a next day to be evaluated on."""
        delivered = open_impressions(self.config(seed, row).data.root).dates("ads")
        days = [day for day in delivered if day - DAY in delivered and day <= (self.until or day)]
        newest_first = days[:: -self.eval_every][: self.eval_days]
        return [day - DAY for day in newest_first[::-1]]

    def chain(self, seed: int, row: str) -> list[dt.date]:
        """Return all data dates that A-CTR is trained for.

        A row that continues has days before the evaluated ones.
        """
        dates = self.dates(seed)
        if not self.config(seed, row).chained("actr"):
            return dates
        delivered = open_impressions(self.config(seed, row).data.root).dates("ads")
        first = dates[0] - dt.timedelta(days=self.chain_days)
        return [date for date in delivered if first <= date <= dates[-1]]

    def cpm_dates(self, seed: int, row: str) -> list[dt.date]:
        """Return the data dates of CPM, none where the row takes nothing from it."""
        config, every = self.config(seed, row), _split(row)[1]
        if config.actr.init == "none" and config.actr.source == "none":
            return []
        dates = self.chain(seed, row)[:1] if config.chained("actr") else self.dates(seed)
        delivered = open_impressions(config.data.root).dates("natural")
        if config.chained("cpm"):
            dates = [date for date in delivered if dates[0] <= date <= dates[-1]]
        dates = dates[::every]
        if config.chained("cpm"):
            earliest = delivered[0] + dt.timedelta(days=config.cpm.first_days - 1)
            for first_tpm in self.tpm_dates(seed, row)[:1]:  # before it there is no snapshot
                earliest = max(earliest, first_tpm + (dates[0] - config.snapshots.needed(dates[0])))
            before = (
                dates[0] - dt.timedelta(days=n) for n in range(every, self.chain_days + 1, every)
            )
            dates = [*sorted(d for d in before if d >= earliest and d in delivered), *dates]
        return dates

    def cpm_chains(self, seed: int, row: str) -> list[list[dt.date]]:
        """Return the same dates as what can be trained side by side: one by one, or one chain."""
        dates = self.cpm_dates(seed, row)
        return [dates] if self.config(seed, row).chained("cpm") else [[date] for date in dates]

    def tpm_dates(self, seed: int, row: str) -> list[dt.date]:
        """Return the data dates of TPM, oldest first: weekly, none where the row takes no snapshot.

        The same weeks for all rows, whichever of the versions they take: one ends the day before
        the first date, which is the newest that an impression of that date may know.
        """
        config = self.config(seed, row)
        if not config.snapshots.count:
            return []
        earliest = open_impressions(config.data.root).dates("natural")[0] + FIRST_TPM
        first, last = self.dates(seed)[0] - DAY, self.dates(seed)[-1] - DAY
        weeks = (first + WEEK * ((last - first).days // 7 - n) for n in range(1000))
        return sorted(itertools.takewhile(lambda date: date >= earliest, weeks))

    def request(self, seed: int, row: str, level: str, date: dt.date) -> Request:
        """Request the training of one level of a row.

        Its experiment falls back to that of the level before.
        """
        config, store = self.config(seed, row), self.store(seed)
        cpm_dates = [str(date) for date in self.cpm_dates(seed, row)]
        tpm = digest([config.relevant("tpm"), [str(date) for date in self.tpm_dates(seed, row)]])[
            :10
        ]
        cpm = digest([config.relevant("cpm"), cpm_dates, tpm])[:10]
        actr = digest([config.relevant("actr"), cpm])[:10]
        names = {"tpm": f"tpm-{tpm}", "cpm": f"cpm-{cpm}", "actr": f"actr-{actr}"}
        parent = PRODUCTION
        for name in names.values():
            store.create_experiment(name, parent)
            parent = name
        return Request(config, store, date, names[level], _split(row)[0])


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


def _split(row: str) -> tuple[str, int]:
    """Return a row's variant, and every how many days its CPM is refreshed."""
    name, _, days = row.partition("@")
    if days and (not days.isdigit() or int(days) < 1):
        raise ConfigError(
            f"Row '{row}': expected NAME or NAME@DAYS with a whole number of days, for example "
            "full@7."
        )
    return name, int(days or 1)


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


def of_row(config: Config, row: str) -> Config:
    """Return the configuration with a row's variant applied.

    Raises ConfigError for an unknown one.
    """
    name, _ = _split(row)
    return config if name == FULL else config.with_variant(name)


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
        (store.manifest(Ref.parse(ref)), _split(row)[1]) for ref in actr.parents.get("cpm", [])
    ]
    for ref in actr.parents.get("tpm", [])[:1]:
        tpm = store.manifest(Ref.parse(ref))
        parts.append((tpm, refresh_days(tpm)))
    return {
        "daily_samples": sum(m.rows["samples"] / days for m, days in parts),
        "daily_seconds": sum(m.metrics["train_seconds"] / days for m, days in parts),
        "daily_bytes": sum(m.total_bytes / days for m, days in parts),
    }
