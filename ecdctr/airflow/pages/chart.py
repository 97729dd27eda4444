"""A line chart of GAUC over days, laid out in pixels for the template that draws it."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection
from typing import NamedTuple

Point = tuple[dt.date, float]
LEFT, RIGHT, TOP, BOTTOM = 60.0, 740.0, 20.0, 250.0
STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
LABELLED = 24  # with more points than these their values would lie on each other
DAY_TICKS = 8
# Pixels: from a point to the foot of its value's text, above it or below it; what a text needs
ABOVE, BELOW, ROOM = -9.0, 19.0, 24.0


class Mark(NamedTuple):
    """A point of a curve: its place, its text when pointed at, its value if there is room.

    The value's text stands at `label_y`.
    """

    x: float
    y: float
    title: str
    label: str
    large: bool
    label_y: float


class Line(NamedTuple):
    """A curve: its place among the colours (None: the oracle's), its points."""

    colour: int | None
    marks: list[Mark]


class Chart(NamedTuple):
    """Everything to draw: lines, and ticks as (position, text)."""

    lines: list[Line]
    values: list[tuple[float, str]]
    days: list[tuple[float, str]]


def chart(
    curves: dict[str, list[Point]],
    oracle: list[Point] | None = None,
    champions: Collection[dt.date] = (),
) -> Chart:
    """Lay out curves by name, at least one with a point, on round ticks.

    `champions` are drawn large.
    """
    drawn = {**curves, "oracle": oracle} if oracle else curves
    points = [point for line in drawn.values() for point in line]
    values, dates = [value for _, value in points], sorted({date for date, _ in points})
    step = next((s for s in STEPS if max(values) - min(values) <= 5 * s), STEPS[-1])
    low = math.floor(min(values) / step - 0.1) * step
    ticks = max(math.ceil((max(values) - low) / step + 0.1), 1)
    days = max((dates[-1] - dates[0]).days, 1)

    def x(date: dt.date) -> float:
        return LEFT + 20 + (RIGHT - LEFT - 40) * (date - dates[0]).days / days

    def y(value: float) -> float:
        return BOTTOM - (BOTTOM - TOP) * (value - low) / (ticks * step)

    lines = []
    for place, (name, line) in enumerate(drawn.items()):
        is_oracle = line is oracle
        marks = []
        for date, value in line:
            side = _beside(y(value), [y(other) for when, other in points if when == date])
            mark = Mark(
                round(x(date), 1),
                round(y(value), 1),
                f"{name} {date} {value:.4f}" + (", served" if date in champions else ""),
                f"{value:.3f}" if side is not None and len(points) <= LABELLED else "",
                date in champions and not is_oracle,
                round(y(value) + (side or 0.0), 1),
            )
            marks.append(mark)
        lines.append(Line(None if is_oracle else place, marks))
    every = -(-len(dates) // DAY_TICKS)
    shown = dates[::-1][::every]
    digits = max(2, -math.floor(math.log10(step)))
    at_values = [low + step * k for k in range(ticks + 1)]
    return Chart(
        lines,
        [(round(y(value), 1), f"{value:.{digits}f}") for value in at_values],
        [(round(x(date), 1), f"{date:%m-%d}") for date in shown],
    )


def _beside(y: float, of_day: list[float]) -> float | None:
    """Return on which side of a point its value can be read, None between two others.

    `of_day` are the heights of all points of its day, its own among them.
    """
    if not any(0 < y - other < ROOM for other in of_day):
        return ABOVE
    if not any(0 < other - y < ROOM - ABOVE + BELOW for other in of_day):
        return BELOW
    return None


def common_days(curves: dict[str, list[Point]]) -> list[dt.date]:
    """Return the days that every curve has: means over other days would compare different days."""
    sets = [{date for date, _ in points} for points in curves.values()]
    return sorted(set.intersection(*sets)) if sets else []
