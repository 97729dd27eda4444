"""Times of an imported log that cannot be: before 1970, after tomorrow, or unlike the others.

Refused with the file, where the first of few stands, and what the numbers look like.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from ecdctr.errors import ContractError
from ecdctr.files.duck import one_row
from ecdctr.impressions.expressions import READERS, UNITS
from ecdctr.impressions.locate import first_place
from ecdctr.impressions.mapped_rows import DOMAINS
from ecdctr.impressions.syntax import nodes, parsed

if TYPE_CHECKING:
    import duckdb

    from ecdctr.impressions.mapped_rows import Staged
    from ecdctr.impressions.mapping import Mapping
    from ecdctr.impressions.syntax import Node

AFTER_1970 = dt.date(1971, 1, 1)
DAY = 86_400  # seconds
AS_DAYS = (19_900_101, 21_000_101)  # 20260131 and its like


def refuse_times(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Raise ContractError for times before `earliest` or after `latest`, and for few of 1970.

    The sentence names the unit that they seem to be in.
    """
    row = db.execute(
        f"SELECT min(ts)::VARCHAR, max(ts)::VARCHAR, {_seconds('min(ts)')}, {_seconds('max(ts)')} "
        f"FROM {staged.rows} WHERE {DOMAINS}"
    ).fetchone()
    if row is None or row[0] is None:
        return
    first, last, *seconds = row
    earliest = mapping.earliest or dt.date(1970, 1, 1)
    latest = mapping.latest or dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    low, high = _midnight(earliest), _midnight(latest) + DAY
    too_early = mapping.earliest is None and 0 <= seconds[1] < _midnight(AFTER_1970)
    if low <= seconds[0] and seconds[1] < high and not too_early:
        if mapping.earliest is None and seconds[0] < _midnight(AFTER_1970):
            _refuse_few_of_1970(db, mapping, staged)
        return
    expected = f"{earliest if not too_early else AFTER_1970} and {latest}"
    few = "" if too_early else _few_beyond(db, mapping, staged, low, high)
    raise ContractError(
        f"{staged.path}: ts lies between {first} and {last}, expected between {expected} "
        f"(mapping ts: {mapping.ts}).{few or _hint(db, mapping, seconds, high)} Other times that "
        "are right: set earliest or latest in the mapping."
    )


def _hint(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, seconds: list[float], high: float
) -> str:
    """Say which unit numbers seem to be in that the mapping reads in another one.

    Of times that the mapping computes, what reads each unit; '' where it reads no numbers.
    """
    called = [node["function_name"] for node in nodes(parsed(db, mapping.ts)) if _calls(node)]
    if not set(called) & UNITS.keys():
        return ""
    if len(called) == 1:
        read_as, factor = UNITS[called[0]]
        least, most = (second * factor for second in seconds)
        if least >= AS_DAYS[0] and most < AS_DAYS[1]:
            how = "strptime(column::VARCHAR, '%Y%m%d')"
            return f" They look like days read as {read_as}: write ts: {how}."
        for reader, (unit, of_a_second) in UNITS.items():
            if _midnight(dt.date(1990, 1, 1)) <= most / of_a_second < high:
                return f" They look like {unit} read as {read_as}: write ts: {reader}(column)."
    return f" If the unit is another one, write {READERS}."


def _calls(node: Node) -> bool:
    return node.get("class") == "FUNCTION"


def _few_beyond(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged, low: float, high: float
) -> str:
    """Say where the first of times stands that are unlike most of a file; '' where most are so.

    Another rule for all of them would spoil the others.
    """
    seconds = _seconds("ts")
    beyond = f"{DOMAINS} AND NOT ({seconds} >= {low} AND {seconds} < {high})"
    count, rows = one_row(
        db, f"SELECT count(*) FILTER ({beyond}), count(*) FILTER ({DOMAINS}) FROM {staged.rows}"
    )
    if 2 * count > rows:
        return ""
    first = first_place(db, mapping.log, staged, beyond)
    return (
        f" {count:,} of {rows:,} rows are beyond, first in {first}: mend them, or leave them out."
    )


def _refuse_few_of_1970(db: duckdb.DuckDBPyConnection, mapping: Mapping, staged: Staged) -> None:
    """Raise ContractError for times of 1970 among later ones: a 0 for none, or a smaller unit."""
    of_1970 = f"{DOMAINS} AND ts < TIMESTAMPTZ '{AFTER_1970}'"
    count, rows, last = one_row(
        db,
        f"SELECT count(*) FILTER ({of_1970}), count(*) FILTER ({DOMAINS}), "
        f"max(epoch_us(ts)) FILTER ({of_1970}) FROM {staged.rows}",
    )
    place = first_place(db, mapping.log, staged, of_1970)
    what, mend = "ts is 1970-01-01 00:00:00, as a 0 is read,", ""
    if last:
        what = "ts lies in 1970, as seconds do that are read as a smaller unit,"
        mend = (
            "; if it is of another unit than the others, read each by its size, such as CASE WHEN "
            "column < 100000000000 THEN to_timestamp(column) ELSE epoch_ms(column) END"
        )
    raise ContractError(
        f"{staged.path}: {what} in {count:,} of {rows:,} rows, first in {place} (mapping ts: "
        f"{mapping.ts}). If it means no time, leave these rows out by domain{mend}; if it is "
        "right, set earliest: 1970-01-01 in the mapping."
    )


def _seconds(moment: str) -> str:
    """Return SQL of the whole seconds since 1970; infinity of an infinite time."""
    infinite = f"CASE WHEN {moment} > TIMESTAMPTZ '1970-01-01' THEN 'inf' ELSE '-inf' END::DOUBLE"
    # whole, since a double of seconds would round the last microsecond of a day to the next one
    micros = f"epoch_us({moment})"
    whole = f"{micros} // 1000000 - ({micros} % 1000000 < 0)::INTEGER"  # // goes towards 0
    return f"coalesce({whole}, {infinite})"


def _midnight(date: dt.date) -> float:
    return dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()
