"""What a version takes from others: weights by raw id, snapshots, the ids that have rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.admission import Renewal, assumed, renewed
from ecdctr.examples.vocabulary import EMPTY, Sightings, Vocabulary, distinct, seen
from ecdctr.impressions import contract
from ecdctr.levels.request import Days, Network, Plan, Request, SnapshotSets, Start, Vocabularies
from ecdctr.models import checkpoint
from ecdctr.models.embeddings import LACKED, FieldEmbeddings
from ecdctr.models.share import ALL, Share
from ecdctr.models.snapshots import ABSENT, EntitySnapshots
from ecdctr.models.transfer import load_dense

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ecdctr.config import Admission
    from ecdctr.examples.batches import Inputs
    from ecdctr.store.manifest import Ref

SIDE_OF = {name: side for side, name in checkpoint.SIDES.items()}


def start_from(
    model: Network,
    parent: Ref,
    saved: checkpoint.Checkpoint,
    vocabularies: Vocabularies,
    carry_optimizer: bool,
) -> Start[Network]:
    """Give a network its parent's weights.

    Embedding rows by raw id, dense layers, Adam's moments if asked for. Ids that the parent lacks
    start anew, whosever row they have now. Raises ConfigError when the
    parent's network is another one, or has saved no moments.
    """
    embeddings = FieldEmbeddings.of(model)
    rows = {
        name: _of_parent(vocabulary, saved.vocabularies[name], embeddings.held_of(name))
        for name, vocabulary in vocabularies.items()
        if name in saved.tables
    }
    _load_tables(embeddings, parent, saved, rows)
    try:
        load_dense(model, saved.dense)
    except RuntimeError as error:
        raise ConfigError(
            f"{parent} has another network than the configuration describes "
            f"({str(error).splitlines()[-1].strip()}); keep 'features', 'network' and 'snapshots' "
            "as its parent had them, or train the parent again."
        ) from None
    if carry_optimizer and not saved.optimizer:
        raise ConfigError(
            f"carry_optimizer is set, but {parent} has no optimizer state; "
            f"set {parent.level}.save_optimizer: true and train it again."
        )
    return Start(model, checkpoint.Moments(saved.optimizer, rows) if carry_optimizer else None)


def _of_parent(vocabulary: Vocabulary, parent: Vocabulary, held: range) -> NDArray[np.int32]:
    """Return which of the parent's rows the rows held of a field take, LACKED where there is none.

    The unknown row takes the unknown row.
    """
    rows = vocabulary.rows_in(parent)
    rows[1:][rows[1:] == 0] = LACKED
    return rows[held.start : held.stop].copy()


def _load_tables(
    embeddings: FieldEmbeddings,
    parent: Ref,
    saved: checkpoint.Checkpoint,
    rows: dict[str, NDArray[np.int32]],
) -> None:
    for name, table in saved.tables.items():
        dim, saved_dim = embeddings.table.weight.shape[1], table[:1].shape[1]
        if saved_dim != dim:
            raise ConfigError(
                f"{parent.level} {parent} has embeddings of dimension {saved_dim}, the "
                f"configuration says {dim}; set embedding_dim as before, or start a new experiment."
            )
        embeddings.load(name, table, rows[name])


def resolve_snapshots(request: Request, days: Iterable[dt.date]) -> SnapshotSets:
    """Resolve the K TPM versions of what serves, and those known before each training day.

    A TPM that has read a day remembers its labels: a network that trains with it trusts its vectors
    more than they are worth on the next day. With `snapshots.point_in_time: false` all days take
    those of the data date (the paper).

    Raises StoreError if there is none that the newest day may know, or fewer than K and
    `snapshots.require_all` is set.
    """
    settings = request.config.snapshots
    if not settings.count:
        return SnapshotSets()
    request.require("tpm", settings.needed(request.date))
    by_day: dict[dt.date, tuple[Ref, ...]] = {}
    serving = _newest_on(request, request.date)
    if settings.require_all and len(serving) < settings.count:
        raise StoreError(
            f"{request.date}: {settings.count} TPM snapshots {settings.stride_days} days apart are "
            f"required, found {len(serving)} ({', '.join(map(str, serving))}); train the "
            "missing ones, or set snapshots.require_all: false."
        )
    if settings.point_in_time:
        by_day = {day: _newest_on(request, day - dt.timedelta(days=1)) for day in sorted(days)}
    sets = list(dict.fromkeys((serving, *by_day.values())))
    return SnapshotSets(tuple(sets), {day: sets.index(refs) for day, refs in by_day.items()})


def _newest_on(request: Request, date: dt.date) -> tuple[Ref, ...]:
    """Return the newest TPM versions as of the K dates, newest first, each once."""
    resolved = (request.resolve("tpm", as_of) for as_of in request.config.snapshots.as_of(date))
    return tuple(dict.fromkeys(ref for ref in resolved if ref))


def load_snapshots(
    request: Request,
    snapshots: SnapshotSets,
    vocabularies: Vocabularies,
    share: Share = ALL,
) -> dict[str, EntitySnapshots] | None:
    """Read the snapshots of users and items over a share of the rows of a model's vocabularies.

    None without snapshots. A version that several sets share is held once.
    """
    refs, count = snapshots.refs, request.config.snapshots.count
    if not refs:
        return None
    folders = [request.store.path(ref) for ref in refs]
    places = {ref: place for place, ref in enumerate(refs)}
    sets = torch.full((len(snapshots.sets), count), ABSENT)
    for number, members in enumerate(snapshots.sets):
        sets[number, : len(members)] = torch.tensor([places[ref] for ref in members])
    torch.manual_seed(request.config.seed)
    return {
        side: EntitySnapshots(
            *checkpoint.align_snapshots(folders, side, vocabularies[name], share),
            request.config.snapshots,
            sets,
            share,
            vocabularies[name].rows,
        )
        for side, name in checkpoint.SIDES.items()
    }


def grow_vocabularies(
    request: Request, plan: Plan, inputs: Inputs, days: Days
) -> tuple[Vocabularies, dict[str, float]]:
    """Extend the vocabularies of `plan.grow_from` by the ids of the days, snapshots and teacher.

    Or admit and evict, where the level's `vocabulary` names a field; a version's metrics tell of
    it. Raises ConfigError for too few rows, StoreError for ids that changed their type.
    """
    base: Vocabularies = {}
    if plan.grow_from:
        base = checkpoint.load(request.store.path(plan.grow_from)).vocabularies
    bounded = request.config.training(plan.level).vocabulary
    vocabularies: Vocabularies = {}
    metrics: dict[str, float] = {}
    with contract.connect(request.config) as connection:
        for name in inputs.vocabularies:
            parent, multi = base.get(name, EMPTY), name in dict(inputs.multi)
            if name in bounded:
                paths = _uncounted(request, plan, days)
                read = seen(connection, paths, name, multi)
                renewal = _renewal(request, plan, name, parent, read)
                vocabularies[name] = renewal.vocabulary
                metrics |= renewal.metrics(name, request.date)
                continue
            paths = [day.path for day in days.values()]
            vocabularies[name] = parent.extended(distinct(connection, paths, name, multi))
            for ref in _told_by(plan, name):
                vocabularies[name] = vocabularies[name].extended(_ids_of(request, ref, name))
    del base
    pa.default_memory_pool().release_unused()  # a network is made next
    return vocabularies, metrics


def _renewal(
    request: Request, plan: Plan, name: str, parent: Vocabulary, read: Sightings
) -> Renewal:
    settings = request.config.training(plan.level).vocabulary[name]
    of_parent = plan.grow_from.date if plan.grow_from else request.date
    if parent.sightings is None:
        parent = Vocabulary(parent.values, assumed(parent.values, of_parent, settings))
    told = [_sightings(request, ref, name, settings) for ref in _told_by(plan, name)]
    where = f"{plan.level}.vocabulary.{name}"
    try:
        return renewed(parent, read, told, settings, request.date, where)
    except StoreError as error:
        raise StoreError(f"{name}: {error}") from None


def _told_by(plan: Plan, name: str) -> list[Ref]:
    """Return the versions whose ids of a field get rows: TPM's, and a CPM that teaches a chain."""
    snapshots = plan.parents.get("tpm", []) if plan.level != "tpm" and name in SIDE_OF else []
    teachers = plan.parents.get("cpm", []) if plan.level == "actr" else []
    return [*snapshots, *(ref for ref in teachers if ref != plan.grow_from)]


def _ids_of(request: Request, ref: Ref, name: str) -> pa.Array:
    folder = request.store.path(ref)
    if ref.level == "tpm":
        return checkpoint.snapshot_ids(folder, SIDE_OF[name])
    return Vocabulary.load(folder / "vocabulary" / f"{name}.parquet").values


def _sightings(request: Request, ref: Ref, name: str, settings: Admission) -> Sightings:
    """Return when the ids of a version were seen."""
    vocabulary = Vocabulary.load(request.store.path(ref) / "vocabulary" / f"{name}.parquet")
    if vocabulary.sightings is None:
        return assumed(vocabulary.values, ref.date, settings)
    _, last, counts = vocabulary.sightings
    count = len(vocabulary.values)  # those that wait are not in the snapshot
    return Sightings(vocabulary.values, last[:count], counts[:count])


def _uncounted(request: Request, plan: Plan, days: Days) -> list[Path]:
    """Return the days that the parent has not read: those after its own, of the same domains."""
    if not plan.grow_from:
        return [day.path for day in days.values()]
    manifest = request.store.manifest(plan.grow_from)
    counted = {key.split("/")[0] for key in manifest.data_digests}
    return [
        day.path
        for (domain, date), day in days.items()
        if domain not in counted or date > manifest.window_end
    ]
