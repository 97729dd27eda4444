"""The numbers that a model reads of a user's memory: their names, and the formulas behind them.

Needs little else, for the scorer's sake.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ecdctr.domains import DOMAINS

PREFIX = "memory_"
PRIOR_CLICKS, PRIOR_SHOWN = 1.0, 10.0  # of the smoothed rate: (clicks + 1) / (impressions + 10)


def counts(windows: Sequence[int]) -> list[str]:
    """Return the columns of a table that are summed, per domain and window."""
    return [
        f"{domain}_{what}_{window}"
        for domain in DOMAINS
        for window in windows
        for what in ("shown", "clicks")
    ]


def input_names(keys: Sequence[str], windows: Sequence[int]) -> list[str]:
    """Return what a model reads, in order.

    Each key and domain has clicks and impressions, rate and gap.
    """
    names = []
    for key in keys:
        for domain in DOMAINS:
            start = f"{PREFIX}{key}_{domain}"
            for window in windows:
                names += [f"{start}_clicks_{window}", f"{start}_shown_{window}"]
            names += [f"{start}_rate", f"{start}_gap"]
    return names


def never(longest: int) -> float:
    """Return the days since the last click of who never clicked: beyond the longest window."""
    return 2.0 * longest


def inputs(
    ln: Callable[[Any], Any], clicks: Sequence[Any], shown: Sequence[Any], days: Any
) -> list[Any]:
    """Return the inputs of one key and domain.

    Counts per window, shortest first, and days since the last click.

    The formulas are the same for DuckDB, Spark and numpy: `ln` and the values are an engine's own.
    Returns the inputs in the order of `input_names`.
    """
    values = []
    for clicked, impressions in zip(clicks, shown, strict=True):
        values += [ln(1 + clicked), ln(1 + impressions)]
    rate = (clicks[-1] + PRIOR_CLICKS) / (shown[-1] + PRIOR_SHOWN)
    return [*values, rate, ln(1 + days)]
