"""What preparation computes of impressions and counts, each defined once.

The same expression serves DuckDB, Spark and the scorer's numpy.

A formula is a function of an engine's `Functions` and of values that know `+`, `*` and `/`: arrays,
Spark's columns, or `Sql`, whose operators write SQL. Needs numpy alone, for the scorer's sake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

SECOND = 1_000_000  # all times are whole microseconds since 1970 (UTC)
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
# Impressions at the prior click-through rate that every user and item starts with
PRIOR_WEIGHT = 10
NO_PRIOR = 0.1  # the prior where no impression lies before
SIDES = ("user", "item")
# What models read of counts, in order; a request brings the counts themselves.
COUNT_FEATURES = tuple(f"{side}_{what}" for side in SIDES for what in ("impressions", "ctr"))
COUNTS = {side: (f"{side}_impressions", f"{side}_clicks") for side in SIDES}


class Functions(NamedTuple):
    """What formulas need beside operators, in the words of one engine."""

    ln: Callable[[Any], Any]
    greatest: Callable[[Any, Any], Any]
    floor_divide: Callable[[Any, Any], Any]


class Sql(str):
    """A SQL expression; operators with numbers and expressions write a longer one."""

    __slots__ = ()

    def __add__(self, other: object) -> Sql:
        return Sql(f"({self} + {other})")

    def __radd__(self, other: object) -> Sql:
        return Sql(f"({other} + {self})")

    def __sub__(self, other: object) -> Sql:
        return Sql(f"({self} - {other})")

    def __mul__(self, other: object) -> Sql:
        return Sql(f"({self} * {other})")

    def __rmul__(self, other: object) -> Sql:
        return Sql(f"({other} * {self})")

    def __truediv__(self, other: object) -> Sql:
        return Sql(f"({self} / {other})")

    def __mod__(self, other: object) -> Sql:
        return Sql(f"({self} % {other})")


NUMPY = Functions(np.log, np.maximum, np.floor_divide)
DUCKDB = Functions(
    ln=lambda value: Sql(f"ln({value})"),
    greatest=lambda one, other: Sql(f"greatest({one}, {other})"),
    floor_divide=lambda one, other: Sql(f"({one} // {other})"),
)


def literal(number: float) -> Sql:
    """Return a double in SQL, exactly: DuckDB reads 0.1 as a decimal."""
    return Sql(f"'{float(number)!r}'::DOUBLE")


def hour(engine: Functions, moment: Any) -> Any:
    """Return hour of the day, UTC, of microseconds since 1970."""
    return engine.floor_divide(moment, HOUR) % 24


def gap(moment: Any, click: Any) -> Any:
    """Return seconds from a click to an impression, both in microseconds."""
    return (moment - click) / SECOND


def horizon(moment: int, lookback_days: int) -> int:
    """Return the first microsecond that an impression's history may see.

    Midnight, `lookback_days` before its day.
    """
    return (moment // DAY - lookback_days) * DAY


def numeric(engine: Functions, transform: str, value: Any) -> Any:
    """Return a numeric feature, nulls replaced, under its declared transform."""
    if transform == "log1p":
        return engine.ln(1 + engine.greatest(value, 0.0))
    return value


def prior_ctr(clicks: int, impressions: int) -> float:
    """Return what unseen users and items are taken for.

    The click-through rate of all impressions in the lookback.
    """
    return clicks / impressions if impressions else NO_PRIOR


def count_features(
    engine: Functions, side: str, impressions: Any, clicks: Any, prior: Any
) -> dict[str, Any]:
    """Return a user's or an item's counts as models read them.

    They are of one domain and the lookback, up to the day before.

    The rate is smoothed as if `PRIOR_WEIGHT` impressions at the prior had come first.
    """
    rate = (clicks + PRIOR_WEIGHT * prior) / (impressions + PRIOR_WEIGHT)
    return {f"{side}_impressions": engine.ln(1 + impressions), f"{side}_ctr": rate}


def newest_clicks(
    clicks: Iterable[tuple[Any, ...]], moment: int, lookback_days: int, length: int
) -> list[tuple[Any, ...]]:
    """Return the clicks (microseconds, item id, features) of an impression's history, newest first.

    There are at most `length`.

    Strictly before the moment and not before the horizon; of one instant the larger id comes first,
    of one item then the larger feature, one that is unknown last. query.py says the same with an
    ASOF join.
    """
    first = horizon(moment, lookback_days)
    seen = [one for one in clicks if first <= one[0] < moment]
    return sorted(seen, key=_order_of_click, reverse=True)[:length]


def _order_of_click(click: tuple[Any, ...]) -> tuple[Any, ...]:
    ts, *values = click  # where training saw no value, a request may bring any type
    return ts, [(value is not None, type(value).__name__, value) for value in values]
