"""The training loop: one pass over shuffled batches.

Adam on the rows that a batch reads, fused Adam on the rest.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from ecdctr.errors import TrainingError
from ecdctr.examples.batches import Batch, Cut, Inputs, training_batches
from ecdctr.examples.chunks import Part, Shard
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.training.graph import RepeatedStep
from ecdctr.training.optimizers import Optimizers, Sizes
from ecdctr.training.process import keep_freed_memory
from ecdctr.training.progress import Position, Progress
from ecdctr.training.sharded import across_processes, as_before
from ecdctr.training.workers import ALONE, Workers, shards_of

if TYPE_CHECKING:
    from ecdctr.config import Training
    from ecdctr.examples.vocabulary import Vocabulary
    from ecdctr.models.checkpoint import Moments

CHECK_EVERY = 20


class FitResult(NamedTuple):
    """What training says of itself; loss is the mean over the last epoch.

    `optimizer` is set if it is to be saved; of the tables it has the rows that the process holds.
    """

    samples: int
    seconds: float
    loss: float
    optimizer: dict[str, torch.Tensor] | None


OnStep = Callable[[int, float], None]


@dataclass(frozen=True)
class Job:
    """One training.

    `optimizer` is the state to start from, `penalty` is added to each batch's loss.
    """

    model: nn.Module
    settings: Training
    inputs: Inputs
    vocabularies: dict[str, Vocabulary]
    parts: list[Part]
    seed: int
    on_step: OnStep | None = None  # gets the samples and the loss of each stretch of batches
    optimizer: Moments | None = None
    penalty: Callable[[], torch.Tensor] | None = None  # left out of the loss that is reported
    progress: Progress | None = None
    workers: Workers = ALONE


def fit(job: Job) -> FitResult:
    """Train a model in place.

    With `progress`, an interrupted training goes on at its last saved step and ends in the same
    weights. Several `workers` train the model together, each on its shards of the data and with its
    share of the tables' rows. Deterministic for a seed and a number of threads. Raises
    TrainingError as soon as the loss is not a finite number.
    """
    keep_freed_memory()
    be_deterministic(job.settings)
    device, embeddings = job.workers.device, FieldEmbeddings.of(job.model)
    job.model.to(device).train()
    several = job.workers.world > 1
    whole = across_processes(job.model, job.workers) if several else job.model
    learner = _Learner(job, whole)
    at = learner.resume()
    started, samples, loss = time.perf_counter() - at.seconds, at.samples, 0.0
    for epoch in range(at.epoch, job.settings.epochs):
        account = _Account(job, epoch, samples, started, at.epoch_samples, at.loss_sum)
        _run_epoch(learner, account, at.step)
        samples += account.samples
        loss = account.loss_sum / max(account.samples, 1)
        at = Position()
    state = learner.optimizers.state() if job.settings.save_optimizer else None
    if several:
        as_before(job.model, embeddings)
    job.model.cpu().eval()
    return FitResult(samples, time.perf_counter() - started, loss, state)


def be_deterministic(settings: Training) -> None:
    """Let torch give the same bytes each time, whatever this process was used for before.

    Threads deal out a table's rows, and a row at the end of a deal is worked out in another order
    than one amidst it. So whatever makes numbers of a version comes after this, not training alone.
    """
    torch.set_num_threads(settings.threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products on a GPU, too
    torch.set_deterministic_debug_mode("warn")  # imports no compiler, which takes a second
    # a debugging aid of deterministic mode that costs some percent
    debugging: Any = torch.utils.deterministic  # which torch has not typed
    debugging.fill_uninitialized_memory = False


class _Learner:
    """The network and its optimizers: one step at a time."""

    def __init__(self, job: Job, network: nn.Module) -> None:
        self.job, self.network = job, network
        alone_on_gpu = job.workers.device.type == "cuda" and job.workers.world == 1
        FieldEmbeddings.of(job.model).fixed_shapes = alone_on_gpu
        self.optimizers = Optimizers(job.model, job.settings)
        self.repeated = RepeatedStep(self._learn) if alone_on_gpu else None
        self.compiled = _compiled(network) if job.settings.compile else network
        self.rows = sum(part.rows for part in job.parts) * job.settings.epochs

    def resume(self) -> Position:
        """Start from the parent's moments, or where an interrupted training was."""
        job = self.job
        if job.optimizer:
            self.optimizers.load(job.optimizer)
        at = job.progress.resume(job.model, self.optimizers) if job.progress else Position()
        done = at.samples + at.epoch_samples
        if done and job.on_step:
            job.on_step(done, at.loss_sum / max(at.epoch_samples, 1))
        return at

    def step(self, batch: Batch, size: int, done: int) -> torch.Tensor:
        """Learn from this process's part of a batch of `size` rows; returns its loss [].

        `done` rows were learned from before it, in all epochs.
        """
        settings = self.job.settings
        sizes = self.optimizers.begin(rate_left(settings.lr_final, done, self.rows))
        if self.repeated and len(batch) == settings.batch_size:
            return self.repeated(batch, sizes)
        return self._learn(batch, sizes, size)

    def _learn(self, batch: Batch, sizes: Sizes, size: int | None = None) -> torch.Tensor:
        settings, device = self.job.settings, self.job.workers.device.type
        # one shape is compiled, once
        forward = self.compiled if len(batch) == settings.batch_size else self.network
        half = settings.precision == "bfloat16"
        with torch.autocast(device, torch.bfloat16, enabled=half):
            logits = forward(batch).float()
        loss = binary_cross_entropy(logits, batch.label, reduction="sum") / (size or len(batch))
        # gradients are averaged over the processes, of which each has a part of the batch
        learned = loss * self.job.workers.world
        if self.job.penalty is not None:
            learned = learned + self.job.penalty()
        self.optimizers.step(learned, sizes)
        return loss.detach()


def rate_left(final: float, done: int, rows: int) -> float:
    """Return the share of the learning rates that is left after `done` of about `rows` rows.

    It falls from 1 to `final` in a straight line.
    """
    return 1 - (1 - final) * min(done / max(rows, 1), 1)


class _Account:
    """What an epoch has seen.

    Samples and the sum of their losses, told and saved every few steps.
    """

    def __init__(
        self, job: Job, epoch: int, before: int, started: float, samples: int, loss_sum: float
    ) -> None:
        self.job, self.epoch, self.before, self.started = job, epoch, before, started
        self.samples, self.loss_sum = samples, loss_sum
        self.pending: list[tuple[int, torch.Tensor]] = []

    @property
    def waiting(self) -> int:
        """Samples whose losses are not added up yet."""
        return sum(size for size, _ in self.pending)

    def settle(self, where: str) -> None:
        """Add up the pending losses; raises TrainingError if they are no finite number."""
        if not self.pending:
            return
        count = self.waiting
        losses = torch.stack([value for _, value in self.pending]).tolist()  # one look at a GPU
        mine = sum(size * loss for (size, _), loss in zip(self.pending, losses, strict=True))
        (total,) = self.job.workers.total(mine)
        if not math.isfinite(total):
            raise TrainingError(
                f"The loss is not a finite number at {where} ({self.samples} samples into the "
                "epoch). Lower lr_dense or lr_embedding, or look for extreme numeric features. "
                "Nothing was published."
            )
        if self.job.on_step:
            self.job.on_step(count, total / max(count, 1))
        self.loss_sum, self.samples, self.pending = self.loss_sum + total, self.samples + count, []

    def position(self, step: int) -> Position:
        """Say how far the training is, before `step`."""
        seconds = time.perf_counter() - self.started
        return Position(self.epoch, step, self.before, self.samples, self.loss_sum, seconds)


def _run_epoch(learner: _Learner, account: _Account, first: int) -> None:
    job = learner.job
    for step, (batch, size) in enumerate(_batches(job, account.epoch, first), first):
        loss = learner.step(batch, size, account.before + account.samples + account.waiting)
        account.pending.append((size, loss))
        if step % CHECK_EVERY == 0:
            account.settle(f"about step {step}")
            if job.progress:
                job.progress.save(job.model, learner.optimizers, account.position(step + 1))
    account.settle("the end of the epoch")


def _batches(job: Job, epoch: int, first: int) -> Iterator[tuple[Batch, int]]:
    settings, device = job.settings, job.workers.device
    batch_size = settings.batch_size // settings.shards
    chunk_rows = max(settings.chunk_rows // settings.shards, 1)
    data, seed = (job.parts, job.inputs, job.vocabularies), job.seed * 1000 + epoch
    cuts = [
        Cut(batch_size, chunk_rows, seed, Shard(number, settings.shards))
        for number in shards_of(job.workers, settings)
    ]
    streams = [training_batches(*data, cut, skip=first, device=device) for cut in cuts]
    empty = Batch.empty(job.parts[0], job.inputs, job.vocabularies).to(device)
    return _together(streams, empty, job.workers)


def _compiled(whole: nn.Module) -> nn.Module:
    """Let torch fuse the network; how many rows a batch reads is not known to a compiler.

    Not a decorator of the embeddings: it would import the compiler (a second) wherever they are.
    """
    torch.use_deterministic_algorithms(True, warn_only=True)  # the compiler's choices, too
    for module in whole.modules():
        if isinstance(module, FieldEmbeddings):
            eager = torch.compiler.disable(module.forward)
            module.forward = eager  # type: ignore[method-assign]  # of this one
    return cast("nn.Module", torch.compile(whole, dynamic=False))


def _together(
    streams: list[Iterator[Batch]], empty: Batch, workers: Workers
) -> Iterator[tuple[Batch, int]]:
    """Yield this process's part of each batch and the size of the whole.

    The part is its shards side by side.

    It ends for all processes at once: who has nothing left takes part with an empty batch, since
    BatchNorm and the tables are common to all.
    """
    while True:
        ready = [batch for batch in (next(stream, None) for stream in streams) if batch is not None]
        batch = Batch.concat(ready) if ready else empty
        size = int(workers.total(len(batch))[0])
        if size == 0:
            return
        if size > 1:  # BatchNorm cannot use a single one
            yield batch, size
