"""The training loop: one pass over shuffled batches, Adam on the rows that a batch reads, fused Adam on the rest."""

from __future__ import annotations

import ctypes
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from ecdctr.config import Training
from ecdctr.data.batches import Inputs, Part, training_batches
from ecdctr.data.vocabulary import Vocabulary
from ecdctr.errors import TrainingError
from ecdctr.training.optimizers import Optimizers
from ecdctr.training.progress import Position, Progress

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
) -> FitResult:
    """Train a model in place; `on_step` gets the samples and the loss of each stretch of batches.

    `optimizer` is the state to start from, `penalty` is added to each batch's loss (and left out of what is reported).
    With `progress`, an interrupted training goes on at its last saved step and ends in the same weights.
    Deterministic for a seed and a number of threads. Raises TrainingError as soon as the loss is not a finite number.
    """
    keep_freed_memory()
    torch.set_num_threads(settings.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    # a debugging aid of deterministic mode that costs some percent
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    optimizers = Optimizers(model, settings)
    compiled = torch.compile(model, dynamic=False) if settings.compile else model
    if optimizer:
        optimizers.load(optimizer)
    at = progress.resume(model, optimizers) if progress else Position()
    if at.samples + at.epoch_samples and on_step:
        on_step(at.samples + at.epoch_samples, at.loss_sum / max(at.epoch_samples, 1))
    started, samples, loss_sum = time.perf_counter() - at.seconds, at.samples, 0.0
    for epoch in range(at.epoch, settings.epochs):
        first, epoch_samples, loss_sum = at.step, at.epoch_samples, at.loss_sum
        at, pending = Position(), []
        batches = training_batches(
            parts, inputs, vocabularies, settings.batch_size, settings.chunk_rows, seed * 1000 + epoch, first, device
        )
        for step, batch in enumerate(batches, first):
            forward = compiled if len(batch) == settings.batch_size else model  # one shape is compiled, once
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"):
                logits = forward(batch)
            loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), batch.label)
            optimizers.step(loss if penalty is None else loss + penalty())
            pending.append((len(batch), loss.detach()))
            if step % CHECK_EVERY == 0:
                loss_sum, epoch_samples = _account(pending, loss_sum, epoch_samples, step, on_step)
                pending = []
                if progress:
                    seconds = time.perf_counter() - started
                    now = Position(epoch, step + 1, samples, epoch_samples, loss_sum, seconds)
                    progress.save(model, optimizers, now)
        if pending:
            loss_sum, epoch_samples = _account(pending, loss_sum, epoch_samples, -1, on_step)
        samples += epoch_samples
        loss_sum /= max(epoch_samples, 1)
    model.cpu().eval()
    state = optimizers.state() if settings.save_optimizer else None
    return FitResult(samples, time.perf_counter() - started, loss_sum, state)


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
    pending: list[tuple[int, torch.Tensor]], loss_sum: float, samples: int, step: int, on_step: OnStep | None
) -> tuple[float, int]:
    count = sum(size for size, _ in pending)
    total = sum(size * value.item() for size, value in pending)
    if not math.isfinite(total):
        where = f"about step {step}" if step >= 0 else "the end of the epoch"
        raise TrainingError(
            f"The loss is not a finite number at {where} ({samples} samples into the epoch). "
            "Lower lr_dense or lr_embedding, or look for extreme numeric features. Nothing was published."
        )
    if on_step:
        on_step(count, total / max(count, 1))
    return loss_sum + total, samples + count
