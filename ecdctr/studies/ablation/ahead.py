"""What the rows of the method are worth beside the best floor, and at which price."""

from __future__ import annotations

from typing import NamedTuple

from ecdctr.evaluation.compare import Comparison, compare, holm
from ecdctr.report.rows import NAMES
from ecdctr.studies.ablation.records import Records, mean_gauc, price
from ecdctr.studies.floors import FLOORS

STATISTICS = (
    "Intervals and p-values: paired bootstrap within each seed over users, each drawn with all of "
    "its days. By Holm: p over all rows of the table."
)


class Ahead(NamedTuple):
    """A row's difference to the best floor, and its p-value among all rows of the table."""

    comparison: Comparison
    p: float


def against_floors(records: Records, rows: list[str]) -> str:
    """Return which rows of the method are below what an afternoon's work reaches."""
    best = _best_floor(records)
    if best is None:
        return ""
    means = mean_gauc(records)
    below = [row for row in _of_method(rows) if means[row] < means[best]]
    floor = f"the best floor, {_floor_name(best)} (GAUC {means[best]:.4f})"
    if not below:
        return f"**Every row of the method is above {floor}.**\n"
    named = ", ".join(f"{NAMES.get(row, row)} {means[row]:.4f}" for row in below)
    return f"**Below {floor}: {named}.**\n"


def best_row(records: Records, ahead: dict[str, Ahead]) -> str:
    """Return what the best row of the method is worth, and at which price."""
    best = _best_floor(records)
    if best is None or not ahead:
        return ""
    means = mean_gauc(records)
    row = max(ahead, key=lambda name: means[name])
    one, adjusted = ahead[row]
    prices = [
        f" ({cost} of training a day)" if (cost := price(records, name)) != "–" else ""
        for name in (row, best)
    ]
    return (
        f"The best row of the method, {NAMES.get(row, row)}{prices[0]}, is "
        f"{'ahead of' if one.difference > 0 else 'behind'} {_floor_name(best)}{prices[1]} by "
        f"{abs(one.difference):.4f} GAUC, interval {one.low:+.4f} to {one.high:+.4f}, p = "
        f"{adjusted:.4f} by Holm.\n"
    )


def _best_floor(records: Records) -> str | None:
    means = mean_gauc(records)
    return max((row for row in FLOORS if row in means), key=lambda row: means[row], default=None)


def _floor_name(row: str) -> str:
    return NAMES[row].removeprefix("floor: ")


def _of_method(rows: list[str]) -> list[str]:
    return [row for row in rows if row not in (*FLOORS, "oracle")]


def ahead_of_floor(
    records: Records, users: Records, rows: list[str], own_data: bool
) -> dict[str, Ahead]:
    """Compare every row of the method with the best floor; empty without floors."""
    best, others = _best_floor(records), _of_method(rows)
    if best is None:
        return {}
    comparisons = [compare(users, row, best, same_users=own_data) for row in others]
    adjusted = holm([one.p for one in comparisons])
    return {row: Ahead(one, p) for row, one, p in zip(others, comparisons, adjusted, strict=True)}
