"""CPM: the complete model on the short window of natural content, with the last K TPM snapshots."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ecdctr.data.batches import Inputs
from ecdctr.data.days import window
from ecdctr.data.vocabulary import Vocabulary
from ecdctr.levels.common import load_snapshots, resolve_snapshots, run
from ecdctr.levels.request import Outcome, Plan, Request, Start
from ecdctr.models.network import CtrNet


def train_cpm(request: Request) -> Outcome:
    """Train CPM for a data date from scratch on its window and publish it; the aggregator learns here."""
    config = request.config
    snapshots = resolve_snapshots(request)

    def build(inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> Start:
        rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
        return Start(CtrNet(config, inputs, rows, config.seed, load_snapshots(request, snapshots, vocabularies)))

    def finish(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
        assert isinstance(model, CtrNet)  # noqa: S101
        model.merge_snapshots()

    plan = Plan("cpm", {"tpm": snapshots} if snapshots else {}, window(request.date, config.cpm.window_days))
    return run(request, plan, None, build, finish)
