"""Windows of days: which dates, and which of them are there."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ecdctr.errors import ContractError
from ecdctr.impressions.delivery import Delivery
from ecdctr.impressions.impressions import open_impressions

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
        raise ContractError(
            f"{config.data.root}/domain={domain}: {len(missing)} of {len(dates)} days are missing "
            f"({dates[0]} to {dates[-1]}): {names}. Deliver them, or raise "
            f"data.allowed_missing_days (now {config.data.allowed_missing_days})."
        )
    return [date for date in dates if date in present]


def whole_days(
    config: Config, domain: Domain, after: dt.date, until: dt.date, most: int
) -> list[dt.date]:
    """Return the last `most` days between two that were delivered whole, as data.ready says."""
    delivery = Delivery.of(config.data)
    dates = open_impressions(config.data.root).dates(domain)
    newest_first = (date for date in reversed(dates) if after < date <= until)
    whole = (date for date in newest_first if delivery.lacks(domain, date) is None)
    return list(itertools.islice(whole, most))[::-1]


def _named(config: Config, domain: Domain, date: dt.date) -> str:
    """Return a missing day, with what lies in its folder instead of *.parquet files."""
    unread = open_impressions(config.data.root).unread(domain, date)
    return f"{date} (no *.parquet file, but {unread[0]})" if unread else str(date)
