"""Whatever trains can be exported, and scored by the very ids and values that the log has."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecdctr.config import Config
from ecdctr.levels.actr import train_actr
from ecdctr.levels.request import Request
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.store import Store

DAYS = [dt.date(2026, 1, 1) + dt.timedelta(days=i) for i in range(3)]
SETTINGS: dict[str, Any] = {
    "features": [
        {"name": "shown", "side": "context", "kind": "categorical"},
        {"name": "tags", "side": "item", "kind": "multi_valued", "max_values": 2},
    ],
    "snapshots": {"count": 0},
    "network": {"embedding_dim": 4, "hidden": [8]},
    "actr": {"init": "none", "window_days": 3, "batch_size": 64, "lr_embedding": 0.1},
}
LOGS: dict[str, tuple[list[Any], list[Any], list[Any]]] = {  # users, items, values of a category
    "integers at their ends, a sentinel, booleans": (
        [2**63 - 1 - i for i in range(20)],
        [-1, *(2**53 + i for i in range(6))],
        [True, False],
    ),
    "text with a NUL at its end, text that is empty": (
        [f"u{i}\0" for i in range(10)] + [f"u{i}" for i in range(10)],
        ["a", "a\0", "", "007", "7", "NULL"],
        ["", "é", "é"],
    ),
}


def write_log(root: Path, users: list[Any], items: list[Any], values: list[Any]) -> None:
    """Write three days of both domains; on the last one there is one ad."""
    rng = np.random.default_rng(1)
    for day in DAYS:
        for domain in ("natural", "ads"):
            rows = 1 if domain == "ads" and day == DAYS[-1] else 256
            start = dt.datetime.combine(day, dt.time(), dt.UTC)
            item = rng.integers(0, len(items), rows)
            table = pa.table(
                {
                    "user_id": [users[i] for i in rng.integers(0, len(users), rows)],
                    "item_id": [items[i] for i in item],
                    "ts": pa.array(
                        [start + dt.timedelta(seconds=60 * i) for i in range(rows)],
                        pa.timestamp("us", tz="UTC"),
                    ),
                    "click": pa.array((rng.random(rows) < (item + 1) / 8).astype(np.int8)),
                    "shown": [values[i % len(values)] for i in range(rows)],
                    "tags": [[items[i], items[0]] for i in item],
                }
            )
            folder = root / f"domain={domain}" / f"date={day}"
            folder.mkdir(parents=True)
            pq.write_table(table, folder / "part-0.parquet")


@pytest.mark.parametrize("kind", LOGS)
def test_what_trains_is_exported_and_each_of_its_ids_scores_as_itself(tmp_path, kind):
    users, items, values = LOGS[kind]
    write_log(tmp_path / "log", users, items, values)
    data = {"root": str(tmp_path / "log"), "prepared": str(tmp_path / "prepared")}
    config = Config.model_validate(SETTINGS | {"data": data | {"lookback_days": 2}})
    store = Store(tmp_path / "store")
    ref = train_actr(Request(config, store, DAYS[-1])).manifest.ref
    export_bundle(store, ref, tmp_path / "bundle")
    scorer = Scorer(tmp_path / "bundle")
    moment = int(dt.datetime.combine(DAYS[-1], dt.time(12), dt.UTC).timestamp())
    request = {
        "ts": moment,
        "user_id": users[0],
        "context": {"shown": values[0]},
        "candidates": [{"item_id": item} for item in items],
    }
    scores = scorer.score(request)
    assert np.isfinite(scores).all()
    assert len(set(scores)) == len(items), "two ids would be one"
    unseen = scorer.score(request | {"candidates": [{"item_id": type(items[0])(123)}]})
    assert unseen[0] not in scores
