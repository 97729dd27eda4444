"""A-CTR: the ads model of the day.

It starts from CPM or from yesterday's A-CTR and reads the snapshots' frozen aggregate.
"""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ecdctr.config import LEVEL_DOMAIN
from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.batches import Batch, Cut, training_batches
from ecdctr.examples.chunks import Part
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.parents import load_snapshots, resolve_snapshots, start_from
from ecdctr.levels.reading import click_rate, training_parts
from ecdctr.levels.request import (
    Materials,
    Outcome,
    Plan,
    Request,
    SnapshotSets,
    Start,
    Vocabularies,
)
from ecdctr.levels.restore import load_teacher, trained_config
from ecdctr.levels.run import run
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.models.transfer import (
    apply_batch_norm_policy,
    elastic_weight_consolidation,
    fit_to_clicks,
    start_at_rate,
)
from ecdctr.store.manifest import Ref

if TYPE_CHECKING:
    from ecdctr.config import Config

FISHER_BATCHES = 50
RATE_ROWS = 20_000  # that say how sure of its scores A-CTR starts


def train_actr(request: Request) -> Outcome:
    """Train A-CTR for a data date and publish the servable model with merged snapshot tables."""
    return run(Actr(request))


@dataclass(frozen=True)
class Origin:
    """Where A-CTR starts, or a network that only teaches it (KEEP, CTNet)."""

    parent: Ref | None
    teacher: Ref | None = None

    @property
    def continues(self) -> bool:
        """Whether it goes on from yesterday's A-CTR."""
        return self.parent is not None and self.parent.level == "actr"


@dataclass(frozen=True)
class Actr:
    """Fine-tune CPM on the window of ads, or go on from yesterday's A-CTR with the new day."""

    request: Request
    algorithm: ClassVar[int] = 3

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
        snapshots = self._snapshots([*dates, *natural])
        parents = {ref.level: [ref] for ref in (origin.parent, origin.teacher) if ref}
        if snapshots.sets:
            parents["tpm"] = snapshots.refs
        return Plan("actr", parents, dates, tuple(natural), grow_from, snapshots=snapshots)

    def build(self, materials: Materials) -> Start[CtrNet]:
        """Make the network, with CPM's weights or yesterday's or from nothing."""
        config, origin = self.request.config, self.origin
        if origin.parent:
            start = self._from_parent(materials, origin.parent)
            if config.starts_at_rate and not origin.continues:
                fit_to_clicks(start.model, _first_ads(config, materials))
            return start
        model = self._network(materials)
        if config.starts_at_rate:
            rate = click_rate(config, materials.days, materials.plan.snapshots)
            start_at_rate(model, rate)
        return Start(model)

    def _network(self, materials: Materials) -> CtrNet:
        request, config, teacher = self.request, self.request.config, self.origin.teacher
        sets, share = materials.plan.snapshots, materials.share
        taught = teacher and load_teacher(request, teacher, sets, materials.vocabularies)
        snapshots = load_snapshots(request, sets, materials.vocabularies, share)
        rows, seed = materials.rows, config.seed
        return CtrNet(config, materials.inputs, rows, seed, snapshots, taught, share)

    def _from_parent(self, materials: Materials, parent: Ref) -> Start[CtrNet]:
        """Take a parent's weights, its aggregator frozen and merged."""
        request, settings = self.request, self.request.config.actr
        model, saved = self._network(materials), checkpoint.load(request.store.path(parent))
        start = start_from(model, parent, saved, materials.vocabularies, settings.carry_optimizer)
        if not self.origin.continues:
            apply_batch_norm_policy(model, settings.batch_norm)
        if settings.freeze_aggregator:
            model.freeze_aggregator()
            model.merge_snapshots()
        if not settings.ewc:
            return start
        batches = _old_task(request, parent, materials)
        penalty = elastic_weight_consolidation(model, batches, settings.ewc)
        return Start(model, start.optimizer, penalty)

    def finish(self, model: CtrNet, vocabularies: Vocabularies, folder: Path) -> None:
        """Keep one merged table: that of the snapshots that serve."""
        model.merge_snapshots(serving_only=True)

    def _snapshots(self, days: list[dt.date]) -> SnapshotSets:
        """Return the snapshots that each day knew.

        In the paper's form they are the K that the parent took (E-CDCTR).
        """
        request, parent = self.request, self.origin.parent
        if parent and not request.config.snapshots.point_in_time:
            refs = _snapshots_of(request, parent)
            return SnapshotSets((tuple(refs),)) if refs else SnapshotSets()
        if parent and request.config.actr.ewc:
            days = [*days, request.store.manifest(parent).window_end]  # see _old_task
        return resolve_snapshots(request, days)


def _origin(request: Request) -> Origin:
    config = request.config
    if config.chained("actr") and not request.restart:
        yesterday = request.version_before("actr")
        if yesterday:
            _refuse_gap(request, yesterday)
            return Origin(yesterday, _teacher(request))
    if config.actr.init == "none":
        return Origin(None, _teacher(request))
    cpm = request.require("cpm", request.date)
    _refuse_other_inputs(request, cpm)
    return Origin(cpm)


def _teacher(request: Request) -> Ref | None:
    """Return the newest CPM as of the day, where it teaches."""
    if request.config.actr.source == "none":
        return None
    cpm = request.require("cpm", request.date)
    _refuse_other_inputs(request, cpm)
    _refuse_other_teacher(request, cpm)
    return cpm


def _refuse_other_teacher(request: Request, cpm: Ref) -> None:
    """Refuse a CPM that cannot be asked about the examples of A-CTR, or hands on other layers."""
    theirs, ours = trained_config(request.store.manifest(cpm)), request.config
    compared = {
        "features": (theirs.features, ours.features),
        "memory": (_remembered(theirs), _remembered(ours)),
        "network.backbone": (theirs.network.backbone, ours.network.backbone),
        "network.hidden": (theirs.network.hidden, ours.network.hidden),
    }
    unlike = [name for name, (trained, asked) in compared.items() if trained != asked]
    if unlike:
        raise ConfigError(
            f"CPM {cpm} cannot teach: it was trained with other settings of {', '.join(unlike)}; "
            f"{_remedy(request)}"
        )


def _remembered(config: Config) -> tuple[object, ...]:
    """Return what decides which numbers of memory a network reads."""
    return (config.memory.windows, config.memory_keys) if config.memory.enabled else ()


def _refuse_other_inputs(request: Request, cpm: Ref) -> None:
    """Refuse a CPM that was trained without A-CTR's snapshots, or on others."""
    taken, settings = len(_snapshots_of(request, cpm)), request.config.snapshots
    of_cpm = trained_config(request.store.manifest(cpm))
    theirs, ours = of_cpm.data.history_features, request.config.data.history_features
    trained = of_cpm.snapshots.point_in_time
    if bool(taken) != bool(settings.count):
        problem = f"{taken} snapshots, but snapshots.count is {settings.count}"
    elif taken and trained != settings.point_in_time:
        problem = (
            f"snapshots.point_in_time: {str(trained).lower()}, but the configuration says "
            f"{str(settings.point_in_time).lower()}"
        )
    elif theirs != ours:
        problem = f"data.history_features {list(theirs)}, but the configuration says {list(ours)}"
    else:
        return
    raise ConfigError(f"CPM {cpm} was trained with {problem}; {_remedy(request)}")


def _remedy(request: Request) -> str:
    return (
        f"train cpm with the same variant first: ecdctr train cpm --date {request.date} "
        f"--experiment {request.experiment} --variant {request.variant}"
    )


def _refuse_gap(request: Request, newest: Ref) -> None:
    """Refuse a chain that skipped a day with ads.

    It would not be what the same days in order give.
    """
    days = open_impressions(request.config.data.root).dates("ads")
    skipped = [str(date) for date in days if newest.date < date < request.date]
    if skipped:
        raise StoreError(
            f"A-CTR continues day by day, but experiment '{request.experiment}' has no version for "
            f"{', '.join(skipped)} (newest: {newest.date}); train these days first, or start anew "
            "with --restart."
        )


def _snapshots_of(request: Request, ref: Ref) -> list[Ref]:
    """Name the snapshots that the parent took, newest first."""
    return [Ref.parse(text) for text in request.store.manifest(ref).parents.get("tpm", [])]


def _old_task(request: Request, parent: Ref, materials: Materials) -> Iterator[Batch]:
    """Read batches of what the parent learned last: where EWC measures what matters to it."""
    config, manifest = request.config, request.store.manifest(parent)
    domain = LEVEL_DOMAIN[manifest.level]
    days = prepare(config, domain, [manifest.window_end])
    number = materials.plan.snapshots.of_day.get(manifest.window_end, 0)
    held_out = config.actr.hold_out_every if domain == "ads" else 0
    parts = [Part(day.path, domain, hold_out_every=held_out, snapshots=number) for day in days]
    return itertools.islice(_batches(config, parts, materials), FISHER_BATCHES)


def _first_ads(config: Config, materials: Materials) -> Iterator[Batch]:
    """Read some of the ads that are learned from first."""
    parts = training_parts(config, materials.days, materials.plan.snapshots)
    ads = [part for part in parts if part.domain == "ads"]
    batches = max(1, RATE_ROWS // config.actr.batch_size)
    return itertools.islice(_batches(config, ads, materials), batches)


def _batches(config: Config, parts: list[Part], materials: Materials) -> Iterator[Batch]:
    cut = Cut(config.actr.batch_size, config.actr.chunk_rows, config.seed)
    return training_batches(parts, materials.inputs, materials.vocabularies, cut)
