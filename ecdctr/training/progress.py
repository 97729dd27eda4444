"""An interrupted training goes on where it was.

Weights, moments and the exact position in the data, in one file.
"""

from __future__ import annotations

import json
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open

from ecdctr.files import durable
from ecdctr.models.checkpoint import Moments, of_tables
from ecdctr.models.embeddings import carry
from ecdctr.models.tensors import Stored, stored, write
from ecdctr.training.workers import ALONE, Workers

if TYPE_CHECKING:
    from numpy.typing import NDArray
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
        of them see the same file. Another run of the same training may save or end meanwhile.
        """
        with durable.keeping(self.path) as path:
            return self._resume(path, model, optimizers)

    def _resume(self, path: Path, model: nn.Module, optimizers: Optimizers) -> Position:
        tensors: dict[str, Stored] = {}
        position = Position()
        try:
            tensors = stored(path)
            with safe_open(path, framework="pt") as file:
                position = Position(**json.loads(file.metadata()["position"]))
        except (FileNotFoundError, SafetensorError):
            pass
        if not self.workers.all(bool(tensors)) or not self.workers.alike(*position):
            return Position()
        embeddings, state = optimizers.embeddings, model.state_dict()
        for name, saved in _part(tensors, "model/").items():
            if name == TABLE:
                carry(saved, _same(embeddings.held), state[TABLE])
            else:
                state[name] = saved[...]
        model.load_state_dict(state)
        rows = {field: _same(embeddings.held_of(field)) for field in embeddings.rows}
        optimizers.load(Moments(_part(tensors, "optimizer/"), rows))
        return position

    def save(self, model: nn.Module, optimizers: Optimizers, position: Position) -> None:
        """Save if it is time to; whole or not at all.

        The first of several processes writes, the others send it their rows.
        """
        began = time.monotonic()
        if not self.workers.agree(began - self.saved_at >= self.wait):
            return
        of_model, moments = model.state_dict(), optimizers.state()
        tensors = {f"model/{name}": value for name, value in of_model.items()}
        tensors |= {f"optimizer/{name}": value for name, value in moments.items()}
        dealt = {f"model/{TABLE}", *(f"optimizer/{name}" for name in moments if of_tables(name))}
        metadata = {"position": json.dumps(position._asdict())}
        with self._replacing() as temporary:
            write(temporary, tensors, dealt, self.workers.share, metadata)
        self.saved_at = time.monotonic()
        self.wait = max(self.wait, SHARE_OF_TIME * (self.saved_at - began))

    def _replacing(self) -> AbstractContextManager[Path]:
        """Return what puts a file in place of the one before, on the first process alone."""
        if not self.workers.first:
            return nullcontext(self.path)
        durable.make_dir(self.path.parent)
        return durable.replacing(self.path)

    def discard(self) -> None:
        """Forget the progress: the training has ended."""
        self.path.unlink(missing_ok=True)


def _part(tensors: dict[str, Stored], prefix: str) -> dict[str, Stored]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def _same(rows: range) -> NDArray[np.int32]:
    """Return that these rows are those of the file."""
    return np.arange(rows.start, rows.stop, dtype=np.int32)
