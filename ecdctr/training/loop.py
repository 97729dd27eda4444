"""The training loop: one pass over shuffled batches, Adam on the rows that a batch reads, fused Adam on the rest."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import nn

from ecdctr.config import Training
from ecdctr.errors import TrainingError
from ecdctr.examples.batches import Batch, Inputs, Part, Shard, training_batches
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.training.optimizers import Optimizers
from ecdctr.training.progress import Position, Progress
from ecdctr.training.sharded import across_processes, onto_one_process
from ecdctr.training.workers import ALONE, Workers, shards_of

CHECK_EVERY = 20


class FitResult(NamedTuple):
    """What training says of itself; loss is the mean over the last epoch. `optimizer` is set if it is to be saved."""

    samples: int
    seconds: float
    loss: float
    optimizer: dict[str, torch.Tensor] | None


OnStep = Callable[[int, float], None]


def fit(
    model: nn.Module,
    settings: Training,
    inputs: Inputs,
    vocabularies: dict[str, Vocabulary],
    parts: list[Part],
    seed: int,
    on_step: OnStep | None = None,
    *,
    optimizer: dict[str, torch.Tensor] | None = None,
    penalty: Callable[[], torch.Tensor] | None = None,
    progress: Progress | None = None,
    workers: Workers = ALONE,
) -> FitResult:
    """Train a model in place; `on_step` gets the samples and the loss of each stretch of batches.

    `optimizer` is the state to start from, `penalty` is added to each batch's loss (and left out of what is reported).
    With `progress`, an interrupted training goes on at its last saved step and ends in the same weights.
    Several `workers` train the model together, each on its shards of the data; the first one has it whole at the end.
    Deterministic for a seed and a number of threads. Raises TrainingError as soon as the loss is not a finite number.
    """
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    torch.set_deterministic_debug_mode("warn")  # imports no compiler, which takes a second
    # a debugging aid of deterministic mode that costs some percent
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = workers.device
    model.to(device).train()
    embeddings, whole = model.embeddings, model
    if workers.world > 1:
        whole = across_processes(model, workers)
    optimizers = Optimizers(model, settings)
    compiled = _compiled(whole) if settings.compile else whole
    if optimizer:
        optimizers.load(optimizer)
    at = progress.resume(model, optimizers) if progress else Position()
    shards = [Shard(number, settings.shards) for number in shards_of(workers, settings)]
    sizes = (settings.batch_size // settings.shards, max(settings.chunk_rows // settings.shards, 1))
    empty = Batch.empty(parts[0], inputs, vocabularies).to(device)
    if at.samples + at.epoch_samples and on_step:
        on_step(at.samples + at.epoch_samples, at.loss_sum / max(at.epoch_samples, 1))
    started, samples, loss_sum = time.perf_counter() - at.seconds, at.samples, 0.0
    for epoch in range(at.epoch, settings.epochs):
        first, epoch_samples, loss_sum = at.step, at.epoch_samples, at.loss_sum
        at, pending = Position(), []
        reading = (parts, inputs, vocabularies, *sizes, seed * 1000 + epoch, first, device)
        streams = [training_batches(*reading, shard=shard) for shard in shards]
        for step, (batch, size) in enumerate(_together(streams, empty, workers), first):
            forward = (
                compiled if len(batch) == settings.batch_size else whole
            )  # one shape is compiled, once
            with torch.autocast(
                device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
            ):
                logits = forward(batch)
            loss = (
                nn.functional.binary_cross_entropy_with_logits(
                    logits.float(), batch.label, reduction="sum"
                )
                / size
            )
            # gradients are averaged over the processes, of which each has a part of the batch
            learned = loss * workers.world
            optimizers.step(learned if penalty is None else learned + penalty())
            pending.append((size, loss.detach()))
            if step % CHECK_EVERY == 0:
                loss_sum, epoch_samples = _account(
                    pending, loss_sum, epoch_samples, step, on_step, workers
                )
                pending = []
                if progress:
                    seconds = time.perf_counter() - started
                    now = Position(epoch, step + 1, samples, epoch_samples, loss_sum, seconds)
                    progress.save(model, optimizers, now)
        if pending:
            loss_sum, epoch_samples = _account(
                pending, loss_sum, epoch_samples, -1, on_step, workers
            )
        samples += epoch_samples
        loss_sum /= max(epoch_samples, 1)
    state = optimizers.state() if settings.save_optimizer else None
    if workers.world > 1:
        onto_one_process(model, embeddings)  # type: ignore[arg-type]
    model.cpu().eval()
    return FitResult(samples, time.perf_counter() - started, loss_sum, state)


def _compiled(whole: nn.Module) -> nn.Module:
    """Let torch fuse the network; how many rows a batch reads is not known to a compiler.

    Not a decorator of the embeddings: it would import the compiler (a second) wherever they are.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler's choices, too
    for module in whole.modules():
        if isinstance(module, FieldEmbeddings):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
    return torch.compile(whole, dynamic=False)  # type: ignore[return-value]


def _together(
    streams: list[Iterator[Batch]], empty: Batch, workers: Workers
) -> Iterator[tuple[Batch, int]]:
    """This process's shards side by side as its part of each batch, and the size of the whole batch.

    It ends for all processes at once: who has nothing left takes part with an empty batch, since BatchNorm and the
    tables are common to all.
    """
    while True:
        found = [batch for batch in (next(stream, None) for stream in streams) if batch is not None]
        batch = Batch.concat(found) if found else empty
        size = int(workers.total(len(batch))[0])
        if size == 0:
            return
        if size > 1:  # BatchNorm cannot use a single one
            yield batch, size


def keep_freed_memory() -> None:
    """Let glibc reuse what a step frees, instead of asking the system for fresh pages in the next one.

    By default blocks above 128 KiB are mapped anew each time; a training step has dozens of them. Elsewhere than on
    Linux with glibc nothing happens.
    """
    if sys.platform != "linux":
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: its largest value
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD


def _account(
    pending: list[tuple[int, torch.Tensor]],
    loss_sum: float,
    samples: int,
    step: int,
    on_step: OnStep | None,
    workers: Workers,
) -> tuple[float, int]:
    count = sum(size for size, _ in pending)
    (total,) = workers.total(sum(size * value.item() for size, value in pending))
    if not math.isfinite(total):
        where = f"about step {step}" if step >= 0 else "the end of the epoch"
        raise TrainingError(
            f"The loss is not a finite number at {where} ({samples} samples into the epoch). "
            "Lower lr_dense or lr_embedding, or look for extreme numeric features. Nothing was published."
        )
    if on_step:
        on_step(count, total / max(count, 1))
    return loss_sum + total, samples + count
