"""Guards of speed: ratios measured in one run on this machine, never seconds.

A failure prints the table. The limits are far below what docs/performance.md reports, so that only
a real loss fails, not a busy machine.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from ecdctr.config import Tpm
from ecdctr.evaluation.metrics import gauc
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models.attention import TargetAttention
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.training.optimizers import Optimizers


class Guard(NamedTuple):
    """What is compared: theirs must take at least `least` times as long as ours."""

    name: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    least: float
    repeats: int


def ratio(guard: Guard) -> float:
    """Best of several runs in turns, in seconds of the processor: other work only ever adds."""
    best = [float("inf"), float("inf")]
    for _ in range(guard.repeats):
        for i, function in enumerate((guard.ours, guard.theirs)):
            began = time.process_time()
            function()
            best[i] = min(best[i], time.process_time() - began)
    return best[1] / best[0]


def user_auc_guard() -> Guard:
    from sklearn.metrics import roc_auc_score  # here: every worker loads this module

    rng = np.random.default_rng(1)
    users = np.sort(rng.integers(0, 50, 1000))
    scores, labels = rng.random(1000), (rng.random(1000) < 0.4).astype(np.float32)
    bounds = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1], [True]]))

    def one_by_one() -> None:
        for start, end in itertools.pairwise(bounds):
            if 0 < labels[start:end].mean() < 1:
                roc_auc_score(labels[start:end], scores[start:end])

    return Guard(
        "GAUC against scikit-learn per user",
        lambda: gauc(users, labels, scores),
        one_by_one,
        least=40,
        repeats=12,
    )


class Tables(nn.Module):
    """Three fields in one table under a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = FieldEmbeddings(
            {"user_id": 50_000, "item_id": 10_000, "other": 100}, 16, 1
        )
        self.out = nn.Linear(16, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        (vectors,) = self.embeddings(rows)
        return self.out(vectors.sum(1)).squeeze(1)


def rows_guard() -> Guard:
    model = Tables().train()
    optimizers = Optimizers(model, Tpm())
    table = nn.Parameter(torch.randn(60_100, 16))
    peer = torch.optim.SparseAdam([table])
    rows = (torch.rand(1024, 24) ** 2 * 60_000).long()

    def theirs() -> None:
        peer.zero_grad()
        nn.functional.embedding(rows, table, sparse=True).sum().backward()
        peer.step()

    return Guard(
        "rows of a step against SparseAdam",
        lambda: optimizers.step(model(rows).sum(), optimizers.begin()),
        theirs,
        least=1,
        repeats=40,
    )


def attention_guard() -> Guard:
    attention = TargetAttention(16, heads=2)
    plain = nn.MultiheadAttention(16, 2, batch_first=True)
    target, history = (
        torch.randn(1024, 16, requires_grad=True),
        torch.randn(1024, 20, 16, requires_grad=True),
    )
    gaps, mask = torch.randint(0, 30, (1024, 20)), torch.rand(1024, 20) > 0.2
    mask[:, 0] = True

    def theirs() -> None:
        clicks = history + attention.gap[gaps]
        plain(target[:, None], clicks, clicks, key_padding_mask=~mask)[0].sum().backward()

    def ours() -> None:
        attention(target, history, gaps, mask).sum().backward()

    return Guard(
        "attention against torch's own with gaps added to the clicks",
        ours,
        theirs,
        least=1.3,
        repeats=40,
    )


def lookup_guard() -> Guard:
    ids = np.random.default_rng(1).integers(-(2**62), 2**62, 20_000)
    vocabulary = Vocabulary(pa.array(ids))
    asked = pa.array(np.random.default_rng(2).choice(ids, 400_000))
    rows = {value: row for row, value in enumerate(ids.tolist(), 1)}
    return Guard(
        "hashed ids against a dictionary",
        lambda: vocabulary.lookup(asked),
        lambda: np.array([rows.get(value, 0) for value in asked.to_pylist()]),
        least=3,
        repeats=12,
    )


def test_what_was_made_fast_is_still_fast():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        guards = [user_auc_guard(), rows_guard(), attention_guard(), lookup_guard()]
        measured = [(guard.name, ratio(guard), guard.least) for guard in guards]
    finally:
        torch.set_num_threads(threads)
    table = "\n".join(
        f"{name:<62} {times:6.1f} times, at least {least}" for name, times, least in measured
    )
    print(table)
    assert all(times >= least for _, times, least in measured), f"slower than it was:\n{table}"
