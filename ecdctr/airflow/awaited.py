"""What a run waits for, and how long: values that its operators and triggers share."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from ecdctr.config import DOMAINS, Domain
from ecdctr.impressions.delivery import Delivery
from ecdctr.impressions.impressions import open_impressions
from ecdctr.store.storage import absolute

if TYPE_CHECKING:
    from ecdctr.config import Config

Value = TypeVar("Value")


@dataclass(frozen=True)
class Awaited:
    """Impressions that a run waits for, and what says that a day of them is whole.

    `ready` and `marker` as in the configuration's section data; a recent day's files must not have
    changed for `settle_seconds`. With `both` the other domain is waited for, too, which histories
    and counts look at, unless its log begins later.
    """

    root: str
    domain: Domain
    ready: str = "files"
    marker: str = "_SUCCESS"
    settle_seconds: float = 0
    both: bool = False

    @classmethod
    def of(cls, config: Config, domain: Domain, both: bool) -> Awaited:
        """Make it as configured."""
        data, settle_seconds = config.data, config.airflow.settle_minutes * 60
        return cls(str(data.root), domain, data.ready, data.marker, settle_seconds, both)

    def lacks(self, date: dt.date) -> str | None:
        """Return what the day lacks to be whole, in words; None if it is."""
        delivery = self._delivery()
        return (delivery.lacks_for_examples if self.both else delivery.lacks)(self.domain, date)

    def entries(self, date: dt.date) -> list[dict[str, int]]:
        """Return the names and bytes of what lies there of the day, per domain."""
        domains = DOMAINS if self.both else (self.domain,)
        return [self._delivery().entries(domain, date) for domain in domains]

    def dates(self) -> list[dt.date]:
        """Return the days that are there, in order."""
        return open_impressions(absolute(self.root)).dates(self.domain)

    def _delivery(self) -> Delivery:
        return Delivery(absolute(self.root), self.ready, self.marker)


@dataclass(frozen=True)
class Patience:
    """How often a run looks for what it waits for, and how long at most."""

    poke_seconds: float
    wait_hours: float

    @classmethod
    def of(cls, config: Config) -> Patience:
        """Make it as configured."""
        return cls(config.airflow.poke_seconds, config.airflow.wait_hours)


def made(kind: type[Value], given: Value | dict[str, Any]) -> Value:
    """Return a value, made from its fields where they are given as Airflow keeps them."""
    return kind(**given) if isinstance(given, dict) else given
