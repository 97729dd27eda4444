"""What training reads of a past day is, number for number, what serving gave on that day.

All inputs at once: ids, numbers, counts, memory, click histories with their features, snapshots.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecdctr.config import Config
from ecdctr.examples.batches import Batch, Inputs, encode
from ecdctr.examples.chunks import read_chunks
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.levels import train
from ecdctr.levels.actr import Actr
from ecdctr.levels.reading import training_parts
from ecdctr.levels.request import Request
from ecdctr.levels.run import build, gather
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.store import Store
from ecdctr.training.workers import Workers
from tests.conftest import DATE
from tests.serving.logged import logged_requests

DAY = dt.timedelta(days=1)
SERVED = DATE - 2 * DAY  # the day whose impressions are compared
FEATURED = {
    "memory": {"enabled": True, "windows": [3, 10], "max_pairs": 50},
    "data": {"history_features": ["category"], "history_days": 9},
    # aggregated by no weights, which would be others on another day
    "snapshots": {"aggregation": "concat", "count": 2, "stride_days": 7},
}


@pytest.fixture(scope="module")
def featured(config: Config) -> Config:
    return config.with_overlay(FEATURED, "test")


@pytest.fixture(scope="module")
def store(featured: Config, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three weekly TPMs, the last after the day that is served, CPM and A-CTR of the eve."""
    store, eve = Store(tmp_path_factory.mktemp("store")), SERVED - DAY
    for date in (eve - 7 * DAY, eve):
        train("tpm", Request(featured, store, date))
    for level in ("cpm", "actr"):
        train(level, Request(featured, store, eve))
    train("tpm", Request(featured, store, DATE))  # has seen the day's labels
    train("cpm", Request(featured, store, DATE))
    return store


class Read:
    """The inputs of the day's impressions as a later training reads them."""

    def __init__(self, config: Config, store: Store) -> None:
        steps, workers = Actr(Request(config, store, DATE)), Workers()
        gathered = gather(steps, workers)
        built = build(steps, gathered)
        parts = training_parts(config, gathered.days, gathered.plan.snapshots)
        path = gathered.days["ads", SERVED].path
        (part,) = (part for part in parts if part.path == path)
        assert len(gathered.plan.snapshots.sets) > 1
        self.inputs: Inputs = built.inputs
        self.vocabularies: dict[str, Vocabulary] = built.vocabularies
        (self.table,) = read_chunks([part], built.inputs.columns, 1_000_000)
        self.batch: Batch = encode(self.table, built.inputs, built.vocabularies)
        with torch.no_grad():
            self.snapshots = [
                built.start.model.snapshots[side](self.batch.ids[:, n], self.batch.snapshots)
                for n, side in enumerate(("user", "item"))
            ]


def ids_of(vocabulary: Vocabulary, rows: np.ndarray) -> list[Any]:
    return [vocabulary.values[int(row) - 1].as_py() if row else None for row in rows]


def test_training_reads_of_a_past_day_what_a_server_was_given_on_that_day(
    featured: Config, store: Store, tmp_path: Path
) -> None:
    (served,) = store.versions("production", "actr")
    export_bundle(store, served, tmp_path / "bundle")
    scorer, read = Scorer(tmp_path / "bundle"), Read(featured, store)
    requests = logged_requests(featured, SERVED)
    assert len(requests) == len(read.batch) > 100
    given = [scorer.encode(request) for request in requests]
    arrays = {name: np.concatenate([one[name] for one in given]) for name in given[0]}

    numbers = read.batch.numeric.numpy()
    names = list(scorer.description["numeric"])
    assert names == list(read.inputs.numeric)
    assert len([name for name in names if name.startswith("memory_")]) > 20
    worst = np.abs(arrays["numeric"] - numbers).max(0)
    assert dict(zip(names, worst, strict=True)) == pytest.approx(dict.fromkeys(names, 0), abs=2e-6)
    assert np.array_equal(arrays["gaps"], read.batch.gaps.numpy())

    columns = zip(read.inputs.fields, arrays["ids"].T, read.batch.ids.numpy().T, strict=True)
    clicked = zip(
        read.inputs.history_fields,
        np.split(arrays["history"], 2, axis=1),
        np.split(read.batch.history.numpy(), 2, axis=1),
        strict=True,
    )
    pairs = [*columns, *((name, one.ravel(), other.ravel()) for name, one, other in clicked)]
    for name, of_bundle, of_training in pairs:
        table, vocabulary = scorer.tables[name].ids, read.vocabularies[name]
        trained = ids_of(vocabulary, of_training)
        answered = [table.id_of(int(row)) if row else None for row in of_bundle]
        new = {one for one in trained if one is not None and not table.lookup([one])[0]}
        assert answered == [None if one in new else one for one in trained], name

    start = sum(scorer.description["tables"]["parts"][:-1])
    for n, (name, snapshots) in enumerate(zip(("user_id", "item_id"), read.snapshots, strict=True)):
        vectors = np.zeros((len(requests), scorer.layout.width), np.float32)
        scorer.tables[name].vectors.take(arrays["ids"][:, n], vectors)
        assert np.array_equal(vectors[:, start : start + snapshots.shape[1]], snapshots.numpy())
        assert np.abs(vectors[:, start:]).sum(1).astype(bool).mean() > 0.3
