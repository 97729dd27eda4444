"""One training step, data in memory, against the floor.

Its own matrix products and table rows, and nothing else. The products, gathers and scatters of one
step, forward and backward, are recorded with their shapes and then repeated on arrays that are
there already: what this machine needs for them at least, with the same library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.common import Row, alternate, report
from benchmarks.training import FOLDER, HERE, SHAPES, prepared, write
from ecdctr.config import Cpm, Snapshots, Tpm, Training
from ecdctr.examples.batches import CPU, Batch, Cut, training_batches
from ecdctr.examples.chunks import Part
from ecdctr.models.network import CtrNet
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.training.graph import RepeatedStep
from ecdctr.training.optimizers import Optimizers, Sizes
from ecdctr.training.process import keep_freed_memory

COUNTED = (
    "mm",
    "addmm",
    "bmm",
    "index_select",
    "index_copy_",
    "index_add_",
    "scatter_add_",
    "embedding",
)
REPEATS = 40


class Recorder(TorchDispatchMode):
    """Keeps the counted operations of what runs under it, with copies of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Callable[[], Any]] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        if function.overloadpacket.__name__ in COUNTED:
            copies = [
                value.clone() if isinstance(value, torch.Tensor) else value for value in arguments
            ]
            self.operations.append(lambda: function(*copies, **(named or {})))
        return function(*arguments, **(named or {}))


def random_snapshots(rows: dict[str, int], count: int) -> dict[str, EntitySnapshots] | None:
    """Return K tables of users and items; None for K = 0."""
    if not count:
        return None
    settings = Snapshots(count=count)
    shapes = {
        "user": (count, rows["user_id"], Tpm().embedding_dim),
        "item": (count, rows["item_id"], Tpm().embedding_dim),
    }
    return {
        side: EntitySnapshots(torch.randn(shape), torch.ones(shape[:2], dtype=torch.bool), settings)
        for side, shape in shapes.items()
    }


class Step(NamedTuple):
    """A step on a batch that is there already: as training runs it, and with single operations."""

    run: Callable[[], Any]
    by_operations: Callable[[], Any]
    settings: Training


def step_of(name: str, precision: str, snapshots: int = 0, device: torch.device = CPU) -> Step:
    """Return a shape's step. With snapshots, batch size and one thread are those of CPM."""
    config, inputs, vocabularies = prepared(name, precision)
    settings = config.cpm
    if snapshots:
        settings = settings.model_copy(
            update={"batch_size": Cpm().batch_size, "threads": Cpm().threads}
        )
    torch.set_num_threads(settings.threads)
    rows = {field: vocabulary.rows for field, vocabulary in vocabularies.items()}
    model = CtrNet(config, inputs, rows, 1, random_snapshots(rows, snapshots)).to(device).train()
    model.embeddings.fixed_shapes = device.type == "cuda"
    optimizers = Optimizers(model, settings)
    parts = [Part(FOLDER / "train.parquet", "ads")]
    cut = Cut(settings.batch_size, settings.chunk_rows, seed=1)
    batch = next(iter(training_batches(parts, inputs, vocabularies, cut)))
    batch = batch.to(device)

    def learn(batch: Batch, sizes: Sizes) -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            logits = model(batch)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.label)
        optimizers.step(loss, sizes)
        return loss.detach()

    run = RepeatedStep(learn) if device.type == "cuda" else learn
    return Step(
        lambda: run(batch, optimizers.begin()), lambda: learn(batch, optimizers.begin()), settings
    )


def measure(name: str, precision: str, snapshots: int = 0) -> Row:
    """Return a shape's step against its floor."""
    step, _, settings = step_of(name, precision, snapshots)
    with Recorder() as recorder:
        step()

    def floor() -> None:
        with torch.no_grad():
            for operation in recorder.operations:
                operation()

    times = alternate({"step": step, "floor": floor}, REPEATS)
    share = times["floor"].median / times["step"].median
    with_them = f" and {snapshots} snapshots" if snapshots else ""
    work = (
        f"{name}{with_them}, {precision}: {settings.batch_size} rows, threads: {settings.threads}"
    )
    return Row(
        work,
        f"floor of {len(recorder.operations)} operations",
        str(times["step"]),
        str(times["floor"]),
        share,
        0.7,
    )


def main() -> None:
    """Measure both shapes in both precisions, and CPM's."""
    keep_freed_memory()
    write()
    rows = [measure(name, precision) for name in SHAPES for precision in HERE.values()]
    report("step", [*rows, measure("din", "float32", 3)])


if __name__ == "__main__":
    main()
