"""An interrupted training goes on where it was.

Weights, moments and the exact position in the data, in one file.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ecdctr.files import durable
from ecdctr.training.workers import ALONE, Workers

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ecdctr.training.optimizers import Optimizers

TABLE = "embeddings.table.weight"
SHARE_OF_TIME = 20  # saving takes at most a twentieth of the time, however large the tables


class Position(NamedTuple):
    """How far a training is: the next step of an epoch, and what was counted before it."""

    epoch: int = 0
    step: int = 0
    samples: int = 0
    epoch_samples: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0


class Progress:
    """The file of one training, named by its fingerprint.

    Only the very same training goes on from it.
    """

    def __init__(self, path: Path, every_seconds: float, workers: Workers = ALONE) -> None:
        self.path, self.wait, self.workers = path, every_seconds, workers
        self.saved_at = time.monotonic()

    def resume(self, model: nn.Module, optimizers: Optimizers) -> Position:
        """Take up what was saved, if anything.

        A damaged file counts as nothing, and training begins anew. Several processes go on if all
        of them see the file.
        """
        tensors: dict[str, torch.Tensor] = {}
        position = Position()
        try:
            with safe_open(self.path, framework="pt") as file:
                names = file.keys()  # no dictionary: it has no iterator
                tensors = {name: file.get_tensor(name) for name in names}
                position = Position(**json.loads(file.metadata()["position"]))
        except (FileNotFoundError, SafetensorError):
            pass
        if not self.workers.all(bool(tensors)):
            return Position()
        state = _part(tensors, "model/")
        state[TABLE] = optimizers.embeddings.part(state[TABLE])
        model.load_state_dict(state)
        optimizers.load(_part(tensors, "optimizer/"))
        return position

    def save(self, model: nn.Module, optimizers: Optimizers, position: Position) -> None:
        """Save if it is time to; whole or not at all.

        The first of several processes writes, the others help.
        """
        began = time.monotonic()
        if not self.workers.agree(began - self.saved_at >= self.wait):
            return
        state = model.state_dict()
        state[TABLE] = optimizers.embeddings.whole(state[TABLE])
        tensors = {f"model/{name}": value.contiguous() for name, value in state.items()}
        tensors |= {f"optimizer/{name}": value for name, value in optimizers.state().items()}
        if self.workers.first:
            durable.make_dir(self.path.parent)
            with durable.replacing(self.path) as temporary:
                save_file(tensors, temporary, metadata={"position": json.dumps(position._asdict())})
        self.saved_at = time.monotonic()
        self.wait = max(self.wait, SHARE_OF_TIME * (self.saved_at - began))

    def discard(self) -> None:
        """Forget the progress: the training has ended."""
        self.path.unlink(missing_ok=True)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
