"""Where on the map a log lies: the measured cell whose statistics are nearest to the log's."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecdctr.evaluation.gains import Gains
from ecdctr.report.rows import NAMES

if TYPE_CHECKING:
    from ecdctr.impressions.statistics import Statistics

CELLS = Path(__file__).parent / "cells.json"
FAR = 1.5
# By what a log is placed, and what counts as a difference of one: a factor of e, or so many points.
SCALES: dict[str, float | None] = {
    "visits_per_month": None,
    "ads_share": None,
    "repeated_items": 0.1,
    "cross_lift": 0.5,
    "lift_month": 0.5,
    "lift_season": 0.5,
}


class Place(NamedTuple):
    """The nearest cell, its distance (1 is far: a factor of e in one statistic).

    The rows that lead there.
    """

    cell: dict[str, Any]
    distance: float
    ranking: list[tuple[str, float]]


def measured_cells() -> list[dict[str, Any]]:
    """Return the cells of docs/map.md, as they come with the package."""
    cells: list[dict[str, Any]] = json.loads(CELLS.read_text("utf-8")) if CELLS.exists() else []
    return cells


def place(statistics: Statistics, cells: list[dict[str, Any]]) -> Place | None:
    """Find the nearest measured cell; None without any."""
    if not cells:
        return None
    nearest = min(cells, key=lambda cell: distance(statistics._asdict(), cell["statistics"]))
    scores = {
        row: values["expected_gauc"] for row, values in nearest["rows"].items() if row != "oracle"
    }
    ranking = sorted(scores.items(), key=lambda one: -one[1])
    return Place(nearest, distance(statistics._asdict(), nearest["statistics"]), ranking)


def distance(first: dict[str, float], second: dict[str, float]) -> float:
    """Return the Euclidean distance over the statistics that both have; infinite without any."""
    parts = []
    for name, scale in SCALES.items():
        one, other = (math.nan if v[name] is None else v[name] for v in (first, second))
        if scale is None:
            one, other = (math.log(v) if v > 0 else math.nan for v in (one, other))
        if math.isfinite(one) and math.isfinite(other):
            parts.append((one - other) / (scale or 1.0))
    return math.hypot(*parts) if parts else math.inf


def advice(nearest: Place | None) -> str:
    """Return what the map says of a log, in sentences."""
    if nearest is None:
        return "No cell of the map is measured yet; run: ecdctr --config configs/map.yaml map"
    world, rows = nearest.cell["world"], nearest.cell["rows"]
    lines = [
        f"Nearest measured world, {nearest.distance:.1f} away (1 is a factor of e in one "
        f"statistic): {world['visits_per_month']:g} visits a month, {world['ads_share']:g} of "
        f"impressions ads, correlation {world['domain_correlation']:g}, repetition "
        f"{world['repetition']:g}."
    ]
    best, score = nearest.ranking[0]
    lines.append(
        f"There {NAMES.get(best, best)} leads with an expected GAUC of {score:.4f} (ads only "
        f"{rows['ads_only']['expected_gauc']:.4f}, full {rows['full']['expected_gauc']:.4f})."
    )
    for part, worth in nearest.cell["worth"].items():
        gained = Gains(**worth)
        kind = "helps" if gained.difference > 0 else "harms"
        verdict = kind if gained.sure else "makes no sure difference"
        lines.append(f"{part}: {verdict} ({gained.difference:+.4f} ± {gained.margin:.4f})")
    if len(nearest.cell["seeds"]) == 1:
        lines.append("One seed each: another one moves such a difference by some 0.0025.")
    if nearest.distance > FAR:
        lines.append(
            "No measured world is like this log: take this as a hint, and try the rows yourself."
        )
    return "\n".join(lines)
