"""Where days of impressions lie: one interface, a folder or a URL behind it."""

from __future__ import annotations

import datetime as dt
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ecdctr.impressions.local import LocalImpressions

if TYPE_CHECKING:
    from ecdctr.config import Domain


class Impressions(Protocol):
    """Days of both domains: <root>/domain=<natural|ads>/date=<YYYY-MM-DD>/*.parquet.

    What lies there now; at a URL, inside `one_reading`, what lay there when it was first asked.
    """

    def dates(self, domain: Domain) -> list[dt.date]:
        """List the dates that have at least one file, sorted."""
        ...

    def has(self, domain: Domain, date: dt.date) -> bool:
        """Say whether a day has a file, without copying any."""
        ...

    def entries(self, domain: Domain, date: dt.date) -> dict[str, int]:
        """List the names and bytes of all files right in a day's folder, read or not.

        Empty if there is none.
        """
        ...

    def read_text(self, domain: Domain, date: dt.date, name: str) -> str:
        """Read a small file of a day's folder, such as a marker.

        What is no text becomes marks of replacement.
        """
        ...

    def files(self, domain: Domain, date: dt.date) -> list[Path]:
        """List the Parquet files of a day on this machine, sorted by name.

        Empty if the day is missing.
        """
        ...

    def digest(self, domain: Domain, date: dt.date) -> str:
        """Return SHA-256 over the content of a day's files; the empty digest for a missing day."""
        ...

    def stamps(self, domain: Domain, date: dt.date) -> list[tuple[str, int, int, int]]:
        """Return what changes with the files of a day while they are read: sizes, and times.

        Nothing where copies are read, which never change.
        """
        ...

    def where(self, domain: Domain, date: dt.date) -> str:
        """Name the place of a day, for messages."""
        ...

    def other_folders(self, domain: Domain) -> list[str]:
        """List what lies beside the days and is none: date=2026-01-06.bak, a day without a part.

        It is never read.
        """
        ...

    def unread(self, domain: Domain, date: dt.date) -> list[str]:
        """List what lies in a day's folder and is neither a part nor hidden.

        Such as part-0.PARQUET and hour=01/….
        """
        ...

    def table(self, domain: Domain, date: dt.date) -> str | None:
        """Name the table format that a day's files belong to, None for plain files.

        Such a table may count some of them, or of their rows, as removed.
        """
        ...


@lru_cache(maxsize=64)
def open_impressions(root: Path | str) -> Impressions:
    """Open `data.root`, a folder (Path) or a URL (str); once a process for each."""
    if isinstance(root, str):
        from ecdctr.impressions.remote import RemoteImpressions

        return RemoteImpressions(root)
    return LocalImpressions(root)
