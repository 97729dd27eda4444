"""Stored evaluations and the promotion gate; reads no model, so it starts fast."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from ecdctr import files
from ecdctr.config import Config
from ecdctr.errors import StoreError
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.training.metrics import UserAuc, paired_bootstrap


def evaluation_folder(store: Store, ref: Ref, date: dt.date) -> Path:
    """Where an evaluation lies."""
    return store.root / ref.experiment / "evaluations" / ref.level / str(date) / f"{ref.date}.{ref.version}"


def load_evaluation(store: Store, ref: Ref, date: dt.date) -> dict[str, Any] | None:
    """The stored metrics and calibration curve of a version on a day, None if it was not evaluated."""
    path = evaluation_folder(store, ref, date) / "evaluation.json"
    return json.loads(path.read_text()) if path.exists() else None


def load_users(store: Store, ref: Ref, date: dt.date) -> UserAuc:
    """The stored AUC of each user."""
    table = pq.read_table(evaluation_folder(store, ref, date) / "users.parquet", partitioning=None)
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
    found = load_evaluation(store, challenger, date)
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
    folder = evaluation_folder(store, challenger, date)
    files.write_bytes(folder / "verdict.json", json.dumps(verdict._asdict(), indent=1).encode())
    if verdict.passed:
        store.set_alias("serving", challenger, verdict.reason)
    return verdict


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
    allowed = {"cpm": settings.gate_max_cpm_age, "tpm": settings.gate_max_tpm_age + config.snapshots.lag_days}
    for level, days in allowed.items():
        for parent in [Ref.parse(text) for text in parents.get(level, [])][:1]:  # snapshots stand newest first
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
    if load_evaluation(store, champion, date) is None:
        from ecdctr.training.evaluate import evaluate  # reads the model, hence torch; rarely needed here

        evaluate(config, store, champion, date)
    difference, below, above = paired_bootstrap(
        ours, load_users(store, champion, date), settings.bootstrap_samples, config.seed
    )
    text = f"GAUC {difference:+.4f} [{below:+.4f}, {above:+.4f}] against {champion} on {date}"
    if above < -settings.gate_max_gauc_drop:
        return Verdict(False, f"{challenger}: {text}, worse than allowed (-{settings.gate_max_gauc_drop})")
    return Verdict(True, f"passed the gate: {text}, calibration {calibration:.2f}")
