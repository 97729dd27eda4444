"""A study at a glance: how good each row is, and what a day of it costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ecdctr.config.terms import FULL, PRODUCTION
from ecdctr.report.figures import GREY, grey, new_figure
from ecdctr.report.rows import COLOURS, short_name
from ecdctr.studies.ablation.records import Records, per_seed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def quality_and_cost(records: Records) -> Figure:
    """Return rows from top to bottom.

    GAUC of each seed and their mean on the left, by true probabilities where ads are held out;
    samples a day on the right. The oracle is a line, since no row can pass it.
    """
    judged = any(record.get("expected_gauc") is not None for record in records)
    measure, ads = ("expected_gauc", "held-out") if judged else ("gauc", "next-day")
    rows = [row for row in dict.fromkeys(record["row"] for record in records) if row != "oracle"]
    costs = {row: float(per_seed(records, row, "daily_samples").mean()) for row in rows}
    figure = new_figure(10, 0.8 + 0.26 * len(rows))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for y, row in enumerate(rows):
        colour = COLOURS[PRODUCTION] if row == FULL else GREY
        gauc = per_seed(records, row, measure)
        left.plot(gauc, [y] * len(gauc), ".", color=colour, alpha=0.45)
        left.plot([gauc.mean()], [y], "D", ms=6, color=colour)
        if math.isfinite(costs[row]):  # floors have none
            right.barh(y, costs[row], 0.55, color=colour)
    left.set_yticks(range(len(rows)), [short_name(row) for row in rows])
    left.invert_yaxis()
    left.set_xlabel(f"GAUC on {ads} ads: each seed, ◆ mean")
    left.grid(axis="x", alpha=0.3)
    oracle = per_seed(records, "oracle", measure).mean()
    if math.isfinite(oracle):
        left.axvline(oracle, ls=":", color=GREY)
        left.annotate(
            "oracle", (oracle, -0.7), color=GREY, fontsize=8, ha="right", annotation_clip=False
        )
    right.set_xscale("log")
    right.set_xlim(left=10 ** math.floor(math.log10(min(filter(math.isfinite, costs.values())))))
    right.minorticks_off()
    right.set_xlabel("samples trained on, a day (log scale)")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    grey([left, right])
    return figure
