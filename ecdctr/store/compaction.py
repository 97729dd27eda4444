"""Small files of a store in a folder, of which each day leaves some, put together in one.

Notes on removed versions and records of logs are written as files of their own, since a file is
there as a whole or not at all; `store gc` puts them together while nobody else uses the store. Who
reads looks at the files of their own first, which are taken away last.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from ecdctr.files import durable
from ecdctr.store.documents import Content, read_json
from ecdctr.store.manifest import VERSION
from ecdctr.store.places import date_of

REMOVED = "removed.json"  # of a group: notes on its removed versions, by their name
OLDER = "older.json"  # of a log: its records up to the first that is a file of its own


def note(group: Path, name: str) -> str | None:
    """Return the note on a version of a group, None if it was not removed.

    Raises StoreError for damage.
    """
    try:
        return (group / f"{name}.removed").read_text("utf-8", "replace")
    except FileNotFoundError:
        together = _read(group / REMOVED, dict)
        return together.get(name)


def removals(group: Path, dates: Iterable[str], since: str, until: str) -> list[str]:
    """Return the names of the versions that were removed, of dates between two, both included.

    `dates` are those that have a folder. Raises StoreError for damage.
    """
    alone = [
        f"{date}/{path.stem}"
        for date in dates
        if since <= date <= until
        for path in _notes(group, date)
    ]
    together = _read(group / REMOVED, dict)
    among = [name for name in together if since <= name.partition("/")[0] <= until]
    return list(dict.fromkeys([*alone, *among]))  # a killed `store gc` leaves both


def put_notes_together(group: Path) -> None:
    """Put the notes of a group into one file, and take away theirs and empty dates."""
    paths = _notes(group, "*")
    names = [(f"{path.parent.name}/{path.stem}", path) for path in paths]
    alone = {name: path.read_text("utf-8", "replace") for name, path in names}
    _write(group / REMOVED, _read(group / REMOVED, dict) | alone)
    for path in paths:
        path.unlink()
        with contextlib.suppress(OSError):  # a version is there, or a note of another
            path.parent.rmdir()


def records(log: Path, newest: int = 0) -> list[tuple[int, bytes]]:
    """Return a log's records with their numbers, oldest first: so many of the newest, 0 for all.

    Raises StoreError for damage.
    """
    alone = []
    for path in _records(log)[-newest:]:
        with contextlib.suppress(FileNotFoundError):  # put together meanwhile
            alone.append((int(path.stem), path.read_bytes()))
    if newest and len(alone) == newest:
        return alone
    older = [(number, text.encode()) for number, text in enumerate(_read(log / OLDER, list), 1)]
    return list(dict([*older, *alone]).items())[-newest:]


def put_records_together(log: Path, keep: int) -> None:
    """Put the records of a log into one file, but the newest `keep`."""
    paths = _records(log)[:-keep]
    if paths:
        last = int(paths[-1].stem)
        texts = [content.decode() for number, content in records(log) if number <= last]
        _write(log / OLDER, texts)
        for path in paths:
            path.unlink()


def _notes(group: Path, date: str) -> list[Path]:
    """List the notes of one date, or of all ("*"), without copies that others made of them."""
    names = group.glob(f"{date}/v*.removed")
    return [path for path in names if date_of(path.parent.name) and VERSION.match(path.stem)]


def _records(log: Path) -> list[Path]:
    """List a log's records, oldest first, without copies that others made ("000001 (1).json")."""
    return sorted(path for path in log.glob("[0-9]*.json") if path.stem.isdecimal())


def _read(path: Path, kind: type[Content]) -> Content:
    """Return the content of a file, an empty one where there is none."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return kind()
    return read_json(text, kind, f"{path}, into which `store gc` has put smaller files,")


def _write(path: Path, content: dict[str, str] | list[str]) -> None:
    with durable.replacing(path) as temporary:
        durable.write_bytes(temporary, json.dumps(content, indent=0).encode())
    durable.sync(path.parent)
