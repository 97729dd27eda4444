"""Heat maps of a plane: what each part is worth in expected GAUC, blue where it helps.

Red where it harms.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ecdctr.evaluation.gains import Gains
from ecdctr.report.figures import GREY, grey, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ecdctr.studies.map.grid import Plane

LIMIT = 0.05  # of the colours
Result = dict[str, Any]


def heat_maps(plane: Plane, results: dict[tuple[float, float], Result]) -> Figure:
    """Return a panel per part; a cell without a result is empty.

    A difference within its 95 % interval stands in brackets.
    """
    parts = list(next(iter(results.values()))["worth"])
    down = 1 if len(parts) == 1 else 2
    across = math.ceil(len(parts) / down)
    width, height = 1.6 + 0.95 * len(plane.x.values), 1.2 + 0.55 * len(plane.y.values)
    figure = new_figure(across * width, down * height)
    panels = figure.subplots(down, across, squeeze=False)
    for axes in panels.flat[len(parts) :]:
        axes.set_axis_off()
    for axes, part in zip(panels.flat, parts, strict=False):
        _panel(axes, plane, results, part)
    grey(list(panels.flat))
    figure.tight_layout()
    return figure


def _panel(axes: Axes, plane: Plane, results: dict[tuple[float, float], Result], part: str) -> None:
    values = np.full((len(plane.y.values), len(plane.x.values)), np.nan)
    for column, x in enumerate(plane.x.values):
        for row, y in enumerate(plane.y.values):
            if (x, y) in results:
                worth = results[x, y]["worth"][part]
                values[row, column] = worth["difference"]
                ink = "white" if abs(worth["difference"]) > 0.7 * LIMIT else "black"
                text = axes.text(
                    column, row, said(Gains(**worth)), ha="center", va="center", color=ink
                )
                text.set_fontsize(7)
    axes.imshow(values, cmap="RdBu", vmin=-LIMIT, vmax=LIMIT, origin="lower", aspect="auto")
    axes.set_xticks(range(len(plane.x.values)), [f"{v:g}" for v in plane.x.values])
    axes.set_yticks(range(len(plane.y.values)), [f"{v:g}" for v in plane.y.values])
    axes.set_xlabel(plane.x.name.replace("_", " "), fontsize=8)
    axes.set_ylabel(plane.y.name.replace("_", " "), fontsize=8)
    axes.set_title(part, fontsize=9, color=GREY)


def said(gained: Gains) -> str:
    """Return a difference in thousandths of GAUC, in brackets where its 95 % interval holds 0."""
    text = f"{1000 * gained.difference:+.0f}"
    return text if gained.sure else f"({text})"
