"""What a version takes from others: weights by raw id, snapshots, vocabularies that it extends."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.vocabulary import EMPTY, distinct
from ecdctr.impressions import contract
from ecdctr.levels.request import Network, Plan, Request, SnapshotSets, Start, Vocabularies
from ecdctr.models import checkpoint
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.snapshots import ABSENT, EntitySnapshots
from ecdctr.models.transfer import load_dense

if TYPE_CHECKING:
    from ecdctr.examples.batches import Inputs
    from ecdctr.store.manifest import Ref


def start_from(
    model: Network, parent: Ref, saved: checkpoint.Checkpoint, carry_optimizer: bool
) -> Start[Network]:
    """Give a network its parent's weights.

    Embedding rows by raw id, dense layers, Adam's moments if asked for. Raises ConfigError when the
    parent's network is another one, or has saved no moments.
    """
    _load_tables(model, parent, saved)
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
    return Start(model, saved.optimizer if carry_optimizer else None)


def _load_tables(model: nn.Module, parent: Ref, saved: checkpoint.Checkpoint) -> None:
    embeddings = FieldEmbeddings.of(model)
    for name, table in saved.tables.items():
        dim = embeddings.table.weight.shape[1]
        if table.shape[1] != dim:
            raise ConfigError(
                f"{parent.level} {parent} has embeddings of dimension {table.shape[1]}, the "
                f"configuration says {dim}; set embedding_dim as before, or start a new experiment."
            )
        embeddings.load_prefix(name, table)


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
    serving = _known_on(request, request.date)
    if settings.require_all and len(serving) < settings.count:
        raise StoreError(
            f"{request.date}: {settings.count} TPM snapshots {settings.stride_days} days apart are "
            f"required, found {len(serving)} ({', '.join(map(str, serving))}); train the "
            "missing ones, or set snapshots.require_all: false."
        )
    if settings.point_in_time:
        by_day = {day: _known_on(request, day - dt.timedelta(days=1)) for day in sorted(days)}
    sets = list(dict.fromkeys((serving, *by_day.values())))
    return SnapshotSets(tuple(sets), {day: sets.index(refs) for day, refs in by_day.items()})


def _known_on(request: Request, date: dt.date) -> tuple[Ref, ...]:
    """Return the newest TPM versions as of the K dates, newest first, each once."""
    resolved = (request.resolve("tpm", as_of) for as_of in request.config.snapshots.as_of(date))
    return tuple(dict.fromkeys(ref for ref in resolved if ref))


def load_snapshots(
    request: Request, snapshots: SnapshotSets, vocabularies: Vocabularies
) -> dict[str, EntitySnapshots] | None:
    """Read the snapshots of users and items over the rows of a model's vocabularies.

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
            *checkpoint.align_snapshots(folders, side, vocabularies[name]),
            request.config.snapshots,
            sets,
        )
        for side, name in checkpoint.SIDES.items()
    }


def grow_vocabularies(
    request: Request, plan: Plan, inputs: Inputs, files: list[Path]
) -> Vocabularies:
    """Extend the vocabularies of `plan.grow_from` by the ids of examples and snapshots."""
    base = (
        checkpoint.load(request.store.path(plan.grow_from)).vocabularies if plan.grow_from else {}
    )
    multi = {name for name, _ in inputs.multi}
    with contract.connect(request.config) as connection:
        vocabularies = {
            name: base.get(name, EMPTY).extended(distinct(connection, files, name, name in multi))
            for name in inputs.vocabularies
        }
    if plan.level != "tpm":
        folders = [request.store.path(ref) for ref in plan.parents.get("tpm", [])]
        for side, name in checkpoint.SIDES.items():
            for ids in [checkpoint.snapshot_ids(folder, side) for folder in folders]:
                vocabularies[name] = vocabularies[name].extended(ids)
    return vocabularies
