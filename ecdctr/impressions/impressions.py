"""Where days of impressions lie: one interface, a folder or a URL behind it."""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from ecdctr.config import Domain

DAY_FOLDER = re.compile(r"date=(\d{4}-\d{2}-\d{2})")


class Impressions(Protocol):
    """Days of both domains: <root>/domain=<natural|ads>/date=<YYYY-MM-DD>/*.parquet."""

    def dates(self, domain: Domain) -> list[dt.date]:
        """List the dates that have at least one file, sorted."""
        ...

    def has(self, domain: Domain, date: dt.date) -> bool:
        """Say whether a day has a file, without copying any."""
        ...

    def files(self, domain: Domain, date: dt.date) -> list[Path]:
        """List the Parquet files of a day on this machine, sorted by name; empty if the day is missing."""
        ...

    def digest(self, domain: Domain, date: dt.date) -> str:
        """Return SHA-256 over the content of a day's files; the empty digest for a missing day."""
        ...

    def where(self, domain: Domain, date: dt.date) -> str:
        """Name the place of a day, for messages."""
        ...

    def other_folders(self, domain: Domain) -> list[str]:
        """List what lies beside the days and is none, such as date=2026-01-06.bak: it is never read."""
        ...


@lru_cache(maxsize=64)
def open_impressions(root: Path | str) -> Impressions:
    """Open `data.root`, a folder (Path) or a URL (str); once a process for each."""
    if isinstance(root, str):
        from ecdctr.impressions.remote import RemoteImpressions

        return RemoteImpressions(root)
    from ecdctr.impressions.local import LocalImpressions

    return LocalImpressions(root)


def date_of(folder: str) -> dt.date | None:
    """Return the date of a folder named date=YYYY-MM-DD, None for any other name."""
    match = DAY_FOLDER.fullmatch(folder)
    try:
        return dt.date.fromisoformat(match[1]) if match else None
    except ValueError:  # 2026-02-30
        return None


def is_part(name: str) -> bool:
    """Say whether a file of a day's folder holds impressions: *.parquet, not hidden by a dot or an underscore."""
    return name.endswith(".parquet") and not name.startswith((".", "_"))
