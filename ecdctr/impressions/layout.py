"""How the folders and files of impressions are named.

domain=<domain>/date=<YYYY-MM-DD>/*.parquet.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecdctr.config import Domain

HELD_OUT = "held_out"  # folder beside the domains: a simulated world's ads that nobody trains on
TABLES = {
    "_delta_log": "Delta Lake",
    ".hoodie": "Hudi",
}  # what keeps a list of its files, by its folder
SCRATCH = "_import-"  # what the folder of a running import begins with, beside its days
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


def is_hidden(name: str) -> bool:
    """Say whether a name is hidden by a dot or an underscore: it is not to be read."""
    return name.startswith((".", "_"))


def is_part(name: str) -> bool:
    """Say whether a file of a day's folder holds impressions.

    *.parquet in the folder itself, not hidden.
    """
    return name.endswith(".parquet") and "/" not in name and not is_hidden(name)


def is_unread(name: str) -> bool:
    """Say whether what lies in a day's folder is neither read nor hidden.

    part-0.PARQUET, 000000_0, hour=01/….
    """
    return not is_part(name) and not any(map(is_hidden, name.split("/")))


def table_format(folder: Path) -> str | None:
    """Name the table format whose files lie in a folder: it may count some, or rows, as removed."""
    for name, what in TABLES.items():
        if (folder / name).is_dir():
            return f"{what} ({name})"
    iceberg = folder.name == "data" and any((folder.parent / "metadata").glob("*.metadata.json"))
    return "Iceberg (../metadata)" if iceberg else None
