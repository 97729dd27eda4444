"""What a level is asked for, how it plans, and what it gives back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import nn

from ecdctr.config import PRODUCTION, Config, Level
from ecdctr.errors import ConfigError
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store


class Reporter(Protocol):
    """Where progress goes; the command line draws bars from it."""

    def start(self, what: str, total: int) -> None:
        """A piece of work of `total` units begins."""

    def advance(self, units: int, loss: float | None = None) -> None:
        """Some units are done."""


class Silent:
    """A reporter that says nothing."""

    def start(self, what: str, total: int) -> None:
        """Ignore."""

    def advance(self, units: int, loss: float | None = None) -> None:
        """Ignore."""


@dataclass(frozen=True)
class Request:
    """Train one level for one data date. `config` has the variant applied already."""

    config: Config
    store: Store
    date: dt.date
    experiment: str = PRODUCTION
    variant: str = "default"
    force: bool = False
    restart: bool = False
    reporter: Reporter = field(default_factory=Silent)

    def __post_init__(self) -> None:
        if self.variant != "default" and self.experiment == PRODUCTION:
            raise ConfigError(
                f"Variant '{self.variant}' cannot run in 'production', whose versions would mix; "
                f"name an experiment, for example --experiment {self.variant}."
            )

    @property
    def before(self) -> dt.date:
        """The day before the data date."""
        return self.date - dt.timedelta(days=1)


class Plan(NamedTuple):
    """Everything that decides the result: what is read, from which parents, on which days."""

    level: Level
    parents: dict[str, list[Ref]]
    dates: list[dt.date]
    natural_dates: tuple[
        dt.date, ...
    ] = ()  # A-CTR only: natural content trained on together with the ads


class Outcome(NamedTuple):
    """The version and whether it was there already."""

    manifest: Manifest
    reused: bool


class Start(NamedTuple):
    """A network with its parents' weights in it, and what else its training starts from."""

    model: nn.Module
    optimizer: dict[str, torch.Tensor] | None = None
    penalty: Callable[[], torch.Tensor] | None = None
