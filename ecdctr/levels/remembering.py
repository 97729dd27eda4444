"""The memory of users as a version holds it.

TPM's, or where no TPM stands behind it the ads model's own.
"""

from __future__ import annotations

import datetime as dt
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.examples.clean import raw_views
from ecdctr.examples.remembered import Remembered
from ecdctr.files.duck import literal, parquet
from ecdctr.impressions import contract
from ecdctr.impressions.days import Gap, gaps, refuse_gaps
from ecdctr.memory.table import newest_table

if TYPE_CHECKING:
    from ecdctr.levels.request import Plan, Request


def holds_memory(request: Request, plan: Plan) -> bool:
    """Tell whether a version holds the tables of memory.

    TPM, and an ads model without snapshots.
    """
    alone = plan.level == "actr" and not plan.snapshots.sets
    return request.config.memory.enabled and (plan.level == "tpm" or alone)


def refuse_memory_gaps(request: Request) -> None:
    """Raise ContractError where the days of the newest weekly table lack one domain."""
    refuse_gaps(request.config, *_newest_table(request))


def memory_gaps(request: Request) -> list[Gap]:
    """Return which days one domain lacks of those of the newest weekly table."""
    return gaps(request.config, *_newest_table(request))


def memory_cut(request: Request, plan: Plan, begins: dt.date | None) -> list[str]:
    """Say where days that memory reads were taken from the log since the version before.

    `begins` is the first day of the log now.
    """
    if not holds_memory(request, plan):
        return []
    (newest,), before = _newest_table(request)
    reads = newest - dt.timedelta(days=before)
    for ref in plan.parents.get(plan.level, []):
        began = request.store.manifest(ref).log_start
        if began and begins and began < begins and begins > reads:
            return [
                f"memory reads days from {reads} on, and the log begins on {begins} (for {ref} it "
                f"began on {began}): what the days before that said is no longer counted; deliver "
                "them again, or shorten memory.windows"
            ]
    return []


def _newest_table(request: Request) -> tuple[list[dt.date], int]:
    """Return the newest weekly table's date, and how many days before it are in the table."""
    memory = request.config.memory
    return [newest_table(memory, request.date)], memory.longest - 1


def save_memory(request: Request, folder: Path) -> None:
    """Write the newest weekly table of each key, of each user the pairs that readers take."""
    config = request.config
    folder.mkdir()
    with contract.connect(config) as connection:
        views = partial(raw_views, connection, config)
        date = newest_table(config.memory, request.date)
        for key, path in Remembered(config).tables(connection, views, date).items():
            kept = f"SELECT * FROM {parquet([path])} WHERE place <= {config.memory.max_pairs}"
            target = literal(folder / f"{key}.parquet")
            connection.execute(
                f"COPY ({kept} ORDER BY user_id, value) TO {target} "
                "(FORMAT parquet, COMPRESSION zstd)"
            )
