"""Impressions at a URL: any that fsspec opens.

A day is copied to this machine when it is read, and kept for a while. On S3, GCS and Azure obstore
does the work, as for the store. The copy of a day is named by what its listing says (its names,
sizes, tags), so that a day that is delivered anew is copied anew; what is copied is what was
listed.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import fsspec

from ecdctr.config import Domain, digest
from ecdctr.errors import ContractError, first_line, lacks_room
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.impressions.layout import (
    date_of,
    iceberg_of,
    is_hidden,
    is_part,
    is_unread,
    refuse_other_case,
    table_of,
)
from ecdctr.impressions.local import digest_files
from ecdctr.impressions.reading import DeliveredAnew, Files, listings

BY_OBSTORE = ("s3", "gs", "az", "abfs")
ANSWERS_WITHIN = 60.0  # seconds, of WebHDFS, whose client would wait for ever
DIGESTS = "digests.json"  # beside a copied day's files
SAYS = (
    "size",
    "e_tag",
    "ETag",
    "etag",
    "mtime",
    "modified",
    "last_modified",
    "created",
)  # of its content


class RemoteImpressions:
    """Days under a URL; see Impressions for what each method says.

    A day's files are copied here when they are read.
    """

    def __init__(self, root: str) -> None:
        self.root = root

    def dates(self, domain: Domain) -> list[dt.date]:
        days, there = set(), f"{self.root.rstrip('/')}/domain={domain}"
        listing = _list(self.root, f"domain={domain}", below=1)
        refuse_other_case(self.root.rstrip("/"), _names_at(self.root, _open(self.root)[1]), domain)
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
        filesystem, path = _open(self.root)
        with _explained(self.root):
            content: bytes = filesystem.cat_file(f"{path}/domain={domain}/date={date}/{name}")
        return content.decode(errors="replace")

    def files(self, domain: Domain, date: dt.date) -> list[Path]:
        listing = _listing(self.root, domain, date)
        if not listing:
            return []

        def fill(target: Path) -> None:
            for path, info in listing.items():
                copy = target / path.rsplit("/", 1)[1]
                with _explained(self.root):
                    now = _copied(self.root, path, copy)
                if now != info or copy.stat().st_size != info["size"]:
                    raise DeliveredAnew(self.where(domain, date))
            durable.write_bytes(target / DIGESTS, json.dumps(durable.digests(target)).encode())

        def valid(target: Path) -> bool:
            digests = target / DIGESTS
            return digests.exists() and durable.has_files(
                target, json.loads(digests.read_text("utf-8"))
            )

        folder = _cache(self.root).folder(_key(domain, date, listing), fill, valid)
        return sorted(path for path in folder.iterdir() if is_part(path.name))

    def digest(self, domain: Domain, date: dt.date) -> str:
        """Digest as of the same files in a folder; remembered when the copy is gone."""
        listing = _listing(self.root, domain, date)
        if not listing:
            return digest_files([])
        name = hashlib.sha256(_key(domain, date, listing).encode()).hexdigest()
        remembered = _cache(self.root).root / "digests" / name
        if remembered.exists():
            return remembered.read_text("utf-8")
        content = digest_files(self.files(domain, date))
        durable.make_dir(remembered.parent)
        with durable.replacing(remembered) as temporary:
            durable.write_bytes(temporary, content.encode())
        return content

    def where(self, domain: Domain, date: dt.date) -> str:
        return f"{self.root.rstrip('/')}/domain={domain}/date={date}"

    def other_folders(self, domain: Domain) -> list[str]:
        start = f"{_open(self.root)[1]}/domain={domain}/"
        folders = {
            path[len(start) :].split("/")[0]
            for path in _list(self.root, f"domain={domain}", below=2)
            if "/" in path[len(start) :]
        }
        days = set(self.dates(domain))
        return sorted(name for name in folders if not is_hidden(name) and date_of(name) not in days)

    def unread(self, domain: Domain, date: dt.date) -> list[str]:
        folder = f"domain={domain}/date={date}"
        start = len(f"{_open(self.root)[1]}/{folder}/")
        names = (path[start:] for path in _list(self.root, folder, below=1))
        return sorted({name.split("/")[0] for name in names if is_unread(name)})

    def table(self, domain: Domain) -> str | None:
        start = f"{_open(self.root)[1]}/domain={domain}/"
        of_domain = _list(self.root, f"domain={domain}", below=2)
        table = table_of({path[len(start) :].split("/")[0] for path in of_domain})
        table = table or table_of(_names_at(self.root, _open(self.root)[1]))
        above, _, last = _open(self.root)[1].rpartition("/")
        if not table and last == "data":
            with suppress(ContractError):  # whoever may read the data may not read beside it
                return iceberg_of(_names_at(self.root, f"{above}/metadata"))
        return table


def _names_at(root: str, folder: str) -> list[str]:
    """List the names right in a folder near the root, which a command asks for once."""
    held = listings()
    if held is None:
        return _ask_names(root, folder)
    if (root, folder) not in held:
        held[root, folder] = {name: {} for name in _ask_names(root, folder)}
    return list(held[root, folder])


def _ask_names(root: str, folder: str) -> list[str]:
    filesystem, _ = _open(root)
    with _explained(root):
        if not _by_obstore(root):
            filesystem.invalidate_cache()
            there = filesystem.ls(folder, detail=False) if filesystem.isdir(folder) else []
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in there]
        import obstore

        bucket, _, prefix = folder.partition("/")
        listed = obstore.list_with_delimiter(_bucket(root, bucket), prefix or None)
        paths = [*listed["common_prefixes"], *(one["path"] for one in listed["objects"])]
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]


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
        entries = _ask(root, folder)
    else:
        domain = folder.partition("/")[0]
        if (root, domain) not in held:
            held[root, domain] = _ask(root, domain)
        entries = held[root, domain]
    start = f"{_open(root)[1]}/{folder}/"
    return {
        path: info
        for path, info in entries.items()
        if path.startswith(start) and path.count("/", len(start)) <= below
    }


def _ask(root: str, folder: str) -> Files:
    """Return what lies under a folder now; on object storage one request per 1,000 objects."""
    filesystem, path = _open(root)
    with _explained(root):
        if not _by_obstore(root):
            filesystem.invalidate_cache()
            return _found(filesystem, f"{path}/{folder}", below=2)
        import obstore  # fsspec's own walk asks for every folder

        bucket, _, prefix = path.partition("/")
        pages = obstore.list(_bucket(root, bucket), prefix=f"{prefix}/{folder}".lstrip("/"))
        return {f"{bucket}/{one['path']}": _said(dict(one)) for page in pages for one in page}


def _found(filesystem: Any, folder: str, below: int) -> Files:
    """Return the files of a folder, and of so many folders below; none of a folder that is gone.

    fsspec's own find takes a folder that it cannot list for an empty one, without its days.
    """
    try:
        entries = filesystem.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    files: Files = {}
    for info in entries:
        name = info["name"].rstrip("/")
        if info["type"] != "directory":
            files[info["name"]] = _said(info)
        elif below and name != folder:
            files |= _found(filesystem, name, below - 1)
    return files


def _copied(root: str, path: str, target: Path) -> dict[str, Any] | None:
    """Copy a file, and return what a listing would say of the content that was copied.

    None if it is gone.
    """
    try:
        return _copy(root, path, target)
    except FileNotFoundError:
        return None


def _copy(root: str, path: str, target: Path) -> dict[str, Any]:
    filesystem, _ = _open(root)
    if not _by_obstore(root):
        filesystem.get_file(path, str(target))
        filesystem.invalidate_cache()
        return _said(filesystem.info(path))
    import obstore

    bucket, _, key = path.partition("/")
    answer = obstore.get(_bucket(root, bucket), key)
    with target.open("wb") as file:
        for chunk in answer:
            file.write(chunk)
    return _said(dict(answer.meta))


def _said(info: dict[str, Any]) -> dict[str, Any]:
    """Return what of a file's description changes with its content.

    Its tag, and where it has none the times.
    """
    tag = str(info.get("e_tag") or "").strip('"')
    if tag:
        return {"size": info["size"], "e_tag": tag}
    return {name: str(info[name]) for name in SAYS if info.get(name) is not None} | {
        "size": info["size"]
    }


def _by_obstore(root: str) -> bool:
    return root.partition("://")[0] in BY_OBSTORE


@lru_cache(maxsize=16)
def _bucket(root: str, bucket: str) -> Any:
    import obstore

    return obstore.store.from_url(f"{root.split('://', maxsplit=1)[0]}://{bucket}")


@lru_cache(maxsize=16)
def _cache(root: str) -> Cache:
    """Return one per process and URL.

    It remembers which copies it has checked, and keeps them from being thrown out.
    """
    return Cache.of(root)


@lru_cache(maxsize=16)
def _open(root: str) -> tuple[Any, str]:
    if _by_obstore(root):
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
        if root.startswith("webhdfs://"):
            session = filesystem.session
            session.request = partial(session.request, timeout=ANSWERS_WITHIN)
    return filesystem, path.rstrip("/")


@contextmanager
def _explained(root: str) -> Iterator[None]:
    """Say whatever a file system says as one sentence."""
    try:
        yield
    except ContractError:
        raise
    except Exception as error:
        if lacks_room(error):
            raise
        raise ContractError(f"data.root {root} cannot be read: {first_line(error)}") from None
