"""Metrics against scikit-learn and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.evaluation.metrics import all_metrics, auc, gauc, log_loss

ROWS = st.lists(
    st.tuples(
        st.integers(0, 4) | st.sampled_from([10**15, 2**62, -(2**63)]),  # users of any number
        st.integers(0, 1),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=60,
)


def brute_gauc(users, labels, scores):
    total = weight = 0.0
    for user in set(users):
        rows = [i for i, u in enumerate(users) if u == user]
        positive = [scores[i] for i in rows if labels[i] == 1]
        negative = [scores[i] for i in rows if labels[i] == 0]
        if positive and negative:
            wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
            total += len(rows) * wins / (len(positive) * len(negative))
            weight += len(rows)
    return total / weight if weight else float("nan")


@given(ROWS)
def test_gauc_equals_brute_force_with_ties(rows):
    users, labels, scores = (np.array(column) for column in zip(*rows, strict=True))
    expected = brute_gauc(users.tolist(), labels.tolist(), scores.tolist())
    computed = gauc(users, labels.astype(np.float32), scores.astype(np.float32))
    assert computed == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_where_there_is_one_label_there_is_no_gauc(label):
    labels, scores = np.full(3, label, np.float32), np.full(3, 0.5, np.float32)
    assert "gauc" not in all_metrics(np.zeros(3, np.int64), labels, scores)


def test_auc_and_log_loss_equal_scikit_learn():
    from sklearn import metrics  # here: every worker loads this module, and one runs it

    rng = np.random.default_rng(0)
    labels, scores = rng.integers(0, 2, 5000).astype(np.float32), rng.random(5000).round(2)
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores), abs=1e-12)
    assert log_loss(labels, scores) == pytest.approx(
        metrics.log_loss(labels, np.clip(scores, 1e-7, 1 - 1e-7)), abs=1e-9
    )


def test_a_model_that_knows_only_the_base_rate_has_normalized_entropy_and_calibration_one():
    labels = np.array([1, 0, 0, 0], np.float32)
    metrics = all_metrics(np.zeros(4, np.int64), labels, np.full(4, 0.25, np.float32))
    assert metrics["normalized_entropy"] == pytest.approx(1.0)
    assert metrics["calibration"] == pytest.approx(1.0)


def test_gauc_of_a_cohort_says_how_many_users_are_behind_it():
    users = np.array([1, 1, 2, 2, 3], np.int64)
    labels = np.array([1, 0, 1, 1, 0], np.float32)
    metrics = all_metrics(users, labels, np.array([0.9, 0.1, 0.5, 0.5, 0.2], np.float32))
    assert (metrics["gauc"], metrics["gauc_users"]) == (1.0, 1.0)
    none = all_metrics(users[2:], labels[2:], np.full(3, 0.5, np.float32))
    assert "gauc" not in none
    assert none["gauc_users"] == 0.0
