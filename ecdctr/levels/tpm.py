"""TPM: the tiny model over the long window of natural content, continued from its previous version."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ecdctr.examples.batches import Inputs
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.impressions.days import window
from ecdctr.levels.request import Outcome, Plan, Request, Start
from ecdctr.levels.run import run, start_from
from ecdctr.models import checkpoint
from ecdctr.models.tpm import TpmNet


def train_tpm(request: Request) -> Outcome:
    """Train TPM for a data date and publish it with its snapshot tables.

    Every version starts from the one before it, so that all snapshots live in one embedding space.
    """
    config = request.config
    parent = request.store.resolve("tpm", request.before, request.experiment)
    dates = window(request.date, config.tpm.window_days)
    if parent and config.tpm.refresh == "incremental":
        dates = [date for date in dates if date > parent.date]

    def build(inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> Start:
        rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
        model = TpmNet(config, inputs, rows, config.seed)
        if not parent:
            return Start(model)
        return start_from(
            model, parent, checkpoint.load(request.store.path(parent)), config.tpm.carry_optimizer
        )

    def finish(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
        checkpoint.save_snapshot(model, vocabularies, folder)

    plan = Plan("tpm", {"tpm": [parent]} if parent else {}, dates)
    return run(request, plan, parent, build, finish)
