"""What a version takes from others: weights by raw id, snapshots, vocabularies that it extends."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.batches import Inputs
from ecdctr.examples.vocabulary import EMPTY, distinct
from ecdctr.impressions import contract
from ecdctr.levels.request import Network, Plan, Request, Start, Vocabularies
from ecdctr.models import checkpoint
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.transfer import load_dense
from ecdctr.store.manifest import Ref


def start_from(
    model: Network, parent: Ref, saved: checkpoint.Checkpoint, carry_optimizer: bool
) -> Start[Network]:
    """Give a network its parent's weights: embedding rows by raw id, dense layers, Adam's moments if asked for.

    Raises ConfigError when the parent's network is another one, or has saved no moments.
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


def resolve_snapshots(request: Request) -> list[Ref]:
    """Resolve the K TPM versions as of d - lag, d - lag - stride, d - lag - 2 stride, …, newest first, each once.

    With a lag of CPM's window the vectors are out of sample where CPM trains. Without it the newest
    TPM has seen the very labels that CPM learns from, and CPM trusts its vectors more than they are
    worth on the next day.

    Raises StoreError if there is none, or fewer than K and `snapshots.require_all` is set.
    """
    settings = request.config.snapshots
    snapshots: list[Ref] = []
    for as_of in settings.as_of(request.date):
        ref = request.store.resolve("tpm", as_of, request.experiment)
        if ref and ref not in snapshots:
            snapshots.append(ref)
    if settings.count and not snapshots:
        first = settings.as_of(request.date)[0]
        request.store.require("tpm", first, request.experiment, request.variant)
    if settings.require_all and len(snapshots) < settings.count:
        raise StoreError(
            f"{request.date}: {settings.count} TPM snapshots {settings.stride_days} days apart are "
            f"required, found {len(snapshots)} ({', '.join(map(str, snapshots))}); train the "
            "missing ones, or set snapshots.require_all: false."
        )
    return snapshots


def load_snapshots(
    request: Request, refs: list[Ref], vocabularies: Vocabularies
) -> dict[str, EntitySnapshots] | None:
    """Read the snapshots of users and items over the rows of a model's vocabularies; None without snapshots."""
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


def grow_vocabularies(
    request: Request, plan: Plan, inputs: Inputs, files: list[Path]
) -> Vocabularies:
    """Extend the vocabularies of `plan.grow_from` by the ids of the examples, and of the snapshots where they are used."""
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
