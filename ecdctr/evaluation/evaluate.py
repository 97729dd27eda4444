"""Progressive validation: a version that read days ≤ d, scored on a later day, whole and per cohort."""

from __future__ import annotations

import datetime as dt
import json
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from ecdctr.config import Config, Domain
from ecdctr.errors import StoreError, TrainingError
from ecdctr.evaluation.metrics import UserAuc, all_metrics, user_auc
from ecdctr.examples.batches import Part, encode, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import normalized
from ecdctr.files import durable
from ecdctr.levels.restore import load_network
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store

COHORTS = ("new_users", "new_items", "low_activity")


class Scored(NamedTuple):
    """Examples of an evaluation day with predictions; users are codes, equal for equal ids on one day's data."""

    users: NDArray[np.int64]
    labels: NDArray[np.float32]
    scores: NDArray[np.float32]
    oracle: NDArray[np.float32]
    user_seen: NDArray[np.int64]
    item_seen: NDArray[np.int64]


class Evaluation(NamedTuple):
    """A stored evaluation: metrics by cohort ('all', 'oracle', …) and the AUC of each user."""

    ref: Ref
    date: dt.date
    metrics: dict[str, dict[str, float]]
    users: UserAuc


def score(config: Config, store: Store, ref: Ref, domain: Domain, date: dt.date) -> Scored:
    """Score a day's impressions with a version; raises StoreError if the version has read that day (leakage)."""
    if ref.date >= date:
        raise StoreError(
            f"{ref} has read data up to {ref.date}; evaluating it on {date} would be leakage."
        )
    day = prepare(config, domain, [date])
    if not day:
        raise StoreError(f"No {domain} impressions on {date} to evaluate {ref} on.")
    model, inputs, vocabularies = load_network(store, ref)
    torch.set_num_threads(config.actr.threads)
    parts: list[tuple[NDArray, ...]] = []
    ids: list[pa.Array] = []
    with torch.inference_mode():
        for table in read_chunks([Part(day[0].path, domain)], None, config.actr.chunk_rows):
            batch = encode(table, inputs, vocabularies)
            scores = [
                torch.sigmoid(model(batch.take(slice(i, i + config.evaluation.batch_size))))
                for i in range(0, len(batch), config.evaluation.batch_size)
            ]
            columns = [
                table.column(name).to_numpy() for name in ("oracle_ctr", "user_seen", "item_seen")
            ]
            ids.append(normalized(table.column("user_id")))
            parts.append((batch.label.numpy(), torch.cat(scores).numpy(), *columns))
    labels, scored, oracle, user_seen, item_seen = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    if not np.isfinite(scored).all():
        raise TrainingError(
            f"{ref} predicts values that are not finite numbers on {date}; do not serve it."
        )
    codes = pa.concat_arrays(ids).dictionary_encode().indices.to_numpy().astype(np.int64)
    return Scored(codes, labels, scored, oracle, user_seen, item_seen)


def evaluate(config: Config, store: Store, ref: Ref, date: dt.date) -> Evaluation:
    """Evaluate a version on a day and store the result beside the versions; an earlier result is replaced."""
    domain: Domain = "ads" if ref.level == "actr" else "natural"
    scored = score(config, store, ref, domain, date)
    metrics = {"all": all_metrics(scored.users, scored.labels, scored.scores)}
    cohorts = {
        "new_users": scored.user_seen == 0,
        "new_items": scored.item_seen == 0,
        "low_activity": scored.user_seen < config.evaluation.low_activity_below,
    }
    for name, mask in cohorts.items():
        metrics[name] = all_metrics(scored.users[mask], scored.labels[mask], scored.scores[mask])
    if np.isfinite(scored.oracle.astype(np.float64)).all():
        metrics["oracle"] = all_metrics(scored.users, scored.labels, scored.oracle)
    result = Evaluation(ref, date, metrics, user_auc(scored.users, scored.labels, scored.scores))
    _save(store, result, scored, config.evaluation.low_activity_below)
    return result


def calibration_curve(
    labels: NDArray[np.float32], scores: NDArray[np.float32], bins: int = 10
) -> list[list[float]]:
    """Mean prediction and observed CTR in bins of equal size, lowest predictions first."""
    groups = np.array_split(np.argsort(scores, kind="stable"), bins)
    return [[float(scores[g].mean()), float(labels[g].mean())] for g in groups if len(g)]


def _save(store: Store, result: Evaluation, scored: Scored, low_activity_below: int) -> None:
    content = {
        "ref": str(result.ref),
        "date": str(result.date),
        "low_activity_below": low_activity_below,
        "metrics": result.metrics,
        "calibration_curve": calibration_curve(scored.labels, scored.scores),
        "score_spread": float(scored.scores.std(dtype=np.float64)),
    }
    with store.staging() as folder:
        users = result.users
        table = pa.table({"user": users.users, "auc": users.auc, "impressions": users.impressions})
        pq.write_table(table, folder / "users.parquet")
        durable.write_bytes(folder / "evaluation.json", json.dumps(content, indent=1).encode())
        store.save_evaluation(folder, result.ref, result.date)
