"""Return expected GAUC and LogLoss (nats), and the sizes behind them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ecdctr.evaluation.expected import expected_metrics, expected_user_auc
from ecdctr.evaluation.gains import gains
from ecdctr.evaluation.metrics import log_loss


def by_pairs(chances: np.ndarray, scores: np.ndarray) -> float:
    """Return the definition, pair by pair."""
    won = total = 0.0
    for i, j in itertools.permutations(range(len(chances)), 2):
        weight = chances[i] * (1 - chances[j])
        total += weight
        won += weight * ((scores[i] > scores[j]) + 0.5 * (scores[i] == scores[j]))
    return won / total


@pytest.mark.parametrize("seed", range(5))
def test_expected_auc_is_the_mean_over_pairs_of_impressions(seed):
    rng = np.random.default_rng(seed)
    users = rng.integers(0, 6, 60)
    chances = rng.uniform(0.02, 0.6, 60)
    scores = np.round(rng.uniform(size=60), 1)  # with ties
    computed = expected_user_auc(users, chances, scores)
    pairwise = [by_pairs(chances[users == u], scores[users == u]) for u in computed.users]
    assert computed.auc == pytest.approx(pairwise)
    assert list(computed.impressions) == [int((users == u).sum()) for u in computed.users]


def test_known_clicks_give_the_drawn_auc_and_constant_scores_one_half():
    users, labels = np.zeros(4, np.int64), np.array([1.0, 0.0, 1.0, 0.0])
    perfect = expected_user_auc(users, labels, np.array([0.9, 0.1, 0.8, 0.2]))
    assert perfect.mean == 1.0
    assert expected_user_auc(users, labels, np.full(4, 0.3)).mean == 0.5


def test_users_with_one_impression_judge_nothing():
    computed = expected_user_auc(np.array([0, 1, 1]), np.full(3, 0.3), np.array([0.1, 0.2, 0.3]))
    assert list(computed.users) == [1]
    empty = np.array([], dtype=np.int64)
    assert len(expected_user_auc(empty, empty.astype(float), empty.astype(float)).users) == 0


def test_expected_log_loss_is_least_for_the_true_probabilities():
    rng = np.random.default_rng(1)
    users, chances = rng.integers(0, 50, 2000), rng.uniform(0.02, 0.6, 2000)

    def judged(scores):
        return expected_metrics(expected_user_auc(users, chances, scores), chances, scores)

    true, other = judged(chances), judged(np.clip(chances * 1.2, 0, 1))
    assert true["expected_log_loss"] < other["expected_log_loss"]
    drawn = [log_loss((rng.random(2000) < chances).astype(float), chances) for _ in range(200)]
    assert true["expected_log_loss"] == pytest.approx(np.mean(drawn), abs=0.003)
    assert "expected_log_loss" not in judged(chances * 10)


def test_the_error_of_a_difference_is_that_of_repetitions():
    rng = np.random.default_rng(2)
    pairs = []
    for _ in range(300):
        weights = rng.integers(5, 30, 200)
        first = rng.normal(0.61, 0.1, 200)
        second = rng.normal(0.60, 0.1, 200)
        one = gains(
            {u: (first[u] * weights[u], int(weights[u])) for u in range(200)},
            {u: (second[u] * weights[u], int(weights[u])) for u in range(200)},
        )
        pairs.append((one.difference, one.error))
    differences, errors = np.array(pairs).T
    assert differences.mean() == pytest.approx(0.01, abs=0.003)
    assert errors.mean() == pytest.approx(differences.std(), rel=0.15)
