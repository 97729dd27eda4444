"""What the figures of studies share.

A grey that is legible on light and on dark pages, PNG without a background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#7d8894"


def new_figure(width: float, height: float) -> Figure:
    """Return a figure without a window behind it; sizes in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def grey(all_axes: list[Axes]) -> None:
    """Draw ticks, labels, titles and frames in grey."""
    for axes in all_axes:
        axes.tick_params(colors=GREY)
        for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
            text.set_color(GREY)
        for spine in axes.spines.values():
            spine.set_color(GREY)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure with a transparent background."""
    figure.savefig(path, format="png", dpi=110, bbox_inches="tight", transparent=True)
