"""Training on a GPU: an epoch against FuxiCTR on the same GPU, a step against what the GPU can do.

The epoch reads Parquet, as in benchmarks/training.py; FuxiCTR's has arrays in memory, its default.
The step has its batch on the GPU and is repeated as a CUDA graph; its products are set against a
large product in the same precision, the bytes that it moves against a large copy, both measured
here.

python -m benchmarks.gpu [epochs] [steps]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import Row, Timing, alternate, report
from benchmarks.step import step_of
from benchmarks.training import (
    FOLDER,
    SHAPES,
    TRAIN,
    compare,
    install_peers,
    prepared,
    run,
    write,
)
from ecdctr.examples.batches import Cut, training_batches
from ecdctr.examples.chunks import Part

REPEATS, STEPS = 5, 50
GATHERS = ("embedding", "index_select", "index", "gather")
SCATTERS = ("index_copy_", "index_add_", "scatter_add_", "index_put_")


class Cost(NamedTuple):
    """What a step multiplies and moves.

    Floating point operations of its products, bytes read and written.
    """

    flops: int
    bytes: int


class Meter(TorchDispatchMode):
    """Adds up the bytes of the operations under it; of a table only the rows that are touched."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), named: Any = None
    ) -> Any:
        made = function(*arguments, **(named or {}))
        self.bytes += moved(function.overloadpacket.__name__, arguments, made)
        return made


def moved(name: str, arguments: Any, made: Any) -> int:
    """Bytes that an operation reads and writes.

    None if it only looks at a tensor in another way.
    """
    read, written = list(tensors(arguments)), list(tensors(made))
    if name in GATHERS:  # rows out of the table, into the result
        return 2 * size(written) + size(read[1:])
    if name in SCATTERS:  # rows in, and to their places
        return 2 * size(read[-1:]) + size(read[1:-1])
    storages = {one.untyped_storage().data_ptr() for one in read}
    views = all(one.untyped_storage().data_ptr() in storages for one in written)
    if views and not name.endswith("_"):
        return 0
    return size(read) + size(written)


def tensors(values: Any) -> Iterator[torch.Tensor]:
    """Yield every tensor in nested lists and tuples."""
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from tensors(value)


def size(several: list[torch.Tensor]) -> int:
    """Bytes of tensors."""
    return sum(one.numel() * one.element_size() for one in several)


def cost_of(step: Callable[[], None]) -> Cost:
    """Count one step."""
    with FlopCounterMode(display=False) as flops, Meter() as meter:
        step()
    return Cost(flops.get_total_flops(), meter.bytes)


def seconds_of(work: Callable[[], Any]) -> float:
    """Return seconds of one call on the GPU, the median of several."""
    work()
    seconds = []
    for _ in range(STEPS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return median(seconds)


@lru_cache
def limits(precision: str) -> Cost:
    """Return what this GPU does in a second.

    Operations of a large product, bytes of a large copy.
    """
    square = torch.randn(8192, 8192, device="cuda", dtype=getattr(torch, precision))
    flat = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    other = torch.empty_like(flat)
    product = seconds_of(lambda: square @ square)
    copy = seconds_of(lambda: other.copy_(flat))
    return Cost(int(2 * 8192**3 / product), int(2 * flat.numel() / copy))


def step_rows(name: str, precision: str, snapshots: int = 0) -> list[Row]:
    """Return a step's share of both limits."""
    step = step_of(name, precision, snapshots, torch.device("cuda"))
    seconds, cost, best = seconds_of(step.run), cost_of(step.by_operations), limits(precision)
    settings = step.settings
    work = (
        f"{name}, {precision}, {settings.batch_size} rows: {settings.batch_size / seconds:,.0f}/s"
    )
    least = {"a large product": cost.flops / best.flops, "a large copy": cost.bytes / best.bytes}
    return [
        Row(work, against, f"{seconds:.3g} s", f"{floor:.3g} s", floor / seconds)
        for against, floor in least.items()
    ]


def epoch_rows(name: str) -> list[Row]:
    """Return an epoch from Parquet against FuxiCTR's from arrays in memory, on the same GPU."""
    runs_of = compare(name, ["ecdctr", "ecdctr bfloat16", "fuxictr npz"], REPEATS)
    times = {who: Timing([run["seconds"] for run in runs]) for who, runs in runs_of.items()}
    losses = {who: median(run["loss"] for run in runs) for who, runs in runs_of.items()}
    theirs, their_loss = times.pop("fuxictr npz"), losses["fuxictr npz"]
    return [
        Row(
            f"{name}, {who}: {TRAIN / ours.median:,.0f} rows/s, loss {losses[who]:.4f}",
            f"FuxiCTR, loss {their_loss:.4f}", str(ours), str(theirs), theirs.median / ours.median,
            2,
        )
        for who, ours in times.items()
    ]  # fmt: skip


def peer_rows(name: str) -> list[Row]:
    """Return a step against FuxiCTR's, each on a batch that is on the GPU."""
    theirs = Timing([run("fuxictr step", name)["seconds"] for _ in range(3)])
    rows = []
    for precision in ("float32", "bfloat16"):
        step = step_of(name, precision, 0, torch.device("cuda"))
        ours = Timing([seconds_of(step.run) for _ in range(3)])
        rows.append(
            Row(f"{name}, {precision}, a step in memory", "FuxiCTR, float32", str(ours),
                str(theirs), theirs.median / ours.median, 2)
        )  # fmt: skip
    return rows


def input_row() -> Row:
    """Return the DIN shape's batches brought to the GPU, against an epoch's steps there."""
    config, inputs, vocabularies = prepared("din")
    parts, settings, cuda = (
        [Part(FOLDER / "train.parquet", "ads")],
        config.cpm,
        torch.device("cuda"),
    )

    def read() -> int:
        cut = Cut(settings.batch_size, settings.chunk_rows, seed=1)
        batches = training_batches(parts, inputs, vocabularies, cut, device=cuda)
        return sum(map(len, batches))

    reading = alternate({"read": read}, REPEATS)["read"]
    steps = seconds_of(step_of("din", "float32", 0, cuda).run) * TRAIN / settings.batch_size
    work = f"din: {TRAIN / reading.median:,.0f} rows/s from Parquet to the GPU"
    return Row(work, "its steps there", str(reading), f"{steps:.3g} s", steps / reading.median, 1)


def main() -> None:
    """Measure, or say in one sentence that there is no GPU."""
    if not torch.cuda.is_available():
        raise SystemExit(
            "./run bench gpu: torch finds no GPU on this machine, so there is nothing to measure. "
            "Run it where nvidia-smi lists one, with a CUDA build of torch in .venv and "
            ".venv-peers."
        )
    write()
    install_peers()
    parts = sys.argv[1:] or ["epochs", "steps"]
    rows = [row for name in SHAPES for row in epoch_rows(name)] if "epochs" in parts else []
    if "steps" in parts:
        rows += [input_row(), *(row for name in SHAPES for row in peer_rows(name))]
        for precision in ("float32", "bfloat16"):
            rows += [row for name in SHAPES for row in step_rows(name, precision)]
            rows += step_rows("din", precision, snapshots=3)  # CPM's
    print(torch.cuda.get_device_name())
    report("gpu", rows)


if __name__ == "__main__":
    main()
