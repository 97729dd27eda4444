"""Many runs with random faults end where the same runs without faults end.

./run soak makes 200 of them. A run is what a DAG does for a level and a day: prepare, train,
evaluate, gate. Each step may be killed before a random change of a file, or run twice at once; a
byte of a random version may be flipped, which verify must name before it is put right. What was
killed is run again, as Airflow does.
"""

from __future__ import annotations

import datetime as dt
import os
import random
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ecdctr.config import LEVEL_DOMAIN, Config, Level
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.evaluation.gate import gate
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.store import Store
from tests.make import changed
from tests.store.kills import FORKED, dies

RUNS = int(os.environ.get("ECDCTR_SOAK_RUNS", "14"))
SEED = int(os.environ.get("ECDCTR_SOAK_SEED", "1"))
FIRST = dt.date(2026, 1, 12)
DAYS = 11  # of the tiny world, each with a next day
TRAIN = {"tpm": train_tpm, "cpm": train_cpm, "actr": train_actr}


class Run(NamedTuple):
    """A level on a day, in production or in an experiment with its variant."""

    level: Level
    date: dt.date
    experiment: str = "production"
    variant: str = "default"


def planned(count: int, rng: random.Random) -> list[Run]:
    """Day by day TPM (weekly, of the day before), CPM and A-CTR, two experiments beside.

    And now and then a past run once more.
    """
    runs: list[Run] = []
    days = [FIRST + dt.timedelta(days=i) for i in range(DAYS)]
    for day in days:
        if (day - FIRST).days % 7 == 0:
            runs.append(Run("tpm", day - dt.timedelta(days=1)))
        runs += [Run("cpm", day), Run("actr", day), Run("actr", day, "chain", "continue")]
        runs += [Run("cpm", day, "no-tpm", "no_tpm"), Run("actr", day, "no-tpm", "no_tpm")]
        if rng.random() < 0.5:
            runs.append(rng.choice(runs))
    while len(runs) < count:
        runs.append(rng.choice(runs))
    return runs[:count]


def step(config: Config, root: Path, run: Run, what: str) -> None:
    """One task of the run's DAG."""
    config_of_run, store = config.with_variant(run.variant), Store(root)
    if what == "prepare":
        prepare(
            config_of_run,
            LEVEL_DOMAIN[run.level],
            window(run.date, config_of_run.training(run.level).window_days),
            run.level == "tpm",
        )
        return
    if what == "train":
        with store.in_use():
            TRAIN[run.level](Request(config_of_run, store, run.date, run.experiment, run.variant))
        return
    ref = [ref for ref in store.versions(run.experiment, run.level) if ref.date == run.date][-1]
    after = run.date + dt.timedelta(days=1)
    if what == "evaluate":
        evaluate(config_of_run, store, ref, after)
    else:
        gate(config_of_run, store, ref, after)


def without_faults(config: Config, root: Path, run: Run) -> None:
    for what in ("prepare", "train", "evaluate", "gate"):
        step(config, root, run, what)


def with_faults(
    config: Config, root: Path, run: Run, rng: random.Random, counts: dict[str, int]
) -> None:
    for what in ("prepare", "train", "evaluate", "gate"):
        while True:
            draw = rng.random()
            if draw < 0.35:  # killed, and run again unless it got through
                died = dies(root.parent, rng.randint(1, 40), step, config, root, run, what)
                counts["killed"] += died
                if died:
                    assert Store(root).verify() == []
                    continue
            elif draw < 0.45:
                twice = [
                    FORKED.Process(target=step, args=(config, root, run, what)) for _ in range(2)
                ]
                for one in twice:
                    one.start()
                for one in twice:
                    one.join()
                assert [one.exitcode for one in twice] == [0, 0]
                counts["twice"] += 1
            else:
                step(config, root, run, what)
            break
    if rng.random() < 0.1:
        flip_and_mend(root, rng)
        counts["flipped"] += 1


def flip_and_mend(root: Path, rng: random.Random) -> None:
    store = Store(root)
    refs = [ref for e in store.experiments() for level in TRAIN for ref in store.versions(e, level)]
    ref = rng.choice(refs)
    path = store.path(ref) / rng.choice(sorted(store.manifest(ref).files))
    content = path.read_bytes()
    at = rng.randrange(len(content))
    path.write_bytes(
        content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]
    )
    problems = store.verify()
    assert len(problems) == 1
    assert str(ref) in problems[0]
    path.write_bytes(content)


def resolved(root: Path) -> dict[str, Any]:
    """Return every resolve of every experiment, level and day.

    With the hashes of what it resolves to; and what serves.
    """
    store, versions = Store(root), {}
    for experiment in ("production", "chain", "no-tpm"):
        for level in TRAIN:
            for i in range(DAYS + 1):
                date = FIRST + dt.timedelta(days=i)
                ref = store.resolve(level, date, experiment)
                files = (
                    {}
                    if ref is None
                    else {name: e.sha256 for name, e in store.manifest(ref).files.items()}
                )
                versions[f"{experiment} {level} {date}"] = (str(ref), files)
            versions[f"{experiment} {level} serving"] = str(
                store.alias("serving", experiment, level)
            )
            versions[f"{experiment} {level} candidate"] = str(
                store.alias("candidate", experiment, level)
            )
    return versions


@pytest.mark.airflow
def test_runs_with_random_faults_end_where_runs_without_faults_end(config, tmp_path):
    rng = random.Random(SEED)
    quick = changed(config, "actr", window_days=3, checkpoint_seconds=0)
    quick = changed(
        changed(quick, "cpm", window_days=3, checkpoint_seconds=0), "data", lookback_days=3
    )
    faulty = changed(quick, "data", prepared=tmp_path / "faulty" / "prepared")
    sound = changed(quick, "data", prepared=tmp_path / "sound" / "prepared")
    counts = {"killed": 0, "twice": 0, "flipped": 0}
    (tmp_path / "faulty").mkdir()
    for run in planned(RUNS, rng):
        with_faults(faulty, tmp_path / "faulty" / "store", run, rng, counts)
        without_faults(sound, tmp_path / "sound" / "store", run)
    assert counts["killed"] > RUNS / 10, counts  # runs that find their work done change few files
    assert Store(tmp_path / "faulty" / "store").verify() == []
    assert resolved(tmp_path / "faulty" / "store") == resolved(tmp_path / "sound" / "store")
    print(f"{RUNS} runs, faults: {counts}")
