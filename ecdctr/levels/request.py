"""What a level is asked for, plans, hands from step to step, and gives back."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import nn

from ecdctr.config import DEFAULT, PRODUCTION, Config, Domain, Level
from ecdctr.errors import ConfigError
from ecdctr.examples.prepare import Prepared
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.store.manifest import Base, Ref

if TYPE_CHECKING:
    from ecdctr.examples.batches import Inputs
    from ecdctr.models.checkpoint import Moments
    from ecdctr.models.share import Share
    from ecdctr.store.manifest import Manifest
    from ecdctr.store.store import Store

Network = TypeVar("Network", bound=nn.Module)
Vocabularies = dict[str, Vocabulary]
Days = dict[tuple[Domain, dt.date], Prepared]


class Reporter(Protocol):
    """Where progress goes; the command line draws bars from it."""

    def start(self, what: str, total: int) -> None:
        """Begin a piece of work of `total` units."""

    def advance(self, units: int, loss: float | None = None) -> None:
        """Count some units as done."""


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
    variant: str = DEFAULT
    force: bool = False
    restart: bool = False
    from_older: bool = False  # where what was known then was removed, start from what is left
    reporter: Reporter = field(default_factory=Silent)

    def __post_init__(self) -> None:
        if self.variant != DEFAULT and self.experiment == PRODUCTION:
            raise ConfigError(
                f"Variant '{self.variant}' cannot run in '{PRODUCTION}', whose versions would mix; "
                f"name an experiment, for example --experiment {self.variant}."
            )

    @property
    def before(self) -> dt.date:
        """The day before the data date."""
        return self.date - dt.timedelta(days=1)

    def resolve(self, level: Level, as_of: dt.date) -> Ref | None:
        """Return what was known of a level on a date; raises StoreError where it was removed."""
        return self.store.resolve(level, as_of, self.experiment, self.from_older)

    def require(self, level: Level, as_of: dt.date) -> Ref:
        """Do the same, and raise StoreError that says how to make it where there is none."""
        return self.store.require(level, as_of, self.experiment, self.variant, self.from_older)

    def version_before(self, level: Level) -> Ref | None:
        """Return the experiment's own version that a chain goes on from, as `resolve` does."""
        return self.store.newest_as_of(self.experiment, level, self.before, self.from_older)

    def stored_against(self, plan: Plan) -> Base | None:
        """Return what the version is stored against: the one whose rows its own begin with."""
        deltas = self.config.store.deltas
        if plan.grow_from is None or plan.level not in deltas.levels:
            return None
        return Base(plan.grow_from, deltas.max_links)


@dataclass(frozen=True)
class SnapshotSets:
    """Which TPM versions an impression is given: sets of up to K, newest version first.

    Set 0 is what serves. `of_day` gives the number of the set that was known the day before; days
    that it does not name take set 0.
    """

    sets: tuple[tuple[Ref, ...], ...] = ()
    of_day: dict[dt.date, int] = field(default_factory=dict)

    @property
    def refs(self) -> list[Ref]:
        """Every version of any set, once, the newest first."""
        distinct = {ref for refs in self.sets for ref in refs}
        return sorted(distinct, key=lambda ref: (ref.date, ref.version), reverse=True)


@dataclass(frozen=True)
class Plan:
    """Everything that decides the result: what is read, from which parents, on which days."""

    level: Level
    parents: dict[str, list[Ref]]
    dates: list[dt.date]
    natural_dates: tuple[dt.date, ...] = ()  # A-CTR only: natural content beside the ads
    grow_from: Ref | None = None  # the parent whose vocabularies are extended
    skipped: tuple[dt.date, ...] = ()  # days since the parent that the window does not reach
    snapshots: SnapshotSets = SnapshotSets()


@dataclass(frozen=True)
class Materials:
    """What a level builds its network from."""

    plan: Plan
    days: Days
    inputs: Inputs
    vocabularies: Vocabularies
    share: Share

    @property
    def rows(self) -> dict[str, int]:
        """Rows of each field's embedding table."""
        return {name: vocabulary.rows for name, vocabulary in self.vocabularies.items()}


class Outcome(NamedTuple):
    """The version and whether it was there already."""

    manifest: Manifest
    reused: bool


@dataclass(frozen=True)
class Start(Generic[Network]):
    """A network with its parents' weights in it, and what else its training starts from."""

    model: Network
    optimizer: Moments | None = None
    penalty: Callable[[], torch.Tensor] | None = None


class Steps(Protocol[Network]):
    """What a level does of its own; `run` does what all of them share."""

    algorithm: ClassVar[int]  # raised by whoever changes results where no module shows it

    @property
    def request(self) -> Request:
        """What was asked for."""

    def plan(self) -> Plan:
        """Decide what is read and from which parents; reads manifests, but no data."""

    def build(self, materials: Materials) -> Start[Network]:
        """Make the network and put its parents' weights into it, of the tables this share."""

    def finish(self, model: Network, vocabularies: Vocabularies, folder: Path) -> None:
        """Change the trained model, or write more files, before it is published.

        All processes call it, each with its share and a folder of its own; the first one's counts.
        """
