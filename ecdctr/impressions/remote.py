"""Impressions at a URL: any that fsspec opens. A day is copied to this machine when it is read, and kept for a while.

On S3, GCS and Azure obstore does the work, as for the store. The copy of a day is named by what its listing says (its
names, sizes, tags), so that a day that is delivered anew is copied anew.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import fsspec

from ecdctr.config import Domain, digest
from ecdctr.errors import ContractError, first_line
from ecdctr.files import durable
from ecdctr.files.cache import Cache

BY_OBSTORE = ("s3", "gs", "az", "abfs")
DIGESTS = "digests.json"  # beside a copied day's files


def remote_dates(root: str, domain: Domain) -> list[dt.date]:
    """The dates of a domain that have at least one file, sorted."""
    found = set()
    for path in _list(root, f"domain={domain}", deep=True):
        day = path.rsplit("/", 2)[-2]
        if path.endswith(".parquet") and day.startswith("date="):
            found.add(dt.date.fromisoformat(day.removeprefix("date=")))
    return sorted(found)


def has_remote_day(root: str, domain: Domain, date: dt.date) -> bool:
    """Whether a day has a file, without copying any."""
    return bool(_listing(root, domain, date))


def fetch_day(root: str, domain: Domain, date: dt.date) -> list[Path]:
    """The files of a day, copied here, sorted by name; empty if the day is missing."""
    listing = _listing(root, domain, date)
    if not listing:
        return []
    filesystem, _ = _open(root)

    def fill(target: Path) -> None:
        for path, info in listing.items():
            copy = target / path.rsplit("/", 1)[1]
            with _explained(root):
                filesystem.get_file(path, str(copy))
            if copy.stat().st_size != info["size"]:
                raise ContractError(
                    f"{path}: expected {info['size']} bytes, found {copy.stat().st_size}; copy again."
                )
        durable.write_bytes(target / DIGESTS, json.dumps(durable.digests(target)).encode())

    def valid(target: Path) -> bool:
        known = target / DIGESTS
        return known.exists() and durable.has_files(target, json.loads(known.read_text()))

    folder = _cache(root).folder(_key(domain, date, listing), fill, valid)
    return sorted(folder.glob("*.parquet"))


def remote_digest(root: str, domain: Domain, date: dt.date, of: Callable[[list[Path]], str]) -> str:
    """The digest of a day's content, as of the same files in a folder; remembered when the copy is gone."""
    listing = _listing(root, domain, date)
    if not listing:
        return of([])
    kept = (
        _cache(root).root
        / "digests"
        / hashlib.sha256(_key(domain, date, listing).encode()).hexdigest()
    )
    if kept.exists():
        return kept.read_text()
    found = of(fetch_day(root, domain, date))
    durable.make_dir(kept.parent)
    with durable.replacing(kept) as temporary:
        durable.write_bytes(temporary, found.encode())
    return found


def _key(domain: Domain, date: dt.date, listing: dict[str, dict[str, Any]]) -> str:
    said = {
        path: {key: str(value) for key, value in info.items()} for path, info in listing.items()
    }
    return f"domain={domain}/date={date}/{digest(said)[:20]}"


def _listing(root: str, domain: Domain, date: dt.date) -> dict[str, dict[str, Any]]:
    found = _list(root, f"domain={domain}/date={date}")
    return {path: info for path, info in sorted(found.items()) if path.endswith(".parquet")}


def _list(root: str, folder: str, deep: bool = False) -> dict[str, dict[str, Any]]:
    filesystem, path = _open(root)
    with _explained(root):
        filesystem.invalidate_cache()
        depth = 2 if deep else 1
        found: dict[str, dict[str, Any]] = filesystem.find(
            f"{path}/{folder}", maxdepth=depth, detail=True
        )
    return found


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
