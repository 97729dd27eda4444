"""TPM: the tiny model over the long window of natural content.

Continued from its previous version.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ecdctr.impressions.days import window
from ecdctr.levels.parents import start_from
from ecdctr.levels.reading import days_since
from ecdctr.levels.request import Materials, Outcome, Plan, Request, Start, Vocabularies
from ecdctr.levels.run import run
from ecdctr.models import checkpoint
from ecdctr.models.tpm import TpmNet


def train_tpm(request: Request) -> Outcome:
    """Train TPM for a data date and publish it with its snapshot tables."""
    return run(Tpm(request))


@dataclass(frozen=True)
class Tpm:
    """Every version starts from the one before it, so all snapshots live in one embedding space."""

    request: Request
    algorithm: ClassVar[int] = 1

    def plan(self) -> Plan:
        """Read the days since the version before, or the whole window where there is none."""
        request, settings = self.request, self.request.config.tpm
        parent = request.resolve("tpm", request.before)
        if parent and settings.refresh == "incremental":
            dates, skipped = days_since(request, parent, settings, "tpm")
        else:
            dates, skipped = window(request.date, settings.window_days), ()
        parents = {"tpm": [parent]} if parent else {}
        return Plan("tpm", parents, dates, grow_from=parent, skipped=skipped)

    def build(self, materials: Materials) -> Start[TpmNet]:
        """Make the network, with the weights of the version before."""
        config, parent = self.request.config, materials.plan.grow_from
        model = TpmNet(config, materials.inputs, materials.rows, config.seed, materials.share)
        if not parent:
            return Start(model)
        saved = checkpoint.load(self.request.store.path(parent))
        return start_from(model, parent, saved, materials.vocabularies, config.tpm.carry_optimizer)

    def finish(self, model: TpmNet, vocabularies: Vocabularies, folder: Path) -> None:
        """Write the historical-embedding tables of users and items."""
        precision = self.request.config.tpm.snapshot_precision
        checkpoint.save_snapshot(model, vocabularies, folder, precision)
