"""Stored evaluations and the promotion gate; reads no model, so it starts fast."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

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
    """Promote an evaluated version to `serving`, unless the champion does surely better on the same day.

    Both are scored on `date` and compared by a bootstrap over users; calibration must lie inside its bounds.
    """
    settings = config.evaluation
    champion = store.alias("serving", challenger.experiment, challenger.level)
    if champion == challenger:
        return Verdict(True, f"{challenger} serves already")
    if champion and champion.date > challenger.date:
        return Verdict(False, f"{challenger} is older than the serving {champion}; promote it by hand if it is meant")
    found = load_evaluation(store, challenger, date)
    if found is None:
        raise StoreError(
            f"{challenger} was not evaluated on {date}; run: ecdctr evaluate --date {date} --version {challenger}"
        )
    calibration = found["metrics"]["all"].get("calibration")
    low, high = settings.gate_calibration
    if calibration is None or not low <= calibration <= high:
        text = "none (no clicks)" if calibration is None else f"{calibration:.2f}"
        return Verdict(False, f"{challenger}: calibration on {date} expected within [{low}, {high}], found {text}")
    if champion:
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
        reason = f"passed the gate: {text}, calibration {calibration:.2f}"
    else:
        reason = f"first to serve; calibration {calibration:.2f} on {date}"
    store.set_alias("serving", challenger, reason)
    return Verdict(True, reason)
