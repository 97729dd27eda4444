"""Stored evaluations and the promotion gate; reads no model, so it starts fast."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from ecdctr.config import Config
from ecdctr.errors import StoreError
from ecdctr.evaluation.metrics import UserAuc, paired_bootstrap
from ecdctr.files import durable
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store


def load_users(store: Store, ref: Ref, date: dt.date) -> UserAuc:
    """The stored AUC of each user; raises StoreError if the version was not evaluated that day."""
    folder = store.evaluation(ref, date)
    if folder is None:
        raise StoreError(f"{ref} was not evaluated on {date}.")
    table = pq.read_table(folder / "users.parquet", partitioning=None)
    return UserAuc(*(table.column(name).to_numpy() for name in ("user", "auc", "impressions")))


class Verdict(NamedTuple):
    """What the gate decided and why."""

    passed: bool
    reason: str


def gate(config: Config, store: Store, challenger: Ref, date: dt.date) -> Verdict:
    """Promote an evaluated version to `serving`, unless there is a reason against it; the verdict is stored beside it.

    Refused are: predictions that are all alike, calibration outside its bounds, parents that are too old, and a version
    that is surely worse than the champion on the same day by a bootstrap over users. Raises StoreError when the version
    was not evaluated on `date`.
    """
    champion = store.alias("serving", challenger.experiment, challenger.level)
    if champion == challenger:
        return Verdict(True, f"{challenger} serves already")
    found = store.load_evaluation(challenger, date)
    if found is None:
        raise StoreError(
            f"{challenger} was not evaluated on {date}; run: ecdctr evaluate --date {date} --version {challenger}"
        )
    against = _against_itself(config, found) or _against_its_parents(config, store, challenger)
    if champion and champion.date > challenger.date:
        against = f"older than the serving {champion}; promote it by hand if it is meant"
    calibration = found["metrics"]["all"].get("calibration")
    if against:
        verdict = Verdict(False, f"{challenger}: {against}")
    elif champion:
        verdict = _compare(config, store, challenger, champion, date, calibration)
    else:
        verdict = Verdict(True, f"first to serve; calibration {calibration:.2f} on {date}")
    _save_verdict(store, challenger, date, verdict)
    if verdict.passed:
        store.set_alias("serving", challenger, verdict.reason)
    return verdict


def _save_verdict(store: Store, ref: Ref, date: dt.date, verdict: Verdict) -> None:
    """Into the evaluation's folder, which is replaced as a whole."""
    before = store.evaluation(ref, date)
    assert before is not None  # noqa: S101  # the verdict rests on it
    with store.staging() as folder:
        shutil.copytree(before, folder, dirs_exist_ok=True)
        durable.write_bytes(
            folder / "verdict.json", json.dumps(verdict._asdict(), indent=1).encode()
        )
        store.save_evaluation(folder, ref, date)


def _against_itself(config: Config, found: dict[str, Any]) -> str | None:
    """What an evaluation alone says against a version."""
    settings = config.evaluation
    spread = found.get("score_spread")
    if spread is not None and spread < settings.gate_min_score_spread:
        return (
            f"predictions on {found['date']} expected with a standard deviation of {settings.gate_min_score_spread} or "
            f"more, found {spread:.2g}: they are all alike"
        )
    calibration = found["metrics"]["all"].get("calibration")
    low, high = settings.gate_calibration
    if calibration is None or not low <= calibration <= high:
        text = "none (no clicks)" if calibration is None else f"{calibration:.2f}"
        return f"calibration on {found['date']} expected within [{low}, {high}], found {text}"
    return None


def _against_its_parents(config: Config, store: Store, challenger: Ref) -> str | None:
    """Whether what an A-CTR started from was stale; a chain keeps its first day's parents by intention."""
    parents = store.manifest(challenger).parents
    if challenger.level != "actr" or "actr" in parents:
        return None
    settings = config.evaluation
    allowed = {
        "cpm": settings.gate_max_cpm_age,
        "tpm": settings.gate_max_tpm_age + config.snapshots.lag_days,
    }
    for level, days in allowed.items():
        for parent in [Ref.parse(text) for text in parents.get(level, [])][
            :1
        ]:  # snapshots stand newest first
            age = (challenger.date - parent.date).days
            if age > days:
                return (
                    f"its {level} {parent} is {age} days older, at most {days} are allowed "
                    f"(evaluation.gate_max_{level}_age); look why ecdctr_{level} did not run"
                )
    return None


def _compare(
    config: Config, store: Store, challenger: Ref, champion: Ref, date: dt.date, calibration: float
) -> Verdict:
    settings = config.evaluation
    ours = load_users(store, challenger, date)
    if store.load_evaluation(champion, date) is None:
        from ecdctr.evaluation.evaluate import (
            evaluate,  # reads the model, hence torch; rarely needed here
        )

        evaluate(config, store, champion, date)
    difference, below, above = paired_bootstrap(
        ours, load_users(store, champion, date), settings.bootstrap_samples, config.seed
    )
    text = f"GAUC {difference:+.4f} [{below:+.4f}, {above:+.4f}] against {champion} on {date}"
    if above < -settings.gate_max_gauc_drop:
        return Verdict(
            False, f"{challenger}: {text}, worse than allowed (-{settings.gate_max_gauc_drop})"
        )
    return Verdict(True, f"passed the gate: {text}, calibration {calibration:.2f}")
