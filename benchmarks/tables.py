"""A bundle with many ids: exported, loaded and scored from tables that are mapped into memory.

The A-CTR of the scoring benchmark, its users extended by made-up ids until ECDCTR_BENCH_IDS (100
million) are there; their vectors are drawn at random. The requests' users are drawn from all of
them.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from benchmarks.common import RESULTS, Row, report
from benchmarks.scoring import bundled, requests, trained
from ecdctr.config import Config
from ecdctr.files.rounding import Precision
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store

IDS = int(os.environ.get("ECDCTR_BENCH_IDS", "100000000"))
FIRST = 1_000_000_007  # of the made-up ids, beyond those of the world
REQUESTS = 3000
CHUNK = 5_000_000


def extend_users(folder: Path, count: int) -> None:
    """Give a version's users `count` rows in all; its files are replaced."""
    path = folder / "vocabulary" / "user_id.parquet"
    ids = pq.read_table(path, partitioning=None)["id"].to_numpy()
    more = FIRST + np.arange(count - len(ids), dtype=np.int64) * 3
    table = {"id": np.concatenate([ids, more]), "row": np.arange(1, count + 1)}
    pq.write_table(pa.table(table), path, compression="zstd")
    for name, key in (("embeddings", "user_id"), ("merged", "user")):
        tensors = load_file(folder / f"{name}.safetensors")
        old = tensors[key]
        whole = torch.empty(count + 1, old.shape[1])
        whole[: len(old)] = old
        for part in whole[len(old) :].split(CHUNK):
            part.normal_(std=0.05)
        save_file(tensors | {key: whole}, folder / f"{name}.safetensors")


def enlarged(config: Config, store: Store, ref: Ref) -> tuple[Store, Ref]:
    """Return a store with the version alone, its users extended."""
    root = RESULTS / "many-ids"
    shutil.rmtree(root, ignore_errors=True)
    target = Store(root)
    with target.staging() as folder:
        for name in store.manifest(ref).files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(store.path(ref) / name, folder / name)
        extend_users(folder, IDS)
        return target, target.publish(folder, store.manifest(ref)).ref


def main(precision: Precision = "int8") -> None:
    """Export, load with cold pages, score."""
    _, config, day = bundled()
    store, ref = enlarged(config, *trained(config, day))
    bundle = RESULTS / "many-ids-bundle"
    shutil.rmtree(bundle, ignore_errors=True)
    began = time.perf_counter()
    export_bundle(store, ref, bundle, precision)
    exporting = time.perf_counter() - began
    shutil.rmtree(store.root)
    drop_pages(bundle)
    began = time.perf_counter()
    scorer = Scorer(bundle)
    loading = time.perf_counter() - began
    rng = np.random.default_rng(1)
    made = requests(config, day)
    seconds = []
    for i in range(REQUESTS):
        user = FIRST + 3 * int(rng.integers(IDS // 2))
        request = made[i % len(made)] | {"user_id": user}
        began = time.perf_counter()
        scorer.score(request)
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.quantile(seconds, [0.5, 0.99]) * 1000
    size = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    name = f"{IDS:,} ids, {precision}, {size / 1e9:.1f} GB"
    report(
        "tables",
        [
            Row(name, "–", f"exported in {exporting:.0f} s", "–", float("nan")),
            Row(name, "2 s", f"loaded in {loading:.2f} s, pages cold", "2 s", 2 / loading, 1),
            Row(
                f"{name}: 200 candidates",
                "2 ms at p99",
                f"p50 {p50:.2f} ms, p99 {p99:.2f} ms",
                "2 ms",
                2 / p99,
                1,
            ),
        ],
    )


def drop_pages(folder: Path) -> None:
    """Have the kernel forget what it holds of a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(*cast(list[Precision], sys.argv[1:]))  # float32, float16 or int8
