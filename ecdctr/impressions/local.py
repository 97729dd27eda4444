"""Impressions in a folder of this machine."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.errors import ContractError
from ecdctr.files.durable import stamp
from ecdctr.impressions.layout import (
    WRITTEN,
    date_of,
    day_folder,
    is_hidden,
    is_part,
    is_unread,
    names_in,
    refuse_no_files,
    refuse_other_case,
    table_format,
)
from ecdctr.impressions.reading import ATTEMPTS, DeliveredAnew

if TYPE_CHECKING:
    from ecdctr.config import Domain


class LocalImpressions:
    """Days under a folder; see Impressions for what each method says."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def dates(self, domain: Domain) -> list[dt.date]:
        self._refuse_unfinished()
        names = names_in(self.root / f"domain={domain}")
        refuse_other_case(self.root, names_in(self.root), domain)
        refuse_other_case(self.root / f"domain={domain}", names, domain)
        return sorted(date for date in map(date_of, names) if date and self.has(domain, date))

    def has(self, domain: Domain, date: dt.date) -> bool:
        return any(map(is_part, names_in(day_folder(self.root, domain, date))))

    def entries(self, domain: Domain, date: dt.date) -> dict[str, int]:
        folder = day_folder(self.root, domain, date)
        sizes = {}
        for name in names_in(folder):
            with contextlib.suppress(OSError):  # renamed meanwhile, or no file, which others tell
                path = folder / name
                if path.is_file():  # a folder of a marker's name promises nothing
                    sizes[name] = path.stat().st_size
        return sizes

    def read_text(self, domain: Domain, date: dt.date, name: str) -> str:
        return (day_folder(self.root, domain, date) / name).read_text("utf-8", "replace")

    def files(self, domain: Domain, date: dt.date) -> list[Path]:
        self._refuse_unfinished()
        folder = day_folder(self.root, domain, date)
        return sorted(folder / name for name in names_in(folder) if is_part(name))

    def digest(self, domain: Domain, date: dt.date) -> str:
        refuse_no_files(self.files(domain, date))
        for _ in range(ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):  # between the look and the reading
                return digest_files(self.files(domain, date))
        raise DeliveredAnew(self.where(domain, date))

    def stamps(self, domain: Domain, date: dt.date) -> list[tuple[str, int, int, int]]:
        stamps = []
        for path in self.files(domain, date):
            with contextlib.suppress(OSError):  # renamed meanwhile, or no file, which others tell
                stamps.append((path.name, *stamp(path)))
        return stamps

    def where(self, domain: Domain, date: dt.date) -> str:
        return str(day_folder(self.root, domain, date))

    def other_folders(self, domain: Domain) -> list[str]:
        names = names_in(self.root / f"domain={domain}")
        return sorted(
            name for name in names if not is_hidden(name) and not self._is_day(domain, name)
        )

    def unread(self, domain: Domain, date: dt.date) -> list[str]:
        return sorted(filter(is_unread, names_in(day_folder(self.root, domain, date))))

    def table(self, domain: Domain, date: dt.date) -> str | None:
        return table_format(day_folder(self.root, domain, date))

    def _refuse_unfinished(self) -> None:
        """Raise ContractError where an import was killed between its domains, or is there now."""
        if (self.root / WRITTEN).exists():
            raise ContractError(
                f"{self.root}: an import is about to put its domains in place, or was killed then "
                f"({WRITTEN} is there). Run the import again, which finishes that."
            )

    def _is_day(self, domain: Domain, name: str) -> bool:
        date = date_of(name)
        return date is not None and self.has(domain, date)


def digest_files(paths: list[Path]) -> str:
    """Return SHA-256 over the digests of files; each is read once per size and times of change."""
    parts = hashlib.sha256()
    for path in paths:
        parts.update(_digest_file(str(path), *stamp(path)).encode())
    return parts.hexdigest()


@lru_cache(maxsize=100_000)
def _digest_file(path: str, _size: int, _mtime_ns: int, _ctime_ns: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
