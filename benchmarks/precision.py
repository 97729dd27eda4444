"""What rounding of vectors costs in GAUC and saves in bytes: snapshots, and a bundle's tables.

The demo's world: TPM three times, CPM with a first window of 14 days and A-CTR, once for each form
of the snapshots; then the version of float32 exported in each form. All are judged on the same
days.
"""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pyarrow.parquet as pq

from benchmarks.common import RESULTS, ROOT, Row, report
from ecdctr.config import Config, load_config
from ecdctr.evaluation.metrics import gauc
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import normalized
from ecdctr.files.rounding import Precision
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.serving.batch import score_parquet
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate

FOLDER = RESULTS / "precision"
DATE = dt.date(2026, 4, 27)  # three days are left to judge on
WITHIN = 0.0005


class Judged(NamedTuple):
    """One form: the bytes of what is rounded, and the GAUC of each day."""

    size: int
    gaucs: list[float]


def settings() -> Config:
    """Return the demo's configuration, over a world of its own."""
    config = load_config(ROOT / "configs" / "demo.yaml")
    simulate(load_world("demo").settings, config.seed, FOLDER / "data")
    places = {"root": str(FOLDER / "data"), "prepared": str(FOLDER / "prepared")}
    return config.with_overlay({"data": places, "cpm": {"first_window_days": 14}}, "benchmark")


def chain(config: Config, store: Store, precision: Precision) -> Ref:
    """Train three TPM versions four weeks apart, CPM and A-CTR."""
    config = config.with_overlay({"tpm": {"snapshot_precision": precision}}, "benchmark")
    for back in (57, 29, 1):  # the newest is known the day before the first of CPM's new days
        train_tpm(Request(config, store, DATE - dt.timedelta(days=back), precision))
    train_cpm(Request(config, store, DATE, precision))
    return train_actr(Request(config, store, DATE, precision)).manifest.ref


def judge(config: Config, bundle: Path) -> list[float]:
    """Return the GAUC of a bundle on each of the days after DATE."""
    scorer, found = Scorer(bundle), []
    for day in prepare(config, "ads", [DATE + dt.timedelta(days=n) for n in (1, 2, 3)]):
        score_parquet(scorer, day.path, FOLDER / "scores.parquet")
        labels = pq.read_table(day.path, columns=["click"]).column("click").to_numpy()
        scored = pq.read_table(FOLDER / "scores.parquet")
        users = normalized(scored.column("user_id")).dictionary_encode().indices.to_numpy()
        scores = scored.column("probability").to_numpy()
        found.append(gauc(users.astype(np.int64), labels.astype(np.float32), scores))
    return found


def exported(store: Store, ref: Ref, precision: Precision) -> Path:
    """Return a version's bundle with its tables in a precision."""
    bundle = FOLDER / "bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    export_bundle(store, ref, bundle, precision)
    return bundle


def size_of(folder: Path, pattern: str) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.glob(pattern))


def rows(what: str, judged: dict[Precision, Judged]) -> list[Row]:
    """Compare each form with float32."""
    base, found = judged["float32"], []
    for precision, one in judged.items():
        worst = max(abs(a - b) for a, b in zip(one.gaucs, base.gaucs, strict=True))
        mean = float(np.mean(one.gaucs)) - float(np.mean(base.gaucs))
        found.append(
            Row(
                f"{what} in {precision}",
                f"within {WITHIN}",
                f"{one.size / 1e6:.2f} MB, mean {mean:+.5f}, a day at most {worst:.5f}",
                f"float32: {base.size / 1e6:.2f} MB, GAUC {np.mean(base.gaucs):.4f}",
                base.size / one.size,
            )
        )
    return found


def main() -> None:
    """Train, export, judge."""
    config, store = settings(), Store(FOLDER / "store")
    snapshots: dict[Precision, Judged] = {}
    tables: dict[Precision, Judged] = {}
    for precision in get_args(Precision):
        ref = chain(config, store, precision)
        newest = store.resolve("tpm", DATE, precision)
        assert newest
        size = size_of(store.path(newest), "snapshot/*")
        snapshots[precision] = Judged(size, judge(config, exported(store, ref, "float32")))
    base = store.resolve("actr", DATE, "float32")
    assert base
    for precision in get_args(Precision):
        bundle = exported(store, base, precision)
        vectors = size_of(bundle, "tables/*.vectors.npy") + size_of(bundle, "tables/*.scales.npy")
        tables[precision] = Judged(vectors, judge(config, bundle))
    report("precision", [*rows("snapshots", snapshots), *rows("served tables", tables)])


if __name__ == "__main__":
    main()
