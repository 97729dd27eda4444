"""What the three levels share: the fingerprint, reuse, parents' weights and snapshots, vocabularies, publishing."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import importlib.metadata
import os
import resource
import socket
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
import torch
from torch import nn

import ecdctr
from ecdctr.config import LEVEL_DOMAIN, PRODUCTION, digest
from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.batches import Inputs
from ecdctr.examples.vocabulary import EMPTY, Vocabulary, distinct
from ecdctr.impressions.quality import check_day
from ecdctr.levels.reading import Days, last_prior_ctr, prepare_days, training_parts
from ecdctr.levels.request import Outcome, Plan, Request, Start
from ecdctr.models import checkpoint
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.transfer import load_dense
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store
from ecdctr.training.loop import fit
from ecdctr.training.progress import Progress
from ecdctr.training.workers import check_shards, join

NOT_TRAINING = {
    "simulate.py",
    "contract.py",
    "readers.py",
    "kuairand.py",
    "quality.py",
    "metrics.py",
    "evaluate.py",
    "evaluations.py",
    "matrix.py",
    "progress.py",
}
PACKAGES = ("torch", "numpy", "pyarrow", "duckdb", "pydantic", "safetensors")


Build = Callable[[Inputs, dict[str, Vocabulary]], Start]
Finish = Callable[[nn.Module, dict[str, Vocabulary], Path], None]


def run(
    request: Request, plan: Plan, grow_from: Ref | None, build: Build, finish: Finish
) -> Outcome:
    """Prepare, look for a finished version with the same fingerprint, else train and publish.

    `grow_from` is the parent whose vocabularies are extended, `build` makes the network with its parents' weights,
    `finish` may merge or write more files before publishing. Raises ContractError when the data date is too unlike the
    days before it and quality.action is 'stop', StoreError when a parent is damaged.
    """
    config, level, reporter = request.config, plan.level, request.reporter
    settings = config.training(level)
    started = dt.datetime.now(dt.UTC)
    workers = join()
    check_shards(workers, level, settings)
    if not workers.first:
        workers.wait()  # the first process prepares, the others find it done
    days = prepare_days(request, plan)
    if workers.first:
        workers.wait()
    fingerprint = _fingerprint(request, plan, days)
    finished = request.store.find(request.experiment, level, request.date, fingerprint)
    progress = Progress(request.store.progress(fingerprint), settings.checkpoint_seconds, workers)
    if workers.all(finished is not None and not request.force) and finished:
        if workers.first:
            _conclude(request.store, finished.ref, progress)
        return Outcome(finished, True)

    unlike = [str(finding) for finding in check_day(config, LEVEL_DOMAIN[level], request.date)]
    for refs in plan.parents.values():
        for ref in refs:
            request.store.check(ref)
    inputs = Inputs.of(config, level)
    vocabularies = _grow(request, plan, inputs, [day.path for day in days.values()], grow_from)
    model, optimizer, penalty = build(inputs, vocabularies)
    parts = training_parts(config, days)
    reporter.start(f"train {level}", sum(part.rows for part in parts) * settings.epochs)
    result = fit(
        model,
        settings,
        inputs,
        vocabularies,
        parts,
        config.seed,
        reporter.advance,
        optimizer=optimizer,
        penalty=penalty,
        progress=progress,
        workers=workers,
    )
    if not workers.first:
        workers.wait()
        published = request.store.find(request.experiment, level, request.date, fingerprint)
        assert published is not None  # noqa: S101  # the first process has published it
        return Outcome(published, False)

    request.store.create_experiment(
        request.experiment, request.store.parent_of(request.experiment) or PRODUCTION
    )
    with request.store.staging() as folder:
        finish(model, vocabularies, folder)
        checkpoint.save(model, vocabularies, folder, result.optimizer)
        relevant = config.relevant(level)
        manifest = Manifest(
            experiment=request.experiment,
            level=level,
            data_date=request.date,
            version="v0000",
            variant=request.variant,
            window_start=min(date for _, date in days),
            window_end=max(date for _, date in days),
            fingerprint=fingerprint,
            parents={name: [str(ref) for ref in refs] for name, refs in plan.parents.items()},
            data_digests={
                f"{domain}/{date}": day.fingerprint for (domain, date), day in days.items()
            },
            config=relevant,
            config_digest=digest(relevant),
            code_version=ecdctr.__version__,
            code_digest=code_digest(),
            packages={name: importlib.metadata.version(name) for name in PACKAGES},
            seed=config.seed,
            optimizer_state="carried from the parent" if optimizer else "fresh",
            metrics={
                "train_loss": result.loss,
                "train_seconds": result.seconds,
                "samples_per_second": result.samples / max(result.seconds, 1e-9),
                "peak_memory_mb": peak_memory_mb(),
                "parameters": float(sum(p.numel() for p in model.parameters())),
            },
            rows={"samples": result.samples, **{name: v.rows for name, v in vocabularies.items()}},
            quality=unlike,
            prior_ctr=last_prior_ctr(days) if level == "actr" else None,
            files={},
            started_at=started,
            finished_at=dt.datetime.now(dt.UTC),
            host=socket.gethostname(),
            airflow_run=os.environ.get("ECDCTR_AIRFLOW_RUN"),
        )
        published = request.store.publish(folder, manifest, request.force)
    _conclude(request.store, published.ref, progress)
    workers.wait()
    return Outcome(published, False)


def peak_memory_mb() -> float:
    """The largest resident set of this process so far, MiB.

    From /proc where there is one: what getrusage says starts at the size of the process that started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _conclude(store: Store, ref: Ref, progress: Progress) -> None:
    """What remains to be done once a version is there; also when a run died right after publishing it."""
    progress.discard()
    known = store.alias("candidate", ref.experiment, ref.level)
    if known is None or (known.date, known.version) < (ref.date, ref.version):
        store.set_alias("candidate", ref, "newest version trained")


def start_from(
    model: nn.Module, parent: Ref, saved: checkpoint.Checkpoint, carry_optimizer: bool
) -> Start:
    """Give a network its parent's weights: embedding rows by raw id, dense layers, Adam's moments if asked for.

    Raises ConfigError when the parent's network is another one, or has saved no moments.
    """
    embeddings: FieldEmbeddings = model.embeddings  # type: ignore[assignment]
    for name, table in saved.tables.items():
        dim = embeddings.table.weight.shape[1]
        if table.shape[1] != dim:
            raise ConfigError(
                f"{parent.level} {parent} has embeddings of dimension {table.shape[1]}, the configuration says {dim}; "
                "set embedding_dim as before, or start a new experiment."
            )
        embeddings.load_prefix(name, table)
    try:
        load_dense(model, saved.dense)
    except RuntimeError as error:
        raise ConfigError(
            f"{parent} has another network than the configuration describes ({str(error).splitlines()[-1].strip()}); "
            "keep 'features', 'network' and 'snapshots' as its parent had them, or train the parent again."
        ) from None
    if carry_optimizer and not saved.optimizer:
        raise ConfigError(
            f"carry_optimizer is set, but {parent} has no optimizer state; "
            f"set {parent.level}.save_optimizer: true and train it again."
        )
    return Start(model, saved.optimizer if carry_optimizer else None)


def resolve_snapshots(request: Request) -> list[Ref]:
    """The K TPM versions as of d - lag, d - lag - stride, d - lag - 2 stride, …, newest first, each once.

    With a lag of CPM's window the vectors are out of sample where CPM trains. Without it the newest TPM has seen the
    very labels that CPM learns from, and CPM trusts its vectors more than they are worth on the next day.

    Raises StoreError if there is none, or fewer than K and `snapshots.require_all` is set.
    """
    wanted = request.config.snapshots
    found: list[Ref] = []
    for as_of in wanted.as_of(request.date):
        ref = request.store.resolve("tpm", as_of, request.experiment)
        if ref and ref not in found:
            found.append(ref)
    if wanted.count and not found:
        request.store.require("tpm", wanted.as_of(request.date)[0], request.experiment)
    if wanted.require_all and len(found) < wanted.count:
        raise StoreError(
            f"{request.date}: {wanted.count} TPM snapshots {wanted.stride_days} days apart are required, found "
            f"{len(found)} ({', '.join(map(str, found))}); train the missing ones, or set snapshots.require_all: false."
        )
    return found


def load_snapshots(
    request: Request, refs: list[Ref], vocabularies: dict[str, Vocabulary]
) -> dict[str, EntitySnapshots] | None:
    """The snapshots of users and items over the rows of a model's vocabularies; None without snapshots."""
    if not refs:
        return None
    folders = [request.store.path(ref) for ref in refs]
    torch.manual_seed(request.config.seed)
    return {
        side: EntitySnapshots(
            *checkpoint.align_snapshots(folders, side, vocabularies[name]), request.config.snapshots
        )
        for side, name in checkpoint.SIDES.items()
    }


@lru_cache(maxsize=1)
def code_digest() -> str:
    """Digest of the sources that can change a trained version."""
    root = Path(ecdctr.__file__).parent
    parts = hashlib.sha256()
    for folder in ("examples", "models", "training", "levels"):
        for path in sorted((root / folder).rglob("*.py")):
            if path.name not in NOT_TRAINING:
                parts.update(path.name.encode() + path.read_bytes())
    return parts.hexdigest()


def _fingerprint(request: Request, plan: Plan, days: Days) -> str:
    parents = {
        name: [request.store.manifest(ref).fingerprint for ref in refs]
        for name, refs in sorted(plan.parents.items())
    }
    data = {f"{domain}/{date}": day.fingerprint for (domain, date), day in days.items()}
    restart = request.restart
    return digest(
        [
            code_digest(),
            request.config.relevant(plan.level),
            str(request.date),
            parents,
            data,
            restart,
        ]
    )


def _grow(
    request: Request, plan: Plan, inputs: Inputs, files: list[Path], grow_from: Ref | None
) -> dict[str, Vocabulary]:
    base = checkpoint.load(request.store.path(grow_from)).vocabularies if grow_from else {}
    multi = {name for name, _ in inputs.multi}
    vocabularies = {}
    for name in inputs.vocabularies:
        vocabularies[name] = base.get(name, EMPTY).extended(distinct(files, name, name in multi))
    if plan.level != "tpm":
        for side, name in checkpoint.SIDES.items():
            known: list[pa.Array] = [
                checkpoint.snapshot_ids(request.store.path(ref), side)
                for ref in plan.parents.get("tpm", [])
            ]
            for ids in known:
                vocabularies[name] = vocabularies[name].extended(ids)
    return vocabularies
