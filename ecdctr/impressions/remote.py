"""Impressions at a URL: any that fsspec opens. A day is copied to this machine when it is read, and kept for a while.

On S3, GCS and Azure obstore does the work, as for the store. The copy of a day is named by what its listing says (its
names, sizes, tags), so that a day that is delivered anew is copied anew.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

from ecdctr.config import Domain, digest
from ecdctr.errors import ContractError, first_line
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.impressions.layout import date_of, is_part
from ecdctr.impressions.local import digest_files

BY_OBSTORE = ("s3", "gs", "az", "abfs")
DIGESTS = "digests.json"  # beside a copied day's files
LISTED_FOR = 60.0  # seconds; a day that is delivered in a process's life is seen so much later
Files = dict[str, dict[str, Any]]
_LISTED: dict[tuple[str, str], tuple[float, Files]] = {}
clock = time.monotonic


class RemoteImpressions:
    """Days under a URL; see Impressions for what each method says. A day's files are copied here when they are read."""

    def __init__(self, root: str) -> None:
        self.root = root

    def dates(self, domain: Domain) -> list[dt.date]:
        days = set()
        for path in _list(self.root, f"domain={domain}", deep=True):
            *_, folder, name = path.split("/")
            if is_part(name) and (date := date_of(folder)):
                days.add(date)
        return sorted(days)

    def has(self, domain: Domain, date: dt.date) -> bool:
        return bool(_listing(self.root, domain, date))

    def entries(self, domain: Domain, date: dt.date) -> dict[str, int]:
        listing = _ask(self.root, f"domain={domain}/date={date}")  # whoever waits asks anew
        return {path.rsplit("/", 1)[1]: int(info["size"]) for path, info in listing.items()}

    def read_text(self, domain: Domain, date: dt.date, name: str) -> str:
        filesystem, path = _open(self.root)
        with _explained(self.root):
            content: bytes = filesystem.cat_file(f"{path}/domain={domain}/date={date}/{name}")
        return content.decode(errors="replace")

    def files(self, domain: Domain, date: dt.date) -> list[Path]:
        listing = _listing(self.root, domain, date)
        if not listing:
            return []
        filesystem, _ = _open(self.root)

        def fill(target: Path) -> None:
            for path, info in listing.items():
                copy = target / path.rsplit("/", 1)[1]
                with _explained(self.root):
                    filesystem.get_file(path, str(copy))
                if copy.stat().st_size != info["size"]:
                    forget_listings()  # it was delivered anew since it was listed
                    raise ContractError(
                        f"{path}: expected {info['size']} bytes, found {copy.stat().st_size}; copy again."
                    )
            durable.write_bytes(target / DIGESTS, json.dumps(durable.digests(target)).encode())

        def valid(target: Path) -> bool:
            digests = target / DIGESTS
            return digests.exists() and durable.has_files(target, json.loads(digests.read_text()))

        folder = _cache(self.root).folder(_key(domain, date, listing), fill, valid)
        return sorted(path for path in folder.iterdir() if is_part(path.name))

    def digest(self, domain: Domain, date: dt.date) -> str:
        """As of the same files in a folder; remembered when the copy is gone."""
        listing = _listing(self.root, domain, date)
        if not listing:
            return digest_files([])
        name = hashlib.sha256(_key(domain, date, listing).encode()).hexdigest()
        remembered = _cache(self.root).root / "digests" / name
        if remembered.exists():
            return remembered.read_text()
        content = digest_files(self.files(domain, date))
        durable.make_dir(remembered.parent)
        with durable.replacing(remembered) as temporary:
            durable.write_bytes(temporary, content.encode())
        return content

    def where(self, domain: Domain, date: dt.date) -> str:
        return f"{self.root.rstrip('/')}/domain={domain}/date={date}"

    def other_folders(self, domain: Domain) -> list[str]:
        paths = _list(self.root, f"domain={domain}", deep=True)
        folders = {path.split("/")[-2] for path in paths}
        return sorted(
            name
            for name in folders
            if date_of(name) is None and name != f"domain={domain}" and name[0] not in "._"
        )


def _key(domain: Domain, date: dt.date, listing: Files) -> str:
    said = {
        path: {key: str(value) for key, value in info.items()} for path, info in listing.items()
    }
    return f"domain={domain}/date={date}/{digest(said)[:20]}"


def _listing(root: str, domain: Domain, date: dt.date) -> Files:
    entries = _list(root, f"domain={domain}/date={date}")
    return {path: info for path, info in sorted(entries.items()) if is_part(path.split("/")[-1])}


def forget_listings() -> None:
    """Ask anew the next time."""
    _LISTED.clear()


def _list(root: str, folder: str, deep: bool = False) -> Files:
    """What lies in a domain's folder or in a day's: path and what the listing says of it.

    From a listing of the whole domain, remembered for LISTED_FOR: whoever looks for a window of days asks for each of
    them many times, and a listing is a request.
    """
    domain = folder.split("/")[0]
    listed = _LISTED.get((root, domain))
    if listed is None or clock() - listed[0] >= LISTED_FOR:
        listed = _LISTED[root, domain] = clock(), _ask(root, domain)
    start = f"{_open(root)[1]}/{folder}/"
    slashes = 1 if deep else 0
    return {
        path: info
        for path, info in listed[1].items()
        if path.startswith(start) and path.count("/", len(start)) <= slashes
    }


def _ask(root: str, folder: str) -> Files:
    """What lies under a folder now; on object storage one request per 1,000 objects."""
    filesystem, path = _open(root)
    scheme = root.split("://")[0]
    with _explained(root):
        if scheme not in BY_OBSTORE:
            filesystem.invalidate_cache()
            entries: Files = filesystem.find(f"{path}/{folder}", maxdepth=2, detail=True)
            return entries
        import obstore  # fsspec's own walk asks for every folder

        bucket, _, prefix = path.partition("/")
        store = obstore.store.from_url(f"{scheme}://{bucket}")
        pages = obstore.list(store, prefix=f"{prefix}/{folder}".lstrip("/"))
        return {
            f"{bucket}/{one['path']}": {"size": one["size"], "e_tag": one["e_tag"]}
            for page in pages
            for one in page
        }


@lru_cache(maxsize=16)
def _cache(root: str) -> Cache:
    """One per process and URL: it remembers which copies it has checked, and keeps them from being thrown out."""
    return Cache.of(root)


@lru_cache(maxsize=16)
def _open(root: str) -> tuple[Any, str]:
    if root.split("://")[0] in BY_OBSTORE:
        try:
            from obstore.fsspec import register
        except ImportError:
            raise ContractError(
                f"data.root {root} lies on object storage, which needs the extra 'objects': "
                "pip install 'ecdctr[objects]'"
            ) from None
        register(list(BY_OBSTORE))
    with _explained(root):
        filesystem, path = fsspec.core.url_to_fs(root)
    return filesystem, path.rstrip("/")


@contextmanager
def _explained(root: str) -> Iterator[None]:
    """Whatever a file system says, as one sentence."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        raise ContractError(f"data.root {root} cannot be read: {first_line(error)}") from None
