"""TPM: the tiny model over the long window of natural content, continued from its previous version."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ecdctr.data.batches import Inputs
from ecdctr.data.days import window
from ecdctr.data.vocabulary import Vocabulary
from ecdctr.levels.common import run, start_from
from ecdctr.levels.request import Outcome, Plan, Request, Start
from ecdctr.models.tpm import TpmNet
from ecdctr.training import checkpoint


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
        return start_from(model, parent, checkpoint.load(request.store.path(parent)), config.tpm.carry_optimizer)

    def finish(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
        checkpoint.save_snapshot(model, vocabularies, folder)

    plan = Plan("tpm", {"tpm": [parent]} if parent else {}, dates)
    return run(request, plan, parent, build, finish)
