"""How sparse may ads be? The same rows, days and judges with fewer and fewer ads to train on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.config.terms import DEFAULT, FULL, PRODUCTION
from ecdctr.evaluation.compare import compare, holm
from ecdctr.report.figures import GREY, grey, new_figure
from ecdctr.report.markdown import markdown_table
from ecdctr.report.rows import COLOURS, NAMES, short_name
from ecdctr.studies.ablation.ahead import DETECTABLE, statistics
from ecdctr.studies.ablation.page import Origin, spread
from ecdctr.studies.ablation.power import drawn
from ecdctr.studies.ablation.records import Records, per_seed
from ecdctr.studies.ablation.study import run_study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ecdctr.levels.request import Reporter
    from ecdctr.studies.ablation.plan import Study

METRICS = {"gauc": "GAUC", "log_loss": "LogLoss"}


class Point(NamedTuple):
    """A study whose rows were trained on a share of the ads."""

    share: float
    records: Records
    users: Records


def run_sparsity(
    study: Study, bases: Sequence[str], workers: int, reporter: Reporter
) -> list[Point]:
    """Run the study on top of each base, the fullest first; what bases share is trained once.

    'full' is the configuration as it stands. Raises ConfigError for an unknown base or row.
    """
    studies = [replace(study, base=DEFAULT if base == FULL else base) for base in bases]
    shares = [one.config(one.seeds[0]).actr.ads_share for one in studies]
    fullest_first = sorted(zip(shares, studies, strict=True), key=lambda pair: -pair[0])
    return [Point(share, *run_study(one, workers, reporter)) for share, one in fullest_first]


def sparsity_page(points: Sequence[Point], origin: Origin, picture: str | None) -> str:
    """Return the page, Markdown: GAUC and LogLoss of each row by share, and what `full` is ahead.

    `picture` is the name of the curve's file.
    """
    records = points[0].records
    seeds = sorted({record["seed"] for record in records})
    days = len({record["date"] for record in records})
    parts = [
        "# How sparse may ads be?\n",
        *([origin.about] if origin.about else []),
        f"Seeds {', '.join(map(str, seeds))}, {days} evaluation days each. Every row is trained on "
        "that share of the ads, drawn by user and moment, and judged by all ads of the next day. "
        "Memory and the counts of the floors are of all of them: what is thinned is what is "
        "trained on.\n",
        f"Written by `{origin.command}`. Mean ± standard deviation over seeds.\n",
        *([f"![GAUC by share of ads]({picture})\n"] if picture else []),
    ]
    for metric, name in METRICS.items():
        parts += [f"## {name} by share of the ads\n", _by_share(points, metric)]
    if FULL in _rows(points):
        parts += [
            "## Full E-CDCTR minus each row, in GAUC\n",
            _differences(points, origin.own_data),
            f"{statistics(origin.own_data)} {DETECTABLE}\n",
        ]
    return "\n".join(parts)


def curve(points: Sequence[Point]) -> Figure:
    """Draw GAUC over the share of ads, a line per row; the share is on a log scale."""
    figure = new_figure(7, 3.8)
    axes = figure.subplots()
    shares = [point.share for point in points]
    for row in _rows(points):
        gauc = [float(per_seed(point.records, row, "gauc").mean()) for point in points]
        floor = NAMES.get(row, "").startswith("floor")
        colour = COLOURS[PRODUCTION] if row == FULL else None
        style = ":" if floor else "-"
        axes.plot(shares, gauc, style, marker="o", ms=4, color=colour, label=short_name(row))
    axes.set_xscale("log")
    axes.set_xticks(shares, [share_of(point) for point in points])
    axes.minorticks_off()
    axes.set_xlabel("share of the ads that is trained on (log scale)")
    axes.set_ylabel("GAUC on next-day ads")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, labelcolor=GREY, loc="center left").set_bbox_to_anchor(
        (1.0, 0.5)
    )
    grey([axes])
    return figure


def share_of(point: Point) -> str:
    """Return a point's share in words."""
    return "all" if point.share == 1 else f"{100 * point.share:.3g} %"


def _rows(points: Sequence[Point]) -> list[str]:
    return list(dict.fromkeys(record["row"] for record in points[0].records))


def _by_share(points: Sequence[Point], metric: str) -> str:
    lines = [
        [NAMES.get(row, row), *(spread(per_seed(one.records, row, metric)) for one in points)]
        for row in _rows(points)
    ]
    return markdown_table(["row", *map(share_of, points)], lines)


def _differences(points: Sequence[Point], own_data: bool) -> str:
    others = [row for row in _rows(points) if row not in (FULL, "oracle")]
    pairs = [(point, row) for point in points for row in others]
    made = [compare(drawn(point.users), FULL, row, same_users=own_data) for point, row in pairs]
    adjusted = holm([one.p for one in made])
    lines = [
        [share_of(point), NAMES.get(row, row), str(one), f"{p:.4f}", f"{one.detectable:.4f}"]
        for (point, row), one, p in zip(pairs, made, adjusted, strict=True)
    ]
    header = ["share", "row", "full − row [95 % interval]", "p by Holm", "detectable"]
    return markdown_table(header, lines)
