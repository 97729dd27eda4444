"""Progressive validation.

A version that read days ≤ d is scored on a later day, whole and per cohort.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ecdctr.config import LEVEL_DOMAIN, Config, Domain
from ecdctr.errors import ContractError, StoreError, TrainingError
from ecdctr.evaluation.basis import Basis, basis_of, impressions_digest
from ecdctr.evaluation.expected import expected_metrics, expected_user_auc
from ecdctr.evaluation.metrics import all_metrics, losses, user_auc
from ecdctr.examples.batches import Batch, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.held_out import prepare_held_out
from ecdctr.examples.prepare import Prepared, prepare
from ecdctr.examples.vocabulary import normalized
from ecdctr.files import durable
from ecdctr.impressions.reading import one_reading
from ecdctr.levels.other_inputs import refuse_other_preparation
from ecdctr.levels.restore import load_network

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from ecdctr.store.manifest import Ref
    from ecdctr.store.store import Store

CARRIED = ("oracle_ctr", "user_seen", "item_seen")  # columns of the examples beside the label


class Scored(NamedTuple):
    """Examples of an evaluation day with predictions [rows].

    `users` are positions in `ids`, the raw ids [users].
    """

    examples: str  # fingerprint of what was read
    ids: pa.Array
    users: NDArray[np.int64]
    labels: NDArray[np.float32]
    scores: NDArray[np.float32]
    oracle: NDArray[np.float32]
    user_seen: NDArray[np.int64]
    item_seen: NDArray[np.int64]


class Evaluation(NamedTuple):
    """What was found and stored: metrics by cohort ('all', 'oracle', …)."""

    ref: Ref
    date: dt.date
    metrics: dict[str, dict[str, float]]


def score(
    config: Config,
    store: Store,
    ref: Ref,
    domain: Domain,
    date: dt.date,
    held_out: Prepared | None = None,
) -> Scored:
    """Score a day's impressions with a version, or held-out ones of that day.

    Raises StoreError if the version has read that day (leakage), ConfigError if it reads what the
    configuration prepares otherwise, ContractError if the day is not there.
    """
    if ref.date >= date:
        raise StoreError(
            f"{ref} has read data up to {ref.date}; evaluating it on {date} would be leakage."
        )
    day = [held_out] if held_out else prepare(config, domain, [date])
    if not day:
        raise ContractError(
            f"No {domain} impressions on {date} to evaluate {ref} on; deliver the day and run the "
            "command again."
        )
    refuse_other_preparation(config, store, ref)
    model, inputs, vocabularies = load_network(store, ref)
    torch.set_num_threads(config.actr.threads)
    parts: list[tuple[NDArray[Any], ...]] = []
    ids: list[pa.Array] = []
    for table in read_chunks([Part(day[0].path, domain)], None, config.actr.chunk_rows):
        batch = encode(table, inputs, vocabularies)
        columns = [table.column(name).to_numpy() for name in CARRIED]
        ids.append(normalized(table.column("user_id")))
        scores = _predicted(model, batch, config.evaluation.batch_size)
        parts.append((batch.label.numpy(), scores, *columns))
    labels, scored, oracle, user_seen, item_seen = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    if not np.isfinite(scored).all():
        raise TrainingError(
            f"{ref} predicts values that are not finite numbers on {date}; do not serve it."
        )
    encoded = pa.concat_arrays(ids).dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    return Scored(
        day[0].fingerprint, encoded.dictionary, codes, labels, scored, oracle, user_seen, item_seen
    )


@torch.inference_mode()
def _predicted(model: nn.Module, batch: Batch, at_once: int) -> NDArray[np.float32]:
    """Return the probabilities of a batch [B], of so many rows at a time."""
    starts = range(0, len(batch), at_once)
    scores = [torch.sigmoid(model(batch.take(slice(i, i + at_once)))) for i in starts]
    predicted: NDArray[np.float32] = torch.cat(scores).numpy()
    return predicted


@one_reading()
def evaluate(config: Config, store: Store, ref: Ref, date: dt.date) -> Evaluation:
    """Evaluate a version on a day and store the result beside the versions.

    An earlier result is replaced. On a simulated world's held-out ads A-CTR is judged by true
    probabilities besides. Raises as `score` does.
    """
    domain = LEVEL_DOMAIN[ref.level]
    with store.in_use():
        scored = score(config, store, ref, domain, date)
        metrics = metrics_by_cohort(config, scored)
        held_out = prepare_held_out(config, date) if domain == "ads" else None
        apart = score(config, store, ref, domain, date, held_out) if held_out else None
        expected = None
        if apart:
            of_scores, expected = expected_of(apart)
            of_oracle, _ = expected_of(apart._replace(scores=apart.oracle))
            metrics["all"] |= of_scores
            metrics["oracle"] |= of_oracle
        basis = basis_of(config, scored.examples, held_out.fingerprint if held_out else None)
        result = Evaluation(ref, date, metrics)
        judged_on = impressions_digest(config, domain, date, scored.examples)
        _save(store, result, scored, expected, basis, judged_on)
    return result


def metrics_by_cohort(config: Config, scored: Scored) -> dict[str, dict[str, float]]:
    """Measure a day's predictions by cohort; 'oracle' where the true probabilities are known."""
    cohorts = {
        "all": np.ones(len(scored.users), dtype=bool),
        "new_users": scored.user_seen == 0,
        "new_items": scored.item_seen == 0,
        "low_activity": scored.user_seen < config.evaluation.low_activity_below,
    }
    metrics = {
        name: all_metrics(scored.users[mask], scored.labels[mask], scored.scores[mask])
        for name, mask in cohorts.items()
    }
    if np.isfinite(scored.oracle.astype(np.float64)).all():
        metrics["oracle"] = all_metrics(scored.users, scored.labels, scored.oracle)
    return metrics


def users_table(scored: Scored) -> pa.Table:
    """Return what each user adds to GAUC and LogLoss.

    User (raw id), impressions, clicks, auc (null without both labels), loss. `loss` is the sum over
    the user's impressions, in nats.
    """
    users, count = scored.users, len(scored.ids)
    judged = user_auc(users, scored.labels, scored.scores)
    auc = np.full(count, np.nan)
    auc[judged.users] = judged.auc
    return pa.table(
        {
            "user": scored.ids,
            "impressions": np.bincount(users, minlength=count),
            "clicks": np.bincount(users, scored.labels, count).astype(np.int64),
            "auc": pa.array(auc, mask=np.isnan(auc)),
            "loss": np.bincount(users, losses(scored.labels, scored.scores), count),
        }
    )


def expected_of(held_out: Scored) -> tuple[dict[str, float], pa.Table]:
    """Judge held-out ads by true probabilities, in one sort.

    Returns the metrics, and the users behind the expected GAUC: user (raw id), impressions, auc.
    """
    judged = expected_user_auc(held_out.users, held_out.oracle, held_out.scores)
    ids = held_out.ids.take(pa.array(judged.users))
    users = pa.table({"user": ids, "impressions": judged.impressions, "auc": judged.auc})
    return expected_metrics(judged, held_out.oracle, held_out.scores), users


def calibration_curve(
    labels: NDArray[np.float32], scores: NDArray[np.float32], bins: int = 10
) -> list[list[float]]:
    """Return [mean prediction, observed CTR] of bins of equal size, lowest predictions first.

    `labels` and `scores` are [n].
    """
    groups = np.array_split(np.argsort(scores, kind="stable"), bins)
    return [[float(scores[g].mean()), float(labels[g].mean())] for g in groups if len(g)]


def _save(
    store: Store,
    result: Evaluation,
    scored: Scored,
    expected: pa.Table | None,
    basis: Basis,
    judged_on: str,
) -> None:
    content = {
        "ref": str(result.ref),
        "date": str(result.date),
        **basis._asdict(),
        "judged_on": judged_on,  # says at once what may be compared
        "metrics": result.metrics,
        "calibration_curve": calibration_curve(scored.labels, scored.scores),
        "score_spread": float(scored.scores.std(dtype=np.float64)),
    }
    with store.staging() as folder:
        pq.write_table(users_table(scored), folder / "users.parquet")
        if expected is not None:
            pq.write_table(expected, folder / "expected.parquet")
        durable.write_bytes(folder / "evaluation.json", json.dumps(content, indent=1).encode())
        store.save_evaluation(folder, result.ref, result.date)
