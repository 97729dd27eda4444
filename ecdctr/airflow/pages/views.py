"""What the pages show, read from the store: plain values, no HTML."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, NamedTuple

from ecdctr.airflow.pages.chart import Point
from ecdctr.config import LEVELS, PRODUCTION
from ecdctr.errors import StoreError, first_line
from ecdctr.store.aliases import SERVING
from ecdctr.store.documents import read_document
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store

DAYS_SHOWN = 60
MEND = "make it again with the command of the study, or put it back from a copy"
SHOWN = {  # of a study, on the pages
    "ablation": ("kind", "name", "world", "seeds", "days", "gauc", "written_at"),
    "forgetting": ("kind", "name", "days", "seeds", "measures", "advice", "failed", "written_at"),
}
REFRESH_DAYS = {"tpm": 7, "cpm": 1, "actr": 1}


class LevelState(NamedTuple):
    """A level of an experiment: its newest and serving versions, and how old its data is.

    `late` only where its DAG runs by its schedule: else nobody has promised a newer version.
    """

    level: str
    newest: Manifest | None
    serving: Ref | None
    age_days: int | None
    scheduled: bool
    late: bool


class Evaluated(NamedTuple):
    """One next-day evaluation of A-CTR."""

    date: dt.date
    ref: Ref
    metrics: dict[str, float]
    oracle: float | None
    champion: bool
    impressions: str  # digest of what it was judged by


class Compared(NamedTuple):
    """Next-day evaluations of experiments, and why some days cannot be compared."""

    evaluated: dict[str, list[Evaluated]]
    apart: dict[dt.date, str]

    def curves(self) -> dict[str, list[Point]]:
        """Return GAUC over the days that can be compared, a curve per experiment that has one."""
        return {
            name: [(e.date, e.metrics["gauc"]) for e in days if e.date not in self.apart]
            for name, days in self.evaluated.items()
        }


def level_states(
    store: Store, experiment: str, today: dt.date, scheduled: Collection[str]
) -> list[LevelState]:
    """Return the newest version of each level.

    Late when it is scheduled and more than two refreshes old.
    """
    states = []
    for level in LEVELS:
        ref = store.newest(experiment, level)
        age = (today - ref.date).days if ref else None
        runs = level in scheduled and experiment == PRODUCTION
        states.append(
            LevelState(
                level,
                store.manifest(ref) if ref else None,
                store.alias(SERVING, experiment, level),
                age,
                runs,
                runs and age is not None and age > 2 * REFRESH_DAYS[level] + 1,
            )
        )
    return states


def evaluations(store: Store, experiment: str, days: int = DAYS_SHOWN) -> list[Evaluated]:
    """Return next-day evaluations of A-CTR on the newest days, oldest first.

    Of a day's versions the newest is taken.
    """
    champions = {record.ref for record in store.alias_history(SERVING, experiment)}
    newest: dict[dt.date, Evaluated] = {}
    seen: set[dt.date] = set()
    for date, ref in store.evaluated(experiment):
        seen.add(date)
        if len(seen) > days:
            break
        next_day = date - ref.date == dt.timedelta(days=1) and date not in newest
        raw = store.load_evaluation(ref, date) if next_day else None
        if raw:
            oracle = raw["metrics"].get("oracle", {}).get("gauc")
            judged = raw.get("judged_on") or str(ref)  # an older form is like no other
            newest[date] = Evaluated(
                date, ref, raw["metrics"]["all"], oracle, ref in champions, judged
            )
    return list(newest.values())[::-1]


def compared(store: Store, experiments: list[str]) -> Compared:
    """Return next-day evaluations of experiments that have one with a GAUC.

    Days that they were not all judged on by the same impressions stand apart.
    """
    from ecdctr.evaluation.stored import other_impressions

    evaluated, apart = {}, {}
    first: dict[dt.date, Evaluated] = {}
    for experiment in experiments:
        days = [e for e in evaluations(store, experiment) if "gauc" in e.metrics]
        if days:
            evaluated[experiment] = days
        for one in days:
            other = first.setdefault(one.date, one)
            if other.impressions != one.impressions:
                apart[one.date] = other_impressions(one.date, other.ref, one.ref)
    return Compared(evaluated, apart)


def studies(store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """Return the studies, forgetting and ablations, newest first, and why others are not there."""
    whole: list[dict[str, Any]] = []
    damaged = []
    for name in store.studies():
        try:
            whole += [one] if (one := study(store, name)) else []
        except StoreError as error:
            damaged.append(str(error))
    return sorted(whole, key=lambda one: str(one["written_at"]), reverse=True), damaged


def study(store: Store, name: str) -> dict[str, Any] | None:
    """Return a study's results (studies/forgetting/page.py), None if there are none.

    Raises StoreError for damaged ones.
    """
    if name not in store.studies():
        return None
    what = f"The study {name}: study.json"
    text = study_text(store, name, "study.json").encode()
    kind = read_document(text, what, MEND, "kind")["kind"]
    keys = SHOWN["ablation" if kind == "ablation" else "forgetting"]
    return read_document(text, what, MEND, *keys)


def study_text(store: Store, name: str, file: str) -> str:
    """Return the text of a study's file; raises StoreError for one that cannot be read."""
    try:
        return (store.study(name) / file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or first_line(error)
        raise StoreError(f"The study {name}: {file} cannot be read ({said}); {MEND}.") from None


def measure_names(content: dict[str, Any]) -> list[str]:
    """Return the measures of a study's table."""
    return list(next(iter(content["measures"].values())))


def variant_of(store: Store, experiment: str) -> str:
    """Return the variant of an experiment's newest A-CTR."""
    ref = store.newest(experiment, "actr")
    return store.manifest(ref).variant if ref else ""


def version_evaluations(store: Store, ref: Ref) -> list[dict[str, Any]]:
    """Return all evaluations of a version, whichever day, oldest first."""
    days = [
        date for date, evaluated in store.evaluated(ref.experiment, ref.level) if evaluated == ref
    ]
    return [
        evaluation for date in reversed(days) if (evaluation := store.load_evaluation(ref, date))
    ]


def experiments_of(store: Store) -> list[str]:
    """Return experiments that hold versions, production first."""
    names = [
        name for name in store.experiments() if any(store.newest(name, level) for level in LEVELS)
    ]
    return sorted(names, key=lambda name: (name != PRODUCTION, name))
