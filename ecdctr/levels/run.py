"""What the three levels share: gather → fingerprint → re-use → build → fit → publish."""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

import ecdctr
from ecdctr.config import LEVEL_DOMAIN, PRODUCTION, digest
from ecdctr.errors import StoreError
from ecdctr.examples.batches import Inputs
from ecdctr.impressions.days import log_start
from ecdctr.impressions.quality import check_day
from ecdctr.impressions.reading import DeliveredAnew, one_reading
from ecdctr.levels.fingerprint import fingerprint, level_code
from ecdctr.levels.parents import grow_vocabularies
from ecdctr.levels.reading import (
    last_prior_ctr,
    left_out,
    passed_over,
    prepare_days,
    training_parts,
)
from ecdctr.levels.remembering import holds_memory, memory_cut, save_memory
from ecdctr.levels.request import (
    Days,
    Materials,
    Network,
    Outcome,
    Plan,
    Request,
    Start,
    Steps,
    Vocabularies,
)
from ecdctr.models import checkpoint
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.share import ALL, Share
from ecdctr.store.aliases import CANDIDATE, Kind
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.training.loop import FitResult, Job, be_deterministic, fit
from ecdctr.training.process import peak_memory_mb
from ecdctr.training.progress import Progress
from ecdctr.training.workers import Workers, check_shards, join

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn

    from ecdctr.store.store import Store

PACKAGES = ("torch", "numpy", "pyarrow", "duckdb", "pydantic", "safetensors")


@dataclass(frozen=True)
class Gathered:
    """What a training rests on, all of it known before anything is trained."""

    plan: Plan
    days: Days
    fingerprint: str
    log_start: dt.date | None  # first day that either domain has
    started: dt.datetime


@dataclass(frozen=True)
class Built(Generic[Network]):
    """A network that is ready to be trained, and how the data date differs from days before."""

    start: Start[Network]
    inputs: Inputs
    vocabularies: Vocabularies
    admission: dict[str, float]  # metrics of the fields that admit and evict
    quality: list[str]


@one_reading()
def run(steps: Steps[Network]) -> Outcome:
    """Train a level as asked and publish the version.

    A version with the same fingerprint that is there already is returned instead.

    Raises ContractError when the data date is too unlike the days before it and quality.action is
    'stop', StoreError when a parent is missing or damaged.
    """
    with steps.request.store.in_use():  # gc removes no parent meanwhile
        return _run(steps)


def _run(steps: Steps[Network]) -> Outcome:
    request = steps.request
    workers = join()
    gathered = gather(steps, workers)
    store = request.store
    settings = request.config.training(gathered.plan.level)
    progress = Progress(store.progress(gathered.fingerprint), settings.checkpoint_seconds, workers)
    finished = _finished(request, gathered, workers)
    if finished:
        if workers.first:
            _conclude(store, finished.ref, progress)
        return Outcome(finished, True)
    be_deterministic(settings)
    built = build(steps, gathered, workers.share)
    result = _fit(request, gathered, built, progress, workers)
    with store.staging() as folder:  # each process has one, the first one's is published
        write(steps, built, result, folder)
        with workers.first_alone(f"publish {gathered.fingerprint}"):  # however long that takes
            if workers.first:
                published = publish(steps, gathered, built, result, folder)
                _conclude(store, published.ref, progress)
    workers.wait()
    return Outcome(_published(request, gathered), False)


def gather(steps: Steps[Network], workers: Workers) -> Gathered:
    """Plan, prepare the days that the plan reads, and name what will come out of them."""
    started = dt.datetime.now(dt.UTC)
    request, plan = steps.request, steps.plan()
    check_shards(workers, plan.level, request.config.training(plan.level))
    what = f"prepared {request.experiment}/{plan.level}/{request.date}"
    with workers.first_alone(what):  # the others find it done
        days = prepare_days(request, plan)
    name = fingerprint(request, steps.algorithm, plan, days)
    return Gathered(plan, days, name, log_start(request.config), started)


def build(steps: Steps[Network], gathered: Gathered, share: Share = ALL) -> Built[Network]:
    """Look at the data date, verify the parents, and make the network with their weights.

    Of the tables it has the rows of a share.
    """
    request, plan = steps.request, gathered.plan
    unlike = check_day(request.config, LEVEL_DOMAIN[plan.level], request.date)
    for refs in plan.parents.values():
        for ref in refs:
            request.store.check(ref)
    inputs = Inputs.of(request.config, plan.level)
    vocabularies, admission = grow_vocabularies(request, plan, inputs, gathered.days)
    start = steps.build(Materials(plan, gathered.days, inputs, vocabularies, share))
    older = ["started from what `store gc` had left (--from-older)"] if request.from_older else []
    passed = passed_over(request, plan, gathered.days)
    told = [*map(str, unlike), *passed, *memory_cut(request, plan, gathered.log_start), *older]
    return Built(start, inputs, vocabularies, admission, told)


def write(steps: Steps[Network], built: Built[Network], result: FitResult, folder: Path) -> None:
    """Write what was learned into a folder; all processes do it together, into the first one's."""
    model, ids = built.start.model, built.vocabularies
    if result.optimizer:
        checkpoint.save_optimizer(result.optimizer, FieldEmbeddings.of(model).share, folder)
        result.optimizer.clear()  # to merge snapshots takes as much memory again
    steps.finish(model, ids, folder)
    checkpoint.save(model, ids, folder)


def publish(
    steps: Steps[Network],
    gathered: Gathered,
    built: Built[Network],
    result: FitResult,
    folder: Path,
) -> Manifest:
    """Put the version of a folder into the store, whole or not at all.

    Raises DeliveredAnew where a day that it read was delivered again meanwhile.
    """
    request, store = steps.request, steps.request.store
    store.create_experiment(request.experiment, store.parent_of(request.experiment) or PRODUCTION)
    if holds_memory(request, gathered.plan):
        save_memory(request, folder / "memory")
        plan, days = gathered.plan, gathered.days
        if fingerprint(request, steps.algorithm, plan, days) != gathered.fingerprint:
            raise DeliveredAnew(f"What {plan.level} {request.date} remembers")
    manifest = _manifest(request, gathered, built, result)
    return store.publish(folder, manifest, request.force, request.stored_against(gathered.plan))


def _finished(request: Request, gathered: Gathered, workers: Workers) -> Manifest | None:
    """Return the version with this fingerprint if all processes see it and may re-use it."""
    level = gathered.plan.level
    version = request.store.find(request.experiment, level, request.date, gathered.fingerprint)
    return version if workers.all(version is not None and not request.force) else None


def _published(request: Request, gathered: Gathered) -> Manifest:
    level = gathered.plan.level
    version = request.store.find(request.experiment, level, request.date, gathered.fingerprint)
    if version is None:
        raise StoreError(f"{level} {request.date}: the first process has not published it.")
    return version


def _fit(
    request: Request,
    gathered: Gathered,
    built: Built[Network],
    progress: Progress,
    workers: Workers,
) -> FitResult:
    level = gathered.plan.level
    settings = request.config.training(level)
    parts = training_parts(request.config, gathered.days, gathered.plan.snapshots)
    request.reporter.start(f"train {level}", sum(part.rows for part in parts) * settings.epochs)
    job = Job(
        built.start.model,
        settings,
        built.inputs,
        built.vocabularies,
        parts,
        request.config.seed,
        on_step=request.reporter.advance,
        optimizer=built.start.optimizer,
        penalty=built.start.penalty,
        progress=progress,
        workers=workers,
    )
    return fit(job)


def _manifest(
    request: Request, gathered: Gathered, built: Built[Network], result: FitResult
) -> Manifest:
    plan, days = gathered.plan, gathered.days
    relevant = request.config.relevant(plan.level)
    rows = {name: vocabulary.rows for name, vocabulary in built.vocabularies.items()}
    return Manifest(
        experiment=request.experiment,
        level=plan.level,
        data_date=request.date,
        version="v0000",
        variant=request.variant,
        window_start=min(date for _, date in days),
        window_end=max(date for _, date in days),
        fingerprint=gathered.fingerprint,
        parents={name: [str(ref) for ref in refs] for name, refs in plan.parents.items()},
        data_digests={f"{domain}/{date}": day.fingerprint for (domain, date), day in days.items()},
        config=relevant,
        config_digest=digest(relevant),
        code_version=ecdctr.__version__,
        code_digest=level_code(plan.level),
        packages={name: importlib.metadata.version(name) for name in PACKAGES},
        seed=request.config.seed,
        optimizer_state="carried from the parent" if built.start.optimizer else "fresh",
        metrics={
            "train_loss": result.loss,
            "train_seconds": result.seconds,
            "samples_per_second": result.samples / max(result.seconds, 1e-9),
            "peak_memory_mb": peak_memory_mb(),
            "parameters": _parameters(built.start.model),
            **built.admission,
        },
        rows={"samples": result.samples, **rows},
        quality=built.quality,
        skipped_days=left_out(plan, days),
        log_start=gathered.log_start,
        prior_ctr=last_prior_ctr(days) if plan.level == "actr" else None,
        files={},
        started_at=gathered.started,
        finished_at=dt.datetime.now(dt.UTC),
        host=socket.gethostname(),
        airflow_run=os.environ.get("ECDCTR_AIRFLOW_RUN"),
    )


def _parameters(model: nn.Module) -> float:
    """Count the numbers of a model, of its tables all rows."""
    tables = FieldEmbeddings.of(model)
    elsewhere = (tables.total - len(tables.held)) * tables.table.embedding_dim
    return float(elsewhere + sum(p.numel() for p in model.parameters()))


def _conclude(store: Store, ref: Ref, progress: Progress) -> None:
    """Do what remains once a version is there; also when a run died right after publishing it."""
    progress.discard()
    store.advance(CANDIDATE, ref, "newest version trained", Kind.TRAIN)
