"""Ids of text that differ in nothing that is seen: said once, and kept apart.

Blanks around them, invisible marks (of zero width, of byte order, of direction) and the two ways in
which Unicode writes é make two users, or items, of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.config.terms import IDS
from ecdctr.files.strict_yaml import in_yaml
from ecdctr.impressions.expressions import scalar_kind

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.mapping import Mapping

SUSPECT = r"^\s|\s$|[^\x00-\x7f]"  # all others are as they are seen
SEEN = (
    r"nfc_normalize(regexp_replace(regexp_replace({}, '\p{{Cf}}', '', 'g'), "
    r"'^[\s\p{{Z}}]+|[\s\p{{Z}}]+$', '', 'g'))"
)


def words_for_like_ids(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, types: dict[str, str], rows: str
) -> list[str]:
    """Write sentences about ids that differ in nothing that is seen, of rows as SQL for FROM."""
    said = []
    for name in IDS:
        if scalar_kind(types[name]) == "text" and (row := _alike(db, name, rows)):
            count, one, other = row
            text = getattr(mapping, name)
            said.append(
                f"{count:,} values of {name} differ from others in nothing but blanks around them, "
                f"invisible marks or the form of Unicode, such as {one!a:.60} and {other!a:.60}; "
                f"they stay apart; if they mean one: {name}: {in_yaml(SEEN.format(text))}"
            )
    return said


def _alike(db: duckdb.DuckDBPyConnection, name: str, rows: str) -> tuple[int, str, str] | None:
    """Count ids of which another is seen as the same; returns the count and the first two."""
    row = db.execute(
        f"""WITH ids AS MATERIALIZED (SELECT DISTINCT {name} AS id FROM {rows}),
        odd AS (
            SELECT id, {SEEN.format("id")} AS seen FROM ids
            WHERE regexp_matches(id, '{SUSPECT}') AND id <> seen),
        plain AS (SELECT id, id AS seen FROM ids WHERE id IN (SELECT seen FROM odd)),
        alike AS (
            SELECT seen, count(*) - 1 AS others, min(id) AS one, max(id) AS other
            FROM (FROM odd UNION ALL FROM plain) GROUP BY seen HAVING count(*) > 1)
        SELECT sum(others)::BIGINT, arg_min(one, seen), arg_min(other, seen) FROM alike"""
    ).fetchone()
    return row if row and row[0] else None
