"""A-CTR: the ads model of the day, from CPM or from yesterday's A-CTR, with the snapshots' frozen aggregate."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from torch import nn

from ecdctr.data.batches import Inputs
from ecdctr.data.days import window
from ecdctr.data.vocabulary import Vocabulary
from ecdctr.errors import ConfigError
from ecdctr.levels.common import (
    Outcome,
    Plan,
    Request,
    copy_tables,
    load_parent,
    resolve_snapshots,
    run,
    snapshot_tensors,
)
from ecdctr.models.network import CtrNet
from ecdctr.models.transfer import apply_batch_norm_policy, load_dense
from ecdctr.store.manifest import Ref


class Source(NamedTuple):
    """Where A-CTR starts: a parent version or nothing, and the snapshots that go with it, newest first."""

    parent: Ref | None
    snapshots: list[Ref]


def train_actr(request: Request) -> Outcome:
    """Train A-CTR for a data date and publish the servable model with merged snapshot tables."""
    config = request.config
    source = _source(request)
    dates = window(request.date, config.actr.window_days)
    continues = source.parent is not None and source.parent.level == "actr"
    if continues and source.parent:
        dates = [date for date in dates if date > source.parent.date]

    def build(inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> nn.Module:
        rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
        tensors = snapshot_tensors(request.store, source.snapshots, vocabularies)
        model = CtrNet(config, inputs, rows, config.seed, tensors)
        if source.parent:
            loaded = load_parent(request, source.parent)
            copy_tables(model.embeddings, loaded, f"{source.parent.level} {source.parent}")
            _load_dense(model, loaded.dense, source.parent)
            if not continues:
                apply_batch_norm_policy(model, config.actr.batch_norm)
            if config.actr.freeze_aggregator:
                model.freeze_aggregator()
                model.merge_snapshots()
        return model

    def finish(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
        assert isinstance(model, CtrNet)  # noqa: S101
        if any(entity.merged is None for entity in model.snapshots.values()):
            model.merge_snapshots()

    parents = {}
    if source.parent:
        parents[source.parent.level] = [source.parent]
    if source.snapshots:
        parents["tpm"] = source.snapshots
    return run(request, Plan("actr", parents, dates), source.parent, build, finish)


def _source(request: Request) -> Source:
    config, store = request.config, request.store
    if config.actr.policy == "continue" and not request.restart:
        yesterday = store.resolve("actr", request.before, request.experiment)
        if yesterday and yesterday.experiment == request.experiment:
            return Source(yesterday, _snapshots_of(request, yesterday))
    if config.actr.init == "none":
        return Source(None, resolve_snapshots(request))
    cpm = store.require("cpm", request.date, request.experiment)
    snapshots = _snapshots_of(request, cpm)
    if bool(snapshots) != bool(config.snapshots.count):
        raise ConfigError(
            f"CPM {cpm} was trained with {len(snapshots)} snapshots, but snapshots.count is {config.snapshots.count}; "
            f"train cpm with the same variant first: ecdctr train cpm --date {request.date} "
            f"--experiment {request.experiment} --variant {request.variant}"
        )
    return Source(cpm, snapshots)


def _snapshots_of(request: Request, ref: Ref) -> list[Ref]:
    """The same K snapshots that the parent took (E-CDCTR)."""
    return [Ref.parse(text) for text in request.store.manifest(ref).parents.get("tpm", [])]


def _load_dense(model: CtrNet, state: dict, parent: Ref) -> None:
    try:
        load_dense(model, state)
    except RuntimeError as error:
        raise ConfigError(
            f"{parent} has another network than the configuration describes ({str(error).splitlines()[-1].strip()}); "
            "keep 'features', 'network' and 'snapshots' as its parent had them, or train the parent again."
        ) from None
