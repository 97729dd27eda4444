"""How cost and memory grow: CPM's training along each of its own sizes.

Every point is measured in a process of its own on data written before. The exponent is the slope
between the two largest points in logarithms: 1 is linear, and nothing may be worse. Memory is the
process's peak less what it needs to start.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch

from benchmarks.common import MOST, RESULTS, Row, json_of, report, slope
from benchmarks.examples import write_examples
from benchmarks.step import random_snapshots
from ecdctr.config import Config
from ecdctr.examples.batches import Inputs
from ecdctr.examples.chunks import Part
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models.network import CtrNet
from ecdctr.training.loop import Job, fit
from ecdctr.training.process import peak_memory_mb

FOLDER = RESULTS / "growth"


class Size(NamedTuple):
    """A CPM's training."""

    impressions: int = 200_000
    users: int = 20_000
    items: int = 5_000
    features: int = 8
    history: int = 20
    snapshots: int = 3


AXES: dict[str, list[int]] = {
    "impressions": [200_000, 400_000, 800_000, 1_600_000],
    "users": [20_000, 80_000, 320_000, 1_280_000],
    "items": [5_000, 20_000, 80_000, 320_000],
    "features": [8, 16, 32, 64],
    "history": [10, 20, 40, 80],
    "snapshots": [1, 2, 4, 8],
}


def write(size: Size, path: Path) -> None:
    """Random examples of a size, in the prepared form."""
    rng = np.random.default_rng(1)
    rows = size.impressions
    columns: dict[str, object] = {
        "user_id": rng.integers(0, size.users, rows),
        "item_id": (rng.random(rows) ** 2 * size.items).astype(np.int64),
    }
    columns |= {f"field_{k}": rng.integers(0, 100, rows) for k in range(size.features)}
    columns["click"] = (rng.random(rows) < 0.2).astype(np.int8)
    clicked = rng.integers(0, size.items, rows * size.history)
    write_examples(path, columns, clicked, np.full(rows, size.history))


def train(size: Size, path: Path) -> dict[str, float]:
    """Return seconds of one epoch, and MiB above what the process had before it knew the size."""
    torch.zeros(1)
    before = peak_memory_mb()
    fields = ("user_id", "item_id", *(f"field_{k}" for k in range(size.features)))
    inputs = Inputs(fields, (), (), size.history)
    counts = {"user_id": size.users, "item_id": size.items}
    ids = {name: Vocabulary(pa.array(np.arange(counts.get(name, 100)))) for name in fields}
    config = Config.model_validate({"snapshots": {"count": size.snapshots}})
    rows = {name: vocabulary.rows for name, vocabulary in ids.items()}
    model = CtrNet(config, inputs, rows, 1, random_snapshots(rows, size.snapshots))
    done = fit(Job(model, config.cpm, inputs, ids, [Part(path, "natural")], seed=1))
    return {"seconds": done.seconds, "memory": peak_memory_mb() - before}


def point(size: Size) -> dict[str, float]:
    """Return one size in a process of its own."""
    path = FOLDER / "examples.parquet"
    write(size, path)
    return json_of(
        [sys.executable, "-m", "benchmarks.growth", "train", json.dumps(size), str(path)]
    )


def main() -> None:
    """Measure along all axes."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    rows = []
    for axis, sizes in AXES.items():
        began = time.perf_counter()
        points = [point(Size()._replace(**{axis: size})) for size in sizes]
        print(axis, points, f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
        for what, unit in (("seconds", "s"), ("memory", "MiB")):
            values = [measured[what] for measured in points]
            exponent = slope(sizes, values)
            work = f"{axis}: {', '.join(f'{size:,}' for size in sizes)}"
            shown = ", ".join(f"{value:.3g}" for value in values) + f" {unit}"
            rows.append(
                Row(
                    work,
                    f"{what}, exponent {exponent:.2f}",
                    shown,
                    "linear",
                    MOST / max(exponent, 0.01),
                    1,
                )
            )
    report("growth", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["train"]:
        print(json.dumps(train(Size(*json.loads(sys.argv[2])), Path(sys.argv[3]))))
    else:
        main()
