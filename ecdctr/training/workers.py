"""Processes that train one model together.

Who they are, what they agree on, how they are started on one machine.

The environment is torchrun's (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), whoever sets it:
torchrun, `ecdctr train --processes`, or an indexed Kubernetes job. Without it there is one process,
and nothing here costs anything.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import distributed
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from ecdctr.errors import ConfigError
from ecdctr.models.share import Share

if TYPE_CHECKING:
    from ecdctr.config import Level, Training

PATIENCE = dt.timedelta(minutes=1)  # of one look at whether the first process has done its part


class Workers(NamedTuple):
    """This process among those that train together.

    `board` is what they can write notes on for each other.
    """

    rank: int = 0
    world: int = 1
    board: Any = None

    @property
    def first(self) -> bool:
        """Whether this one publishes and reports."""
        return self.rank == 0

    @property
    def share(self) -> Share:
        """Which rows of the tables it holds."""
        return Share(self.rank, self.world)

    @property
    def device(self) -> torch.device:
        """A GPU of its own where there is one."""
        if not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device(
            "cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        )

    def total(self, *values: float) -> list[float]:
        """Return the sums over all processes."""
        if self.world == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(sums)
        return sums.tolist()

    def agree(self, flag: bool) -> bool:
        """Return what the first process says."""
        return bool(self.total(flag and self.first)[0])

    def all(self, flag: bool) -> bool:
        """Tell whether it is so everywhere."""
        return self.total(flag)[0] == self.world

    def alike(self, *values: float) -> bool:
        """Tell whether all processes have the first one's values."""
        firsts = self.total(*(value if self.first else 0.0 for value in values))
        return self.all(firsts == list(values))

    @contextlib.contextmanager
    def first_alone(self, what: str) -> Iterator[None]:
        """Let the first process do the block before the others do it, however long it takes.

        No barrier: those end after a time that nobody knows beforehand. When the first process
        dies, its notes are gone, and the others end with that error. `what` names this piece of
        work among others.
        """
        if self.world > 1 and not self.first:
            while not self._noted(what):
                pass
        yield
        if self.world > 1 and self.first:
            self.board.set(what, b"done")

    def _noted(self, what: str) -> bool:
        try:
            self.board.wait([what], PATIENCE)
        except distributed.DistStoreError:  # not yet; a lost connection is another error
            return False
        return True

    def wait(self) -> None:
        """Wait until all are here."""
        if self.world > 1:
            distributed.barrier()


ALONE = Workers()
LAST_PORT = 65535


@lru_cache(maxsize=1)
def join() -> Workers:
    """Meet the other processes that the environment speaks of.

    Raises ConfigError for one that says half.
    """
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"):
        if not (text := os.environ.get(name, "0")).isdecimal():
            raise ConfigError(f"{name} is {text!r}, expected a whole number; start with torchrun.")
    if int(os.environ.get("MASTER_PORT", "0")) > LAST_PORT:
        raise ConfigError(
            f"MASTER_PORT is {os.environ['MASTER_PORT']}, expected a port, at most {LAST_PORT}."
        )
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ALONE
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ConfigError(
            f"WORLD_SIZE is {count}, but {', '.join(missing)} is not set; start with torchrun."
        )
    if int(os.environ["RANK"]) >= count:
        raise ConfigError(
            f"RANK is {os.environ['RANK']}, but WORLD_SIZE is {count}, expected 0 to {count - 1}; "
            "start with torchrun."
        )
    board, rank, world = next(rendezvous("env://"))
    distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=PrefixStore("group", board),
        rank=rank,
        world_size=world,
    )
    workers = Workers(rank, world, PrefixStore("notes", board))
    if torch.cuda.is_available():
        torch.cuda.set_device(workers.device)
    return workers


def check_shards(workers: Workers, level: Level, settings: Training) -> None:
    """Raise ConfigError if the shards of the data cannot be dealt out evenly."""
    if settings.shards % workers.world:
        raise ConfigError(
            f"{level}.shards is {settings.shards}, but {workers.world} processes train together, "
            f"and each takes as many shards as the others; set {level}.shards to a multiple of "
            f"{workers.world}, or start fewer processes."
        )


def shards_of(workers: Workers, settings: Training) -> range:
    """Return the shards of the data that this process reads."""
    each = settings.shards // workers.world
    return range(workers.rank * each, (workers.rank + 1) * each)


def launch(processes: int, arguments: list[str]) -> int:
    """Run `ecdctr` with these arguments in several processes on this machine.

    Returns the exit code. When one fails the others are stopped, and its own words stand last on
    stderr.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all on this machine
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "ecdctr.cli", *arguments)
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values() if failure.exitcode > 0]
        return codes[0] if codes else 1
    return 0
