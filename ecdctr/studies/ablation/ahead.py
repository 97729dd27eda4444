"""What the rows of the method are worth beside the best floor, and at which price."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ecdctr.evaluation.compare import Comparison, compare, holm
from ecdctr.evaluation.gains import WORLDS, rows_over_worlds
from ecdctr.report.rows import NAMES
from ecdctr.studies.ablation.records import Records, mean_gauc, per_seed, price
from ecdctr.studies.floors import FLOORS

WEIGHED = "A difference weighs the impressions of all days alike, a row's GAUC is its days' mean."
BY_HOLM = "By Holm: p over all rows of the table."
DETECTABLE = "Detectable: the smallest difference that such data show in four of five repetitions."


HEADLINE = {"gauc": "GAUC", "expected_gauc": "expected GAUC on held-out ads"}


def statistics(same_users: bool) -> str:
    """Return how rows are compared; with `same_users` seeds are of the weights alone."""
    drawn = "with all of its days and seeds" if same_users else "with all of its days"
    within = "" if same_users else " within each seed"
    drawing = f"paired bootstrap{within} over users, each drawn {drawn}"
    return f"Intervals and p-values: {drawing}. {WEIGHED} {BY_HOLM}"


class Ahead(NamedTuple):
    """A row's difference to the best floor, and its p-value among all rows of the table."""

    comparison: Comparison
    p: float


def headline(records: Records) -> str:
    """Return what the first lines of a page go by: a metric of its records.

    That is held-out ads where every row was judged by them in enough worlds to speak of others:
    their noise is a tenth of that of drawn clicks.
    """
    rows = dict.fromkeys(record["row"] for record in records)
    judged = [np.isfinite(per_seed(records, row, "expected_gauc")) for row in rows]
    enough = all(there.all() and len(there) >= WORLDS for there in judged)
    return "expected_gauc" if judged and enough else "gauc"


def against_floors(records: Records, rows: list[str]) -> str:
    """Return which rows of the method are below what an afternoon's work reaches."""
    metric = headline(records)
    best = _best_floor(records, metric)
    if best is None:
        return ""
    means = mean_gauc(records, metric)
    below = [row for row in _of_method(rows) if means[row] < means[best]]
    floor = f"the best floor, {_floor_name(best)} ({HEADLINE[metric]} {means[best]:.4f})"
    if not below:
        return f"**Every row of the method is above {floor}.**\n"
    named = ", ".join(f"{NAMES.get(row, row)} {means[row]:.4f}" for row in below)
    return f"**Below {floor}: {named}.**\n"


def best_row(records: Records, drawn: dict[str, Ahead]) -> str:
    """Return what the best row of the method is worth, and at which price.

    `drawn` is what `ahead_of_floor` says; where the page goes by held-out ads, they are compared.
    """
    metric = headline(records)
    best = _best_floor(records, metric)
    if best is None or not drawn:
        return ""
    means = mean_gauc(records, metric)
    row = max(drawn, key=lambda name: means[name])
    here = drawn if metric == "gauc" else _over_worlds(records, list(drawn), best)
    one, adjusted = here[row].comparison, here[row].p
    prices = [
        f" ({cost} of training a day)" if (cost := price(records, name)) != "–" else ""
        for name in (row, best)
    ]
    return (
        f"The best row of the method, {NAMES.get(row, row)}{prices[0]}, is "
        f"{'ahead of' if one.difference > 0 else 'behind'} {_floor_name(best)}{prices[1]} by "
        f"{abs(one.difference):.4f} {HEADLINE[metric]}, interval {one.low:+.4f} to {one.high:+.4f}"
        f"{'' if metric == 'gauc' else ' over worlds'}, "
        f"{f'p = {adjusted:.4f}' if adjusted >= 5e-5 else 'p < 0.0001'} by Holm.\n"
    )


def _over_worlds(records: Records, rows: list[str], floor: str) -> dict[str, Ahead]:
    """Compare rows with a floor by held-out ads; a world is the unit."""
    of_floor = per_seed(records, floor, "expected_gauc")
    each = {row: per_seed(records, row, "expected_gauc") - of_floor for row in rows}
    return {
        row: Ahead(Comparison(one.difference, one.low, one.high, one.p), p)
        for row, (one, p) in rows_over_worlds(each).items()
    }


def _best_floor(records: Records, metric: str = "gauc") -> str | None:
    means = mean_gauc(records, metric)
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
