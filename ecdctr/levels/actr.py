"""A-CTR: the ads model of the day, from CPM or from yesterday's A-CTR, with the snapshots' frozen aggregate."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import NamedTuple

from torch import nn

from ecdctr.config import LEVEL_DOMAIN, Domain
from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.batches import Inputs, Part, training_batches
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.impressions.days import available_dates, window
from ecdctr.levels.request import Outcome, Plan, Request, Start
from ecdctr.levels.restore import load_network
from ecdctr.levels.run import load_snapshots, resolve_snapshots, run, start_from
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.models.transfer import apply_batch_norm_policy, elastic_weight_consolidation
from ecdctr.store.manifest import Ref

FISHER_BATCHES = 50


class Source(NamedTuple):
    """Where A-CTR starts, the snapshots that go with it, newest first, and a network that only helps (KEEP, CTNet)."""

    parent: Ref | None
    snapshots: list[Ref]
    helper: Ref | None = None

    @property
    def parents(self) -> dict[str, list[Ref]]:
        """By level, as a manifest lists them."""
        found = {ref.level: [ref] for ref in (self.parent, self.helper) if ref}
        return found | ({"tpm": self.snapshots} if self.snapshots else {})


def train_actr(request: Request) -> Outcome:
    """Train A-CTR for a data date and publish the servable model with merged snapshot tables."""
    config = request.config
    source = _source(request)
    dates = window(request.date, config.actr.window_days)
    continues = source.parent is not None and source.parent.level == "actr"
    if continues and source.parent:
        dates = [date for date in dates if date > source.parent.date]
    natural = window(request.date, config.actr.natural_days) if config.actr.natural_days else []

    def build(inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> Start:
        rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
        helper = load_network(request.store, source.helper)[0] if source.helper else None
        assert helper is None or isinstance(helper, CtrNet)  # noqa: S101
        model = CtrNet(
            config,
            inputs,
            rows,
            config.seed,
            load_snapshots(request, source.snapshots, vocabularies),
            helper,
        )
        if not source.parent:
            return Start(model)
        saved = checkpoint.load(request.store.path(source.parent))
        start = start_from(model, source.parent, saved, config.actr.carry_optimizer)
        if not continues:
            apply_batch_norm_policy(model, config.actr.batch_norm)
        if config.actr.freeze_aggregator:
            model.freeze_aggregator()
            model.merge_snapshots()
        if config.actr.ewc:
            batches = _old_task(request, source.parent, inputs, vocabularies)
            start = start._replace(
                penalty=elastic_weight_consolidation(model, batches, config.actr.ewc)
            )
        return start

    def finish(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
        assert isinstance(model, CtrNet)  # noqa: S101
        if any(entity.merged is None for entity in model.snapshots.values()):
            model.merge_snapshots()

    plan = Plan("actr", source.parents, dates, tuple(natural))
    return run(request, plan, source.parent or source.helper, build, finish)


def _source(request: Request) -> Source:
    config, store = request.config, request.store
    if config.chained("actr") and not request.restart:
        yesterday = store.newest(request.experiment, "actr", request.before)
        if yesterday:
            _refuse_gap(request, yesterday)
            return Source(yesterday, _snapshots_of(request, yesterday))
    if config.actr.init == "none":
        helper = (
            None
            if config.actr.source == "none"
            else store.require("cpm", request.date, request.experiment)
        )
        return Source(None, resolve_snapshots(request), helper)
    cpm = store.require("cpm", request.date, request.experiment)
    snapshots = _snapshots_of(request, cpm)
    if bool(snapshots) != bool(config.snapshots.count):
        raise ConfigError(
            f"CPM {cpm} was trained with {len(snapshots)} snapshots, but snapshots.count is {config.snapshots.count}; "
            f"train cpm with the same variant first: ecdctr train cpm --date {request.date} "
            f"--experiment {request.experiment} --variant {request.variant}"
        )
    return Source(cpm, snapshots)


def _refuse_gap(request: Request, newest: Ref) -> None:
    """A chain that skipped a day with ads would not be what the same days in order give."""
    days = available_dates(request.config.data.root, "ads")
    skipped = [str(date) for date in days if newest.date < date < request.date]
    if skipped:
        raise StoreError(
            f"A-CTR continues day by day, but experiment '{request.experiment}' has no version for "
            f"{', '.join(skipped)} (newest: {newest.date}); train these days first, or start anew with --restart."
        )


def _snapshots_of(request: Request, ref: Ref) -> list[Ref]:
    """The same K snapshots that the parent took (E-CDCTR)."""
    return [Ref.parse(text) for text in request.store.manifest(ref).parents.get("tpm", [])]


def _old_task(
    request: Request, parent: Ref, inputs: Inputs, vocabularies: dict[str, Vocabulary]
) -> itertools.islice:
    """Batches of the data that the parent learned last: where EWC measures what matters to it."""
    config, manifest = request.config, request.store.manifest(parent)
    domain: Domain = LEVEL_DOMAIN[manifest.level]  # type: ignore[index]
    days = prepare(config, domain, [manifest.window_end])
    batches = training_batches(
        [Part(day.path, domain) for day in days],
        inputs,
        vocabularies,
        config.actr.batch_size,
        config.actr.chunk_rows,
        config.seed,
    )
    return itertools.islice(batches, FISHER_BATCHES)
