"""Windows of days: which dates, and which of them are there."""

from __future__ import annotations

import datetime as dt
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.domains import DOMAINS
from ecdctr.errors import ContractError
from ecdctr.impressions.delivery import Delivery, other_domain
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import absence

if TYPE_CHECKING:
    from ecdctr.config import Config, Domain

NAMED = 10  # missing days in a message


def window(end: dt.date, days: int) -> list[dt.date]:
    """Return the `days` dates that end with `end`, oldest first."""
    return [end - dt.timedelta(days=back) for back in range(days - 1, -1, -1)]


def present_days(config: Config, domain: Domain, dates: Iterable[dt.date]) -> list[dt.date]:
    """Return those of `dates` that exist.

    Raises ContractError when more are missing than the configuration tolerates. Days before the
    domain's first day are not missing: the log starts there, and a long window is cut.
    """
    dates = list(dates)
    present = set(open_impressions(config.data.root).dates(domain))
    if dates and present and min(present) <= dates[-1]:
        dates = [date for date in dates if date >= min(present)]
    missing = [date for date in dates if date not in present]
    if len(missing) > config.data.allowed_missing_days:
        names = ", ".join(_named(config, domain, date) for date in missing[:NAMED])
        names += " …" if len(missing) > NAMED else ""
        names += _absence(config, domain)
        raise ContractError(
            f"{config.data.root}/domain={domain}: {len(missing)} of {len(dates)} days are missing "
            f"({dates[0]} to {dates[-1]}): {names}. Deliver them, or raise "
            f"data.allowed_missing_days (now {config.data.allowed_missing_days})."
        )
    return [date for date in dates if date in present]


class Gap(NamedTuple):
    """A day that one domain has and the other lacks."""

    domain: Domain
    date: dt.date

    def __str__(self) -> str:
        return f"{self.domain} of {self.date}"


def log_start(config: Config) -> dt.date | None:
    """Return the first day that either domain has; None of an empty log."""
    impressions = open_impressions(config.data.root)
    return min((day for domain in DOMAINS for day in impressions.dates(domain)[:1]), default=None)


def gaps(config: Config, dates: Iterable[dt.date], back: int) -> list[Gap]:
    """Return what lacks of days and of the `back` days before each, since examples read both.

    Days that neither domain has are those of a log that rests. Days before a domain's first day
    are no gap: its log starts there, and one without any day has not begun.
    """
    impressions = open_impressions(config.data.root)
    present = {domain: set(impressions.dates(domain)) for domain in DOMAINS}
    read = {day for date in dates for day in window(date, back + 1)}
    return sorted(
        Gap(domain, day)
        for domain, days in present.items()
        for day in read & present[other_domain(domain)]
        if days and day > min(days) and day not in days
    )


def refuse_gaps(config: Config, dates: Iterable[dt.date], back: int) -> None:
    """Raise ContractError when a date and the days before it have more gaps than are tolerated."""
    dates = list(dates)
    every = gaps(config, dates, back)
    for date in dates if every else []:
        missing = [gap for gap in every if 0 <= (date - gap.date).days <= back]
        if len(missing) > config.data.allowed_missing_days:
            names = ", ".join(map(str, missing[:NAMED])) + (" …" if len(missing) > NAMED else "")
            raise ContractError(
                f"{config.data.root}: examples of {date} look at that day and the {back} before it "
                f"in both domains, and one lacks what the other has: {names}. Deliver what is "
                "missing, or raise data.allowed_missing_days (now "
                f"{config.data.allowed_missing_days})."
            )


def whole_days(
    config: Config,
    domain: Domain,
    after: dt.date,
    until: dt.date,
    most: int,
    alone: bool = False,
) -> list[dt.date]:
    """Return the last `most` days between two that were delivered whole, as data.ready says.

    They are those of both domains, which examples are made of; `alone` asks for the one only.
    """
    delivery = Delivery.of(config.data)
    lacks = delivery.lacks if alone else delivery.lacks_for_examples
    dates = open_impressions(config.data.root).dates(domain)
    newest_first = (date for date in reversed(dates) if after < date <= until)
    whole = (date for date in newest_first if lacks(domain, date) is None)
    return list(itertools.islice(whole, most))[::-1]


def _absence(config: Config, domain: Domain) -> str:
    root = config.data.root
    if isinstance(root, Path):
        return absence(root, domain)
    if open_impressions(root).dates(domain):
        return ""
    return f" (no day of {domain} was found under {root}; look at data.root)"


def _named(config: Config, domain: Domain, date: dt.date) -> str:
    """Return a missing day, with what lies in its folder instead of *.parquet files.

    Or the folder that is named otherwise: date=20260118, dt=2026-01-18.
    """
    impressions = open_impressions(config.data.root)
    if unread := impressions.unread(domain, date):
        return f"{date} (no *.parquet file, but {unread[0]})"
    digits = date.strftime("%Y%m%d")
    for name in impressions.other_folders(domain):
        there_now = name == f"date={date}"  # delivered between the two looks
        if digits in re.sub(r"\D", "", name) and not there_now:
            return f"{date} (expected a folder date={date}, found {name})"
    return str(date)
