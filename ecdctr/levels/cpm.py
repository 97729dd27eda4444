"""CPM: the complete model on the short window of natural content, with the last K TPM snapshots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ecdctr.impressions.days import window
from ecdctr.levels.parents import load_snapshots, resolve_snapshots, start_from
from ecdctr.levels.reading import days_since
from ecdctr.levels.request import Materials, Outcome, Plan, Request, Start, Vocabularies
from ecdctr.levels.run import run
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet

if TYPE_CHECKING:
    from ecdctr.store.manifest import Ref


def train_cpm(request: Request) -> Outcome:
    """Train CPM for a data date and publish it; the aggregator learns here."""
    return run(Cpm(request))


@dataclass(frozen=True)
class Cpm:
    """From scratch on its window (E-CDCTR), or with `refresh: incremental` from the version before.

    The latter reads the days since that version, each with the snapshots that were known the day
    before.
    """

    request: Request
    algorithm: ClassVar[int] = 2

    def plan(self) -> Plan:
        """Resolve snapshots, and the version to go on from.

        That is one of the experiment itself: each experiment has a chain of its own.
        """
        request, settings = self.request, self.request.config.cpm
        parent = self._parent()
        if parent:
            dates, skipped = days_since(request, parent, settings, "cpm")
        else:
            dates, skipped = window(request.date, settings.first_days), ()
        snapshots = resolve_snapshots(request, dates)
        parents = {"tpm": snapshots.refs} if snapshots.sets else {}
        if parent:
            parents["cpm"] = [parent]
        return Plan("cpm", parents, dates, grow_from=parent, skipped=skipped, snapshots=snapshots)

    def build(self, materials: Materials) -> Start[CtrNet]:
        """Make the network over the snapshots, with the weights of the version before."""
        request, config, parent = self.request, self.request.config, materials.plan.grow_from
        vocabularies, share = materials.vocabularies, materials.share
        snapshots = load_snapshots(request, materials.plan.snapshots, vocabularies, share)
        model = CtrNet(
            config, materials.inputs, materials.rows, config.seed, snapshots, share=share
        )
        if not parent:
            return Start(model)
        saved = checkpoint.load(request.store.path(parent))
        return start_from(model, parent, saved, vocabularies, config.cpm.carry_optimizer)

    def finish(self, model: CtrNet, vocabularies: Vocabularies, folder: Path) -> None:
        """Merge the K snapshots that serve into one table, so that the version can be scored."""
        model.merge_snapshots(serving_only=True)

    def _parent(self) -> Ref | None:
        request = self.request
        if request.restart or not request.config.chained("cpm"):
            return None
        return request.version_before("cpm")
