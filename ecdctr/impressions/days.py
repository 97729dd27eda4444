"""Days of impressions on disk: where they lie, which are there, and what is in them (digests)."""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from ecdctr.config import Config, Domain, Root
from ecdctr.errors import ContractError


def window(end: dt.date, days: int) -> list[dt.date]:
    """The `days` dates that end with `end`, oldest first."""
    return [end - dt.timedelta(days=back) for back in range(days - 1, -1, -1)]


def day_folder(root: Root, domain: Domain, date: dt.date) -> Path:
    """The hive partition of one day of one domain; of a URL, the path after it, for messages."""
    return Path(root) / f"domain={domain}" / f"date={date}"


def day_files(root: Root, domain: Domain, date: dt.date) -> list[Path]:
    """The Parquet files of one day on this machine, sorted by name; empty if the day is missing."""
    if isinstance(root, str):
        from ecdctr.impressions.remote import fetch_day

        return fetch_day(root, domain, date)
    return sorted(day_folder(root, domain, date).glob("*.parquet"))


def has_day(root: Root, domain: Domain, date: dt.date) -> bool:
    """Whether a day has a file."""
    if isinstance(root, str):
        from ecdctr.impressions.remote import has_remote_day

        return has_remote_day(root, domain, date)
    return bool(day_files(root, domain, date))


def available_dates(root: Root, domain: Domain) -> list[dt.date]:
    """The dates that have at least one file, sorted."""
    if isinstance(root, str):
        from ecdctr.impressions.remote import remote_dates

        return remote_dates(root, domain)
    dates = []
    for folder in (root / f"domain={domain}").glob("date=*"):
        if any(folder.glob("*.parquet")):
            dates.append(dt.date.fromisoformat(folder.name.removeprefix("date=")))
    return sorted(dates)


def present_days(config: Config, domain: Domain, dates: Iterable[dt.date]) -> list[dt.date]:
    """Those of `dates` that exist; raises ContractError when more are missing than the configuration tolerates.

    Days before the domain's first day are not missing: the log starts there, and a long window is cut.
    """
    dates = list(dates)
    known = set(available_dates(config.data.root, domain))
    if dates and known and min(known) <= dates[-1]:
        dates = [date for date in dates if date >= min(known)]
    missing = [date for date in dates if date not in known]
    if len(missing) > config.data.allowed_missing_days:
        names = ", ".join(map(str, missing[:10])) + (" …" if len(missing) > 10 else "")
        raise ContractError(
            f"{config.data.root}/domain={domain}: {len(missing)} of {len(dates)} days are missing "
            f"({dates[0]} to {dates[-1]}): {names}. Deliver them, or raise data.allowed_missing_days "
            f"(now {config.data.allowed_missing_days})."
        )
    return [date for date in dates if date in known]


def digest_day(root: Root, domain: Domain, date: dt.date) -> str:
    """SHA-256 over the content of a day's files; the empty digest for a missing day."""
    if isinstance(root, str):
        from ecdctr.impressions.remote import remote_digest

        return remote_digest(root, domain, date, _digest)
    return _digest(day_files(root, domain, date))


def _digest(paths: list[Path]) -> str:
    parts = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        parts.update(_digest_file(str(path), stat.st_size, stat.st_mtime_ns).encode())
    return parts.hexdigest()


@lru_cache(maxsize=100_000)
def _digest_file(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
