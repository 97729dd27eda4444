"""Impressions at a URL: any that fsspec opens.

A day is copied to this machine when it is read, and kept for a while. The copy of a day is named by
what its listing says (its names, sizes, tags), so that a day that is delivered anew is copied anew;
what is copied is what was listed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from ecdctr.config import Domain, digest
from ecdctr.errors import ContractError, StoreError
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.impressions.layout import (
    METADATA,
    date_of,
    is_hidden,
    is_part,
    is_unread,
    refuse_other_case,
    table_of,
)
from ecdctr.impressions.local import digest_files
from ecdctr.impressions.reading import DeliveredAnew, Files, listings
from ecdctr.impressions.remote_files import copied, files_below, names_at, path_of, read_text
from ecdctr.store.documents import COPY, read_document

DIGESTS = "digests.json"  # beside a copied day's files
SHA256 = "[0-9a-f]{64}"


class RemoteImpressions:
    """Days under a URL; see Impressions for what each method says.

    A day's files are copied here when they are read.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def dates(self, domain: Domain) -> list[dt.date]:
        days, there = set(), f"{self.root.rstrip('/')}/domain={domain}"
        listing = _list(self.root, f"domain={domain}", below=1)
        refuse_other_case(self.root.rstrip("/"), _names_at(self.root, path_of(self.root)), domain)
        refuse_other_case(there, {path.split("/")[-2] for path in listing}, domain)
        for path in listing:
            *_, domain_folder, folder, name = path.split("/")
            if domain_folder == f"domain={domain}" and is_part(name) and (date := date_of(folder)):
                days.add(date)
        return sorted(days)

    def has(self, domain: Domain, date: dt.date) -> bool:
        return bool(_listing(self.root, domain, date))

    def entries(self, domain: Domain, date: dt.date) -> dict[str, int]:
        listing = _list(self.root, f"domain={domain}/date={date}")
        return {path.rsplit("/", 1)[1]: int(info["size"]) for path, info in listing.items()}

    def read_text(self, domain: Domain, date: dt.date, name: str) -> str:
        return read_text(self.root, f"domain={domain}/date={date}/{name}")

    def files(self, domain: Domain, date: dt.date) -> list[Path]:
        listing = _listing(self.root, domain, date)
        if not listing:
            return []

        def fill(target: Path) -> None:
            for path, info in listing.items():
                copy = target / path.rsplit("/", 1)[1]
                now = copied(self.root, path, copy)
                if now != info or copy.stat().st_size != info["size"]:
                    raise DeliveredAnew(self.where(domain, date))
            durable.write_bytes(target / DIGESTS, json.dumps(durable.digests(target)).encode())

        def valid(target: Path) -> bool:
            names = [path.rsplit("/", 1)[1] for path in listing]
            with suppress(OSError, StoreError):  # no such file, or a damaged one
                content = (target / DIGESTS).read_bytes()
                return durable.has_files(target, read_document(content, DIGESTS, COPY, *names))
            return False

        folder = _cache(self.root).folder(_key(domain, date, listing), fill, valid)
        return sorted(path for path in folder.iterdir() if is_part(path.name))

    def digest(self, domain: Domain, date: dt.date) -> str:
        """Digest as of the same files in a folder; remembered when the copy is gone."""
        listing = _listing(self.root, domain, date)
        if not listing:
            return digest_files([])
        name = hashlib.sha256(_key(domain, date, listing).encode()).hexdigest()
        remembered = _cache(self.root).root / "digests" / name
        with suppress(OSError):
            text = remembered.read_text("utf-8", errors="replace")
            if re.fullmatch(SHA256, text):
                return text
        content = digest_files(self.files(domain, date))
        durable.make_dir(remembered.parent)
        with durable.replacing(remembered) as temporary:
            durable.write_bytes(temporary, content.encode())
        return content

    def stamps(self, domain: Domain, date: dt.date) -> list[tuple[str, int, int, int]]:
        return []

    def where(self, domain: Domain, date: dt.date) -> str:
        return f"{self.root.rstrip('/')}/domain={domain}/date={date}"

    def other_folders(self, domain: Domain) -> list[str]:
        start = f"{path_of(self.root)}/domain={domain}/"
        folders = {
            path[len(start) :].split("/")[0]
            for path in _list(self.root, f"domain={domain}", below=2)
            if "/" in path[len(start) :]
        }
        days = set(self.dates(domain))
        return sorted(name for name in folders if not is_hidden(name) and date_of(name) not in days)

    def unread(self, domain: Domain, date: dt.date) -> list[str]:
        folder = f"domain={domain}/date={date}"
        start = len(f"{path_of(self.root)}/{folder}/")
        names = (path[start:] for path in _list(self.root, folder, below=1))
        return sorted({name.split("/")[0] for name in names if is_unread(name)})

    def table(self, domain: Domain, date: dt.date) -> str | None:
        root = path_of(self.root)
        start = f"{root}/domain={domain}/"
        names = [path[len(start) :] for path in _list(self.root, f"domain={domain}", below=2)]
        metadata = [name for name in names if name.startswith(f"{METADATA}/")]
        there = {name.split("/")[0] for name in names}
        day = [name for name in names if name.startswith(f"date={date}/")]
        there |= {name.split("/")[1] for name in day} - {METADATA}  # which is no hidden name
        table = table_of(there, lambda: metadata) or self._table_at(root)
        above, _, last = root.rpartition("/")
        if not table and last == "data":
            with suppress(ContractError):  # whoever may read the data may not read beside it
                return self._table_at(above, [METADATA])
        return table

    def _table_at(self, folder: str, names: Iterable[str] | None = None) -> str | None:
        """Name the table format of a folder, by these names where it is not to be listed."""
        there = _names_at(self.root, folder) if names is None else names
        return table_of(there, lambda: _names_at(self.root, f"{folder}/{METADATA}"))


def _names_at(root: str, folder: str) -> list[str]:
    """List the names right in a folder near the root, which a command asks for once."""
    held = listings()
    if held is None:
        return names_at(root, folder)
    if (root, folder) not in held:
        held[root, folder] = {name: {} for name in names_at(root, folder)}
    return list(held[root, folder])


def _key(domain: Domain, date: dt.date, listing: Files) -> str:
    return f"domain={domain}/date={date}/{digest(listing)[:20]}"


def _listing(root: str, domain: Domain, date: dt.date) -> Files:
    entries = _list(root, f"domain={domain}/date={date}")
    return {path: info for path, info in sorted(entries.items()) if is_part(path.split("/")[-1])}


def _list(root: str, folder: str, below: int = 0) -> Files:
    """Return what lies in a domain's or a day's folder, and so many folders below.

    Each entry has what the listing says of its content.

    From a listing of the whole domain, which a command keeps: whoever looks for a window of days
    asks for each of them many times, and a listing is a request.
    """
    held = listings()
    if held is None:
        entries = files_below(root, folder)
    else:
        domain = folder.partition("/")[0]
        if (root, domain) not in held:
            held[root, domain] = files_below(root, domain)
        entries = held[root, domain]
    start = f"{path_of(root)}/{folder}/"
    return {
        path: info
        for path, info in entries.items()
        if path.startswith(start) and path.count("/", len(start)) <= below
    }


@lru_cache(maxsize=16)
def _cache(root: str) -> Cache:
    """Return one per process and URL.

    It remembers which copies it has checked, and keeps them from being thrown out.
    """
    return Cache.of(root)
