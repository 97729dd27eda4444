"""Which ids have a row: admission after some impressions, eviction when unseen or out of room.

Off where a level's `vocabulary` does not name a field: then every id has a row for ever.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from ecdctr.errors import ConfigError
from ecdctr.examples.vocabulary import Sightings, Vocabulary, refuse_other_type

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Admission

EPOCH = dt.date(1970, 1, 1)


class Renewal(NamedTuple):
    """A child's vocabulary, and what became of its parent's."""

    vocabulary: Vocabulary
    admitted: int
    evicted: int

    def metrics(self, name: str, date: dt.date) -> dict[str, float]:
        """Return what a version says of a field: rows and ids that wait for one.

        Staleness is the median of the days since the rows' ids were last seen, 0 without rows.
        """
        vocabulary = self.vocabulary
        assert vocabulary.sightings is not None  # noqa: S101  # by renewed
        rows = len(vocabulary.values)
        last = vocabulary.sightings.last[:rows]
        return {
            f"{name}.rows": float(rows),
            f"{name}.admitted": float(self.admitted),
            f"{name}.evicted": float(self.evicted),
            f"{name}.waiting": float(len(vocabulary.sightings.last) - rows),
            f"{name}.staleness_days": float(days(date) - np.median(last)) if rows else 0.0,
        }


class _Merged(NamedTuple):
    """All ids that are known of, in their own order, each once."""

    ids: pa.Array
    last: NDArray[np.int32]
    counts: NDArray[np.int64]
    row: NDArray[np.int64]  # in the parent, 0 without one
    read: NDArray[np.bool_]  # whether the level itself reads it now


def renewed(
    parent: Vocabulary,
    read: Sightings,
    snapshots: list[Sightings],
    settings: Admission,
    date: dt.date,
    where: str,
) -> Renewal:
    """Decide who has a row on a data date, from the parent and from what was seen since.

    Args:
        parent: with its sightings, or of no ids.
        read: impressions that the parent has not counted.
        snapshots: what TPM knows; its counts are not added, for all read the same days.
        settings: of the field.
        date: the data date.
        where: the setting's name, for errors.

    Owners of a row keep it, a freed row goes to a new id. If more are freed than taken, the last
    rows move down, so that a table has no holes. Raises ConfigError when the newest day alone has
    more ids than there may be rows.
    """
    merged = _merged(parent, read, snapshots)
    owned = merged.row > 0
    ready = owned | (merged.counts >= settings.min_impressions)
    _refuse_too_few(merged, read, ready, settings, where)
    order = _in_order(merged, ready, settings)
    if settings.evict_after_days:
        order = order[days(date) - merged.last[order] < settings.evict_after_days]
    room = len(order) if settings.max_rows is None else settings.max_rows
    size = min(int(ready[order].sum()), room)
    chosen, waiting = order[:size], np.sort(order[size : size + room])
    placed = np.concatenate([_placed(merged, chosen), waiting])
    kept = int(owned[chosen].sum())
    sightings = Sightings(
        merged.ids.take(pa.array(placed)), merged.last[placed], merged.counts[placed]
    )
    vocabulary = Vocabulary(sightings.ids[:size], sightings)
    return Renewal(vocabulary, size - kept, len(parent.values) - kept)


def days(date: dt.date) -> int:
    """Return days since 1970."""
    return (date - EPOCH).days


def assumed(ids: pa.Array, date: dt.date, settings: Admission) -> Sightings:
    """Return sightings [n] for a version that keeps none, as if it saw all ids on its data date.

    ids: [n], what sightings are of.
    """
    last = np.full(len(ids), days(date), np.int32)
    return Sightings(ids, last, np.full(len(ids), settings.min_impressions, np.int64))


def _merged(parent: Vocabulary, read: Sightings, snapshots: list[Sightings]) -> _Merged:
    assert parent.sightings is not None  # noqa: S101  # the caller's
    rows = np.zeros(len(parent.sightings.last), np.int64)
    rows[: len(parent.values)] = np.arange(1, parent.rows)
    owned = _table(parent.sightings, counted=True, rows=rows)
    parts = [owned, _table(read, counted=True, read=True), *map(_table, snapshots)]
    filled = [part for part in parts if len(part)] or parts[:1]
    for part in filled:
        refuse_other_type(filled[0]["id"].type, part["id"])
    whole = pa.concat_tables(filled).group_by("id", use_threads=False)
    how = {"last": "max", "counted": "sum", "told": "max", "row": "max", "read": "max"}
    table = whole.aggregate(list(how.items())).sort_by("id")
    column = {name: table[f"{name}_{of}"].to_numpy() for name, of in how.items()}
    counts = np.maximum(column["counted"], column["told"])
    ids = table["id"].combine_chunks()
    return _Merged(ids, column["last"], counts, column["row"], column["read"] > 0)


def _table(
    seen: Sightings,
    counted: bool = False,
    rows: NDArray[np.int64] | None = None,
    read: bool = False,
) -> pa.Table:
    none = np.zeros(len(seen.last), np.int64)
    return pa.table(
        {
            "id": seen.ids,
            "last": seen.last,
            "counted": seen.counts if counted else none,
            "told": none if counted else seen.counts,
            "row": none if rows is None else rows,
            "read": none + read,
        }
    )


def _in_order(merged: _Merged, ready: NDArray[np.bool_], settings: Admission) -> NDArray[np.int64]:
    """Return the ids from the first that gets a row to the last, by their places.

    Of two alike the one that has a row is first, then the smaller id.
    """
    keys = (merged.counts, merged.last) if settings.order == "lru" else (merged.last, merged.counts)
    return np.lexsort((merged.row == 0, *(-key.astype(np.int64) for key in keys), ~ready))


def _placed(merged: _Merged, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the chosen ids in the order of their rows.

    New ones take free rows from the first on: those that are read now, then those that only
    snapshots know, as where nothing is evicted.
    """
    placed = np.full(len(chosen), -1, np.int64)
    row = merged.row[chosen]
    stay = (row > 0) & (row <= len(chosen))
    placed[row[stay] - 1] = chosen[stay]
    new, moving = np.sort(chosen[row == 0]), chosen[row > len(chosen)]
    new = np.concatenate([new[merged.read[new]], new[~merged.read[new]]])
    moving = moving[np.argsort(merged.row[moving])]
    placed[placed < 0] = np.concatenate([new, moving])
    return placed


def _refuse_too_few(
    merged: _Merged, read: Sightings, ready: NDArray[np.bool_], settings: Admission, where: str
) -> None:
    if settings.max_rows is None or not len(read.last):
        return
    newest = int(read.last.max())
    needed = int((ready & merged.read & (merged.last == newest)).sum())
    if needed > settings.max_rows:
        raise ConfigError(
            f"{where}.max_rows is {settings.max_rows}, but of the ids of "
            f"{EPOCH + dt.timedelta(days=newest)} alone {needed} are due a row (min_impressions: "
            f"{settings.min_impressions}); set it to {needed} or more, or raise min_impressions."
        )
