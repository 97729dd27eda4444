"""A-CTR: the ads model of the day, from CPM or from yesterday's A-CTR, with the snapshots' frozen aggregate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from ecdctr.config import LEVEL_DOMAIN
from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.batches import Batch, Inputs, Part, training_batches
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.parents import load_snapshots, resolve_snapshots, start_from
from ecdctr.levels.request import Outcome, Plan, Request, Start, Vocabularies
from ecdctr.levels.restore import load_ctr_network
from ecdctr.levels.run import run
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.models.transfer import apply_batch_norm_policy, elastic_weight_consolidation
from ecdctr.store.manifest import Ref

FISHER_BATCHES = 50


def train_actr(request: Request) -> Outcome:
    """Train A-CTR for a data date and publish the servable model with merged snapshot tables."""
    return run(Actr(request))


@dataclass(frozen=True)
class Origin:
    """Where A-CTR starts, the snapshots that go with it, newest first, and a network that only teaches (KEEP, CTNet)."""

    parent: Ref | None
    snapshots: list[Ref]
    teacher: Ref | None = None

    @property
    def parents(self) -> dict[str, list[Ref]]:
        """By level, as a manifest lists them."""
        networks = {ref.level: [ref] for ref in (self.parent, self.teacher) if ref}
        return networks | ({"tpm": self.snapshots} if self.snapshots else {})

    @property
    def continues(self) -> bool:
        """Whether it goes on from yesterday's A-CTR."""
        return self.parent is not None and self.parent.level == "actr"


@dataclass(frozen=True)
class Actr:
    """Fine-tune CPM on the window of ads, or go on from yesterday's A-CTR with the new day."""

    request: Request
    algorithm: ClassVar[int] = 1

    @cached_property
    def origin(self) -> Origin:
        """Where this version starts."""
        return _origin(self.request)

    def plan(self) -> Plan:
        """Read the window of ads, or the days since the version that goes on."""
        request, settings, origin = self.request, self.request.config.actr, self.origin
        dates = window(request.date, settings.window_days)
        if origin.continues and origin.parent:
            dates = [date for date in dates if date > origin.parent.date]
        natural = window(request.date, settings.natural_days) if settings.natural_days else []
        grow_from = origin.parent or origin.teacher
        return Plan("actr", origin.parents, dates, tuple(natural), grow_from)

    def build(self, plan: Plan, inputs: Inputs, vocabularies: Vocabularies) -> Start[CtrNet]:
        """Make the network with CPM's weights, its aggregator frozen and merged."""
        request, config, origin = self.request, self.request.config, self.origin
        rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
        teacher = load_ctr_network(request.store, origin.teacher) if origin.teacher else None
        snapshots = load_snapshots(request, origin.snapshots, vocabularies)
        model = CtrNet(config, inputs, rows, config.seed, snapshots, teacher)
        if not origin.parent:
            return Start(model)
        saved = checkpoint.load(request.store.path(origin.parent))
        start = start_from(model, origin.parent, saved, config.actr.carry_optimizer)
        if not origin.continues:
            apply_batch_norm_policy(model, config.actr.batch_norm)
        if config.actr.freeze_aggregator:
            model.freeze_aggregator()
            model.merge_snapshots()
        if not config.actr.ewc:
            return start
        batches = _old_task(request, origin.parent, inputs, vocabularies)
        penalty = elastic_weight_consolidation(model, batches, config.actr.ewc)
        return Start(model, start.optimizer, penalty)

    def finish(self, model: CtrNet, vocabularies: Vocabularies, folder: Path) -> None:
        """Merge the K snapshots into one table, unless that was done before training."""
        if not model.merged:
            model.merge_snapshots()


def _origin(request: Request) -> Origin:
    config, store = request.config, request.store
    if config.chained("actr") and not request.restart:
        yesterday = store.newest(request.experiment, "actr", request.before)
        if yesterday:
            _refuse_gap(request, yesterday)
            return Origin(yesterday, _snapshots_of(request, yesterday))
    if config.actr.init == "none":
        teacher = (
            None
            if config.actr.source == "none"
            else store.require("cpm", request.date, request.experiment, request.variant)
        )
        return Origin(None, resolve_snapshots(request), teacher)
    cpm = store.require("cpm", request.date, request.experiment, request.variant)
    snapshots = _snapshots_of(request, cpm)
    if bool(snapshots) != bool(config.snapshots.count):
        raise ConfigError(
            f"CPM {cpm} was trained with {len(snapshots)} snapshots, but snapshots.count is "
            f"{config.snapshots.count}; train cpm with the same variant first: ecdctr train cpm "
            f"--date {request.date} --experiment {request.experiment} --variant {request.variant}"
        )
    return Origin(cpm, snapshots)


def _refuse_gap(request: Request, newest: Ref) -> None:
    """Refuse a chain that skipped a day with ads: it would not be what the same days in order give."""
    days = open_impressions(request.config.data.root).dates("ads")
    skipped = [str(date) for date in days if newest.date < date < request.date]
    if skipped:
        raise StoreError(
            f"A-CTR continues day by day, but experiment '{request.experiment}' has no version for "
            f"{', '.join(skipped)} (newest: {newest.date}); train these days first, or start anew "
            "with --restart."
        )


def _snapshots_of(request: Request, ref: Ref) -> list[Ref]:
    """Name the same K snapshots that the parent took (E-CDCTR)."""
    return [Ref.parse(text) for text in request.store.manifest(ref).parents.get("tpm", [])]


def _old_task(
    request: Request, parent: Ref, inputs: Inputs, vocabularies: Vocabularies
) -> Iterator[Batch]:
    """Read batches of what the parent learned last: where EWC measures what matters to it."""
    config, manifest = request.config, request.store.manifest(parent)
    domain = LEVEL_DOMAIN[manifest.level]
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
