"""Which files a log is, by names and patterns, and what the folders above them say of rows."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote

from ecdctr.errors import ConfigError
from ecdctr.files.urls import looks_like_url
from ecdctr.impressions.layout import SCRATCH, table_format

ARCHIVES = (".bz2", ".xz", ".zip", ".7z", ".lz4", ".tar", ".tgz")
UNREAD = (*ARCHIVES, ".xlsx", ".json", ".jsonl", ".ndjson", ".avro", ".orc")
UNFINISHED = (".inprogress", ".tmp", ".temp", ".part", ".partial", "._COPYING_", ".crc")
FOLDER_OF_HIVE = re.compile(r"([^=]+)=(.*)")
NULL_OF_HIVE = "__HIVE_DEFAULT_PARTITION__"


def name_in(source: Path, path: Path) -> str:
    """Return a file's path below the source folder; two files have one name in two folders."""
    return str(path.relative_to(source) if path.is_relative_to(source) else path)


def matches(files: Iterable[str], source: Path) -> list[Path]:
    """List the files of a table: names that are there, else patterns under the folder `source`.

    Raises ConfigError where nothing matches, or a file belongs to a table format.
    """
    paths: list[Path] = []
    for pattern in files:
        if (source / pattern).is_file():
            paths.append(source / pattern)
            continue
        hits, hidden = _hits(pattern, source)
        if not hits:
            hint = "; write folders with /" if "\\" in pattern else ""
            hint = "; copy what lies at a URL first" if looks_like_url(pattern) else hint
            hint = f" but {_of_hidden(hidden)}" if hidden else hint
            raise ConfigError(f"No file matches '{pattern}' in {source}{hint}.")
        paths += [source / hit for hit in hits]
    for path in paths:
        if kept_by := table_format(path.parent):
            raise ConfigError(
                f"{path} belongs to a table of {kept_by}, which may count it, or rows of it, as "
                "removed; write the table's rows out as plain files."
            )
        if path.is_dir():
            raise ConfigError(f"{path} is a folder, expected a file; name the files in it.")
        if not path.is_file():  # a pipe, which can be read once, or a link to nothing
            raise ConfigError(f"{path}: expected a file, found none that can be read twice.")
        if path.suffix.lower() in UNREAD or ".tar." in path.name.lower():
            raise ConfigError(
                f"{path}: expected CSV, as it is or as .gz or .zst, or Parquet; convert it first."
            )
    once: dict[Path, Path] = {}  # a link to a folder above makes a pattern find a file 40 times
    for path in paths:
        once.setdefault(path.resolve(), path)
    return list(once.values())


def words_for_hidden(files: Iterable[str], source: Path) -> list[str]:
    """Write sentences about what patterns match and leave out: _temporary, _SUCCESS of Spark."""
    patterns = [name for name in files if not (source / name).is_file()]
    hidden = [(pattern, _hits(pattern, source)[1]) for pattern in patterns]
    return [f"'{pattern}' leaves out {_of_hidden(names)}" for pattern, names in hidden if names]


def _hits(pattern: str, source: Path) -> tuple[list[str], list[str]]:
    """List what a pattern matches, and what of that is hidden by its name.

    Such names begin with _, or end as those of files do that are being written, and of their sums.

    A pattern that has such a name itself finds them. Folders of a running import are in neither.
    """
    hits = [
        hit
        for hit in sorted(glob.glob(pattern, root_dir=source, recursive=True))
        if not any(part.startswith(SCRATCH) for part in Path(hit).parts)
    ]
    if _has_hidden(pattern):
        return hits, []
    return [h for h in hits if not _has_hidden(h)], [h for h in hits if _has_hidden(h)]


def _has_hidden(path: str) -> bool:
    parts = Path(path).parts
    return any(part.startswith("_") for part in parts) or path.endswith(UNFINISHED)


def _of_hidden(names: list[str]) -> str:
    more = f" and {len(names) - 1:,} more" if len(names) > 1 else ""
    why = "hidden by _" if not names[0].endswith(UNFINISHED) else "which is no finished file's name"
    return f"{names[0]}{more}, {why}; a pattern that has such a name finds them"


def folder_values(source: Path, path: Path) -> dict[str, str | None]:
    """Return what the folders between a log's folder and a file say, as Hive names them: key=value.

    Files of such a folder have no column of that name: all of their rows have its value.
    """
    folders = Path(name_in(source, path)).parent.parts if path.is_relative_to(source) else ()
    said = [match for match in map(FOLDER_OF_HIVE.fullmatch, folders) if match]
    values = {unquote(match[1]): unquote(match[2]) for match in said}
    return {key: None if value == NULL_OF_HIVE else value for key, value in values.items()}
