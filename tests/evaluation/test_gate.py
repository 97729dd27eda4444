"""The gate: what is promoted, what is refused, and the reason in both cases."""

from __future__ import annotations

import datetime as dt
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecdctr.config import Config
from ecdctr.errors import StoreError
from ecdctr.evaluation.gate import Verdict, gate
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.store.test_store import manifest

NEXT = DATE + dt.timedelta(days=1)
USERS = 200


def version(store: Store, date: dt.date = DATE, level: str = "actr", **parents: list[Ref]) -> Ref:
    listed = {name: [str(ref) for ref in refs] for name, refs in parents.items()}
    made = manifest(date, f"{level}{date}{parents}", level=level).model_copy(
        update={"parents": listed}
    )
    with store.staging() as folder:
        (folder / "a").write_text(level)
        return store.publish(folder, made, force=True).ref


def evaluated(
    store: Store,
    ref: Ref,
    level: float = 0.7,
    calibration: float | None = 1.0,
    spread: float = 0.1,
    seed: int = 1,
) -> Ref:
    """A stored evaluation whose users have an AUC around `level`."""
    noise = np.random.default_rng(seed).normal(0, 0.05, USERS)
    table = {"user": np.arange(USERS), "auc": level + noise, "impressions": np.full(USERS, 10)}
    metrics = (
        {"gauc": level} if calibration is None else {"gauc": level, "calibration": calibration}
    )
    content = {
        "ref": str(ref),
        "date": str(NEXT),
        "metrics": {"all": metrics},
        "score_spread": spread,
    }
    with store.staging() as folder:
        pq.write_table(pa.table(table), folder / "users.parquet")
        (folder / "evaluation.json").write_text(json.dumps(content))
        store.save_evaluation(folder, ref, NEXT)
    return ref


@pytest.fixture
def store(any_store: Store) -> Store:
    """The gate decides in a folder and on object storage alike."""
    return any_store


@pytest.fixture
def relaxed(config: Config) -> Config:
    return config.model_copy(
        update={"evaluation": config.evaluation.model_copy(update={"bootstrap_samples": 200})}
    )


def test_the_first_version_serves_and_the_reason_is_recorded(relaxed, store):
    ref = evaluated(store, version(store))
    assert gate(relaxed, store, ref, NEXT).passed
    assert store.alias("serving") == ref
    assert "first to serve" in store.alias_history("serving")[-1].reason
    assert gate(relaxed, store, ref, NEXT) == Verdict(True, f"{ref} serves already")


def test_a_challenger_that_is_surely_worse_does_not_serve(relaxed, store):
    champion = evaluated(store, version(store), 0.75)
    gate(relaxed, store, champion, NEXT)
    worse = evaluated(store, version(store, seed=[]), 0.70, seed=2)
    verdict = gate(relaxed, store, worse, NEXT)
    assert not verdict.passed
    assert f"against {champion}" in verdict.reason
    assert store.alias("serving") == champion
    stored = store.load_evaluation(worse, NEXT)["verdict"]
    assert stored == {"passed": False, "reason": verdict.reason}


def test_a_challenger_within_the_noise_serves(relaxed, store):
    gate(relaxed, store, evaluated(store, version(store), 0.75), NEXT)
    other = evaluated(store, version(store, again=[]), 0.749, seed=3)
    assert gate(relaxed, store, other, NEXT).passed
    assert store.alias("serving") == other


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"calibration": 3.0}, r"calibration .* within \[0.5, 2.0\], found 3.00"),
        ({"calibration": None}, "found none"),
        ({"spread": 0.0}, "they are all alike"),
    ],
)
def test_what_an_evaluation_says_against_a_version_is_the_reason(relaxed, store, values, reason):
    ref = evaluated(store, version(store), **values)
    verdict = gate(relaxed, store, ref, NEXT)
    assert not verdict.passed
    assert store.alias("serving") is None
    assert re.search(reason, verdict.reason), verdict.reason


@pytest.mark.parametrize(
    ("level", "days", "passes"),
    [("cpm", 3, True), ("cpm", 4, False), ("tpm", 21, True), ("tpm", 22, False)],
)
def test_stale_parents_are_refused_with_the_dag_to_look_at(relaxed, store, level, days, passes):
    parent = version(store, DATE - dt.timedelta(days=days), level)
    ref = evaluated(store, version(store, **{level: [parent]}))
    verdict = gate(relaxed, store, ref, NEXT)
    assert verdict.passed is passes
    if not passes:
        assert f"its {level} {parent} is {days} days older" in verdict.reason
        assert f"ecdctr_{level} did not run" in verdict.reason


def test_a_chain_keeps_the_parents_of_its_first_day(relaxed, store):
    yesterday = version(store, DATE - dt.timedelta(days=1))
    snapshot = version(store, DATE - dt.timedelta(days=60), "tpm")
    ref = evaluated(store, version(store, actr=[yesterday], tpm=[snapshot]))
    assert gate(relaxed, store, ref, NEXT).passed


def test_an_older_version_does_not_replace_a_newer_one(relaxed, store):
    newer = evaluated(store, version(store))
    gate(relaxed, store, newer, NEXT)
    older = evaluated(store, version(store, DATE - dt.timedelta(days=1)))
    verdict = gate(relaxed, store, older, NEXT)
    assert not verdict.passed
    assert f"older than the serving {newer}" in verdict.reason


def test_a_version_without_an_evaluation_cannot_pass(relaxed, store):
    with pytest.raises(StoreError, match="was not evaluated on"):
        gate(relaxed, store, version(store), NEXT)
