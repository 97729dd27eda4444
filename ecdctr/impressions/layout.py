"""How the folders and files of impressions are named.

domain=<domain>/date=<YYYY-MM-DD>/*.parquet.
"""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.errors import ContractError

if TYPE_CHECKING:
    from ecdctr.config import Domain

HELD_OUT = "held_out"  # folder beside the domains: a simulated world's ads that nobody trains on
TABLES = {
    "_delta_log": "Delta Lake",
    ".hoodie": "Hudi",
    ".hoodie_partition_metadata": "Hudi",  # a file in each of its days, which a copy may have alone
    "_spark_metadata": "Spark's streaming sink",
}  # what keeps a list of its files, by what lies in its folder
OF_ICEBERG = re.compile(r".*\.metadata\.json(\.gz)?|snap-.*\.avro")  # its lists' names
OF_PAIMON = {"manifest", "schema", "snapshot"}  # folders that its tables have beside their parts
METADATA = "metadata"  # the folder that Iceberg keeps its list in, and others other things
SCRATCH = "_import-"  # what the folder of a running import begins with, beside its days
WRITTEN = f"{SCRATCH}written"  # domains of an import that are not yet where they are read
DAY_FOLDER = re.compile(r"date=([0-9]{4}-[0-9]{2}-[0-9]{2})")


def day_folder(root: Path, domain: Domain, date: dt.date) -> Path:
    """Return the hive partition of one day of one domain."""
    return root / f"domain={domain}" / f"date={date}"


def date_of(folder: str) -> dt.date | None:
    """Return the date of a folder named date=YYYY-MM-DD, None for any other name."""
    match = DAY_FOLDER.fullmatch(folder)
    try:
        return dt.date.fromisoformat(match[1]) if match else None
    except ValueError:  # 2026-02-30
        return None


def refuse_other_case(where: object, names: Iterable[str], domain: Domain) -> None:
    """Raise ContractError where a folder is a domain's, or a day's, but for upper case.

    Its files would be left out, while Spark and Hive, which ask for no case, read them.
    """
    for name in names:
        lower = name.lower()
        if lower != name and (lower == f"domain={domain}" or date_of(lower)):
            raise ContractError(
                f"{where}/{name}: expected {lower}, found a name in another case, whose files "
                "would not be read; move them there, or the folder away."
            )


def is_hidden(name: str) -> bool:
    """Say whether a name is hidden by a dot or an underscore: it is not to be read."""
    return name.startswith((".", "_"))


def is_part(name: str) -> bool:
    """Say whether a file of a day's folder holds impressions.

    *.parquet in the folder itself, not hidden.
    """
    return name.endswith(".parquet") and "/" not in name and not is_hidden(name)


def no_file(path: Path) -> str | None:
    """Say what stands in the place of a Parquet file; None for a file, and where nothing is."""
    other = None
    if path.is_dir():
        other = "a folder; move its files up"
    elif path.is_symlink() and not path.exists():
        other = "a link to nothing"
    elif path.exists() and not path.is_file():  # reading it might never end
        other = "a pipe or a device"
    return other and f"expected a Parquet file, found {other}"


def refuse_no_files(paths: Iterable[Path]) -> None:
    """Raise ContractError with the first of some parts that is no file."""
    for path in paths:
        if words := no_file(path):
            raise ContractError(f"{path}: {words}.")


def is_unread(name: str) -> bool:
    """Say whether what lies in a day's folder is neither read nor hidden.

    part-0.PARQUET, 000000_0, hour=01/….
    """
    return not is_part(name) and not any(map(is_hidden, name.split("/")))


def table_of(names: Iterable[str], metadata: Callable[[], Iterable[str]]) -> str | None:
    """Name the table format that says which files of a folder count, by what lies in it.

    `metadata` lists the folder of that name, which Iceberg's tables have beside a folder `data`, or
    among the days where the table was Hive's before; it is asked only where there is one.
    """
    there = set(names)
    table = next((f"{what} ({name})" for name, what in TABLES.items() if name in there), None)
    if not table and there >= OF_PAIMON:
        return "Paimon (snapshot)"
    if table or METADATA not in there:
        return table
    iceberg = any(OF_ICEBERG.fullmatch(name) for name in metadata())
    return f"Iceberg ({METADATA})" if iceberg else None


def table_format(folder: Path) -> str | None:
    """Name the table format that a folder belongs to, with those above it.

    Its files may be among those, or hold rows, that the table counts as removed.
    """
    for one in (folder, *folder.parents):  # looked into by name: not every folder may be listed
        there = [name for name in (*TABLES, *OF_PAIMON, METADATA) if (one / name).exists()]
        if table := table_of(there, partial(names_in, one / METADATA)):
            return table
    return None


def absence(root: Path, domain: Domain) -> str:
    """Say why a domain has no folder, and what lies there instead; empty where it has one."""
    if (root / f"domain={domain}").is_dir():
        return ""
    if not root.is_dir():
        other = "a file" if root.exists() else "nothing of that name"
        return f" ({root}: expected a folder, found {other}; look at data.root)"
    alike = [name for name in sorted(names_in(root)) if domain in name.lower()]
    there = f", found {alike[0]!r}" if alike else ""
    return f" ({root}: expected a folder domain={domain}{there})"


def names_in(folder: Path) -> list[str]:
    """List the names in a folder; none where there is no folder."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
