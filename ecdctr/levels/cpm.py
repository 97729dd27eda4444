"""CPM: the complete model on the short window of natural content, with the last K TPM snapshots."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from ecdctr.examples.batches import Inputs
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.impressions.days import window
from ecdctr.levels.request import Outcome, Plan, Request, Start
from ecdctr.levels.run import load_snapshots, resolve_snapshots, run, start_from
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.store.manifest import Ref


def train_cpm(request: Request) -> Outcome:
    """Train CPM for a data date and publish it; the aggregator learns here.

    From scratch on its window (E-CDCTR), or with `refresh: incremental` from the version before on the days since it,
    given the snapshots of this data date.
    """
    config = request.config
    snapshots = resolve_snapshots(request)
    parent = _parent(request)
    dates = window(request.date, config.cpm.window_days if parent else config.cpm.first_days)
    if parent:
        dates = [date for date in dates if date > parent.date]

    def build(inputs: Inputs, vocabularies: dict[str, Vocabulary]) -> Start:
        rows = {name: vocabulary.rows for name, vocabulary in vocabularies.items()}
        model = CtrNet(
            config, inputs, rows, config.seed, load_snapshots(request, snapshots, vocabularies)
        )
        if not parent:
            return Start(model)
        return start_from(
            model, parent, checkpoint.load(request.store.path(parent)), config.cpm.carry_optimizer
        )

    def finish(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
        assert isinstance(model, CtrNet)  # noqa: S101
        model.merge_snapshots()

    parents = {"tpm": snapshots} if snapshots else {}
    if parent:
        parents["cpm"] = [parent]
    return run(request, Plan("cpm", parents, dates), parent, build, finish)


def _parent(request: Request) -> Ref | None:
    """The version that this one goes on from: of the experiment itself, since a variant is a chain of its own."""
    if request.restart or not request.config.chained("cpm"):
        return None
    return request.store.newest(request.experiment, "cpm", request.before)
