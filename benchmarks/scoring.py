"""200 candidates for one user on one thread.

The served bundle's p99, and what merging the snapshot tables is worth.
"""

from __future__ import annotations

import datetime as dt
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import RESULTS, Row, alternate, report
from benchmarks.preparation import settings
from ecdctr.config import Config
from ecdctr.examples.batches import Inputs, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.parents import load_snapshots
from ecdctr.levels.request import Request, SnapshotSets
from ecdctr.levels.restore import load_network
from ecdctr.levels.tpm import train_tpm
from ecdctr.models.network import CtrNet
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store

CANDIDATES, REQUESTS = 200, 3000


def trained(config: Config, day: dt.date) -> tuple[Store, Ref]:
    """Return A-CTR with two snapshots, and its CPM."""
    store = Store(RESULTS / "store")
    for back in (13, 6):
        train_tpm(Request(config, store, day - dt.timedelta(days=back)))
    train_cpm(Request(config, store, day))
    return store, train_actr(Request(config, store, day)).manifest.ref


def requests(config: Config, day: dt.date) -> list[dict[str, Any]]:
    """Users of the day with their histories, and candidates that were shown that day."""
    table = next(
        read_chunks([Part(prepare(config, "ads", [day])[0].path, "ads")], None, 100_000)
    ).to_pylist()
    rng = np.random.default_rng(1)
    user_features = [f.name for f in config.features if f.side == "user"]
    made = []
    for row in (table[i] for i in rng.integers(0, len(table), 200)):
        candidates = []
        for shown in (table[i] for i in rng.integers(0, len(table), CANDIDATES)):
            features = {f.name: shown[f.name] for f in config.features if f.side == "item"}
            features["price"] = float(np.expm1(features["price"]))  # raw, as a server has it
            counts = {"item_impressions": 20, "item_clicks": 2}
            candidates.append({"item_id": shown["item_id"], **features, **counts})
        at = row["ts"].timestamp()
        clicks = zip(row["history"], row["history_ts"], strict=True)
        made.append(
            {
                "user_id": row["user_id"],
                "ts": at,
                "user": {
                    **{name: row[name] for name in user_features},
                    "user_impressions": 20,
                    "user_clicks": 2,
                },
                "context": {"slot": row["slot"]},
                "history": [{"item_id": item, "ts": then.timestamp()} for item, then in clicks],
                "candidates": candidates,
            }
        )
    return made


def unmerged(config: Config, store: Store, ref: Ref, day: dt.date) -> tuple[CtrNet, CtrNet, Any]:
    """Return the same CPM with its K tables and with one merged table, and 200 rows to score."""
    merged, inputs, vocabularies = load_network(store, ref)
    rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
    refs = tuple(Ref.parse(text) for text in store.manifest(ref).parents["tpm"])
    snapshots, request = SnapshotSets((refs,)), Request(config, store, day)
    model = CtrNet(
        config, inputs, rows, config.seed, load_snapshots(request, snapshots, vocabularies)
    ).eval()
    path = prepare(config, "ads", [day])[0].path
    table = next(read_chunks([Part(path, "ads")], None, 100_000)).slice(0, CANDIDATES)
    assert isinstance(merged, CtrNet)
    assert isinstance(inputs, Inputs)
    return model, merged, encode(table, inputs, vocabularies)


def bundled() -> tuple[Path, Config, dt.date]:
    """Return the bundle of an A-CTR with two snapshots, and what it was trained with."""
    config, day = settings()
    update = {"point_in_time": False, "stride_days": 7, "count": 2}
    snapshots = config.snapshots.model_copy(update=update)
    config = config.model_copy(update={"snapshots": snapshots})
    store, ref = trained(config, day)
    bundle = RESULTS / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    export_bundle(store, ref, bundle)
    return bundle, config, day


def main() -> None:
    """Export, warm up, time every request alone."""
    bundle, config, day = bundled()
    store, ref = trained(config, day)
    scorer, made = Scorer(bundle), requests(config, day)
    for request in made:
        scorer.score(request)
    seconds = []
    for i in range(REQUESTS):
        began = time.perf_counter()
        scorer.score(made[i % len(made)])
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    torch.set_num_threads(1)
    model, merged, batch = unmerged(config, store, ref, day)
    with torch.inference_mode():
        timings = alternate(
            {"merged": lambda: merged(batch), "unmerged": lambda: model(batch)}, 200
        )
    ratio = timings["unmerged"].median / timings["merged"].median
    rows = [
        Row(
            "200 candidates, one request",
            "2 ms at p99",
            f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
            "2 ms",
            2 / p99,
            1,
        ),
        Row(
            "forward pass in torch",
            "unmerged tables",
            str(timings["merged"]),
            str(timings["unmerged"]),
            ratio,
        ),
    ]
    report("scoring", rows)


if __name__ == "__main__":
    main()
