"""What rounding of vectors costs in GAUC and saves in bytes: snapshots, and a bundle's tables.

An A-CTR of the world `daily` with three snapshots, trained once, in float32. Its merged tables are
made anew of rounded snapshots, and it is exported with rounded tables. All score the same three
days of natural content: 48,000 impressions a day, a dozen of each user; a day of ads has too few of
a user to show what rounding does.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.common import RESULTS, ROOT, Row, report
from ecdctr.config import Config, load_config
from ecdctr.evaluation.metrics import gauc
from ecdctr.examples.batches import encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import Prepared, prepare
from ecdctr.examples.vocabulary import normalized
from ecdctr.files.rounding import Precision
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.restore import load_network, trained_config
from ecdctr.levels.tpm import train_tpm
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.transfer import load_dense
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
    config = load_config(ROOT / "configs" / "daily.yaml")
    simulate(load_world("daily").settings, config.seed, FOLDER / "data")
    places = {"root": str(FOLDER / "data"), "prepared": str(FOLDER / "prepared")}
    return config.with_overlay({"data": places, "cpm": {"first_window_days": 14}}, "benchmark")


def trained(config: Config, store: Store) -> Ref:
    """Train three TPM versions four weeks apart, CPM and A-CTR; returns the last."""
    for back in (57, 29, 1):  # the newest is known the day before
        train_tpm(Request(config, store, DATE - dt.timedelta(days=back)))
    train_cpm(Request(config, store, DATE))
    return train_actr(Request(config, store, DATE)).manifest.ref


def with_rounded_snapshots(store: Store, ref: Ref, precision: Precision) -> tuple[CtrNet, int]:
    """Return A-CTR with the snapshots as they would have been stored, and their bytes."""
    network, _, vocabularies = load_network(store, ref)
    assert isinstance(network, CtrNet)
    settings_of = trained_config(store.manifest(ref)).snapshots
    folders = []
    for text in store.manifest(ref).parents["tpm"]:
        tpm, _, of_tpm = load_network(store, Ref.parse(text))
        folders.append(FOLDER / "snapshots" / precision / text.replace("/", "-"))
        shutil.rmtree(folders[-1], ignore_errors=True)
        folders[-1].mkdir(parents=True)
        checkpoint.save_snapshot(tpm, of_tpm, folders[-1], precision)
    entities = {
        side: EntitySnapshots(
            *checkpoint.align_snapshots(folders, side, vocabularies[name]), settings_of
        )
        for side, name in checkpoint.SIDES.items()
    }
    network.snapshots = nn.ModuleDict(entities)
    load_dense(network, checkpoint.load(store.path(ref)).dense)
    network.merge_snapshots()
    size = sum(path.stat().st_size for one in folders for path in one.glob("snapshot/*"))
    return network.eval(), size


def judge(days: list[Prepared], score: Callable[[Prepared], NDArray[np.float32]]) -> list[float]:
    """Return the GAUC of each day."""
    gaucs = []
    for day in days:
        table = pq.read_table(day.path, columns=["user_id", "click"], partitioning=None)
        users = normalized(table.column("user_id")).dictionary_encode().indices.to_numpy()
        labels = table.column("click").to_numpy().astype(np.float32)
        gaucs.append(gauc(users.astype(np.int64), labels, score(day)))
    return gaucs


def by_network(network: CtrNet, store: Store, ref: Ref) -> Callable[[Prepared], Any]:
    """Return what scores a day with a network."""
    _, inputs, vocabularies = load_network(store, ref)

    def score(day: Prepared) -> Any:
        with torch.inference_mode():
            parts = [
                torch.sigmoid(network(encode(table, inputs, vocabularies)))
                for table in read_chunks([Part(day.path, "ads")], None, 8192)
            ]
        return torch.cat(parts).numpy()

    return score


def by_bundle(bundle: Path) -> Callable[[Prepared], Any]:
    """Return what scores a day with a bundle."""
    scorer, target = Scorer(bundle), FOLDER / "scores.parquet"

    def score(day: Prepared) -> Any:
        score_parquet(scorer, day.path, target)
        return pq.read_table(target).column("probability").to_numpy()

    return score


def rows(what: str, judged: dict[Precision, Judged]) -> list[Row]:
    """Compare each form with float32."""
    base, compared = judged["float32"], []
    for precision, one in judged.items():
        worst = max(abs(a - b) for a, b in zip(one.gaucs, base.gaucs, strict=True))
        ours = f"{one.size / 1e6:.2f} MB, GAUC of a day differs by {worst:.5f} at most"
        theirs = f"float32: {base.size / 1e6:.2f} MB, GAUC {np.mean(base.gaucs):.4f}"
        compared.append(
            Row(f"{what} in {precision}", f"{WITHIN}", ours, theirs, WITHIN / max(worst, 1e-9), 1)
        )
    return compared


def main() -> None:
    """Train, round, judge."""
    config, store = settings(), Store(FOLDER / "store")
    ref = trained(config, store)
    days = prepare(config, "natural", [DATE + dt.timedelta(days=n) for n in (1, 2, 3)])
    snapshots: dict[Precision, Judged] = {}
    tables: dict[Precision, Judged] = {}
    for precision in get_args(Precision):
        network, size = with_rounded_snapshots(store, ref, precision)
        snapshots[precision] = Judged(size, judge(days, by_network(network, store, ref)))
        bundle = FOLDER / "bundle"
        shutil.rmtree(bundle, ignore_errors=True)
        export_bundle(store, ref, bundle, precision)
        size = sum(p.stat().st_size for p in bundle.glob("tables/*") if "keys" not in p.name)
        tables[precision] = Judged(size, judge(days, by_bundle(bundle)))
    report("precision", [*rows("snapshots", snapshots), *rows("served tables", tables)])


if __name__ == "__main__":
    main()
