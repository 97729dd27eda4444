"""What a day's examples say of memory: the newest weekly table and the days since it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecdctr.domains import DOMAINS
from ecdctr.files.duck import parquet
from ecdctr.memory.columns import input_names, inputs
from ecdctr.memory.pairs import as_counts
from ecdctr.memory.table import sums

if TYPE_CHECKING:
    from ecdctr.config import Memory


class Source(NamedTuple):
    """Where the memory of a key lies on a day: the weekly table, and the extracts since it."""

    table: Path | None
    since: list[Path]


def memory_relation(memory: Memory, key: str, source: Source) -> str:
    """Return a query: one row per user and value of the relation `day`, with a table's counts."""
    asked = f'AS m SEMI JOIN day AS d ON m.user_id = d.user_id AND m.value = d."{key}"'
    parts = [f'SELECT user_id, "{key}" AS value FROM day WHERE false']  # types of ids
    if source.table:
        parts.append(
            f"SELECT * EXCLUDE (place) FROM {parquet([source.table])} {asked} "
            f"WHERE place <= {memory.max_pairs}"
        )
    if source.since:
        since = parquet(source.since)
        parts.append(f"SELECT {as_counts(memory.windows)} FROM {since} {asked}")
    return sums(memory, parts)


def memory_columns(
    memory: Memory,
    key: str,
    values: Callable[[str], Any],
    gap: Callable[[str], Any],
    ln: Callable[[Any], Any],
) -> dict[str, Any]:
    """Return a key's inputs by name, in an engine's expressions.

    `values` gives a column of counts, `gap` a domain's days since the last click.
    """
    made = []
    for domain in DOMAINS:
        clicks, shown = (
            [values(f"{domain}_{what}_{window}") for window in memory.windows]
            for what in ("clicks", "shown")
        )
        made += inputs(ln, clicks, shown, gap(domain))
    return dict(zip(input_names([key], memory.windows), made, strict=True))
