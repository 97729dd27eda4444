"""docs/map.md: where each part pays, by how much, at what cost; nothing but what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ecdctr.config.terms import FULL
from ecdctr.evaluation.gains import Gains
from ecdctr.report.markdown import markdown_table
from ecdctr.report.rows import NAMES
from ecdctr.studies.ablation.worth import BESIDE, MEMORY
from ecdctr.studies.map.figure import said
from ecdctr.studies.map.place import measured_cells
from ecdctr.studies.map.rule import RULE, follow, told

if TYPE_CHECKING:
    from ecdctr.studies.map.grid import Plane

Result = dict[str, Any]
COORDINATES = (
    "period", "visits_per_month", "ads_share", "domain_correlation",
    "returning_interest", "repetition",
)  # fmt: skip
INTRODUCTION = """# Where each part pays

Worlds with visits on a grid (`ecdctr schema --world` explains each setting), every row judged by
the true probabilities of held-out ads that it never trained on. `ecdctr doctor --data` says where
on this map a log of your own lies.
No row was tuned on these worlds; what each reads stands in configs/map.yaml. Where ads are few,
ads alone hardly learn, and what CPM is worth over them is large for that reason too.
"""
ONE_SEED = (
    ", and one seed says nothing of that: `--rows memory,full --seeds 1,2,3` measures a difference "
    "again, and [some did not hold](method.md#snapshots-beside-memory).\n"
)


def map_page(
    planes: list[tuple[Plane, dict[tuple[float, float], Result]]],
    results: list[Result],
    pictures: dict[int, str],
    command: str,
    planned: int,
) -> str:
    """Return the whole page, Markdown.

    Each plane with what is measured of it by place, `pictures` are names of figures by the number
    of their plane.
    """
    if not results:
        return f"{INTRODUCTION}\nNothing is measured yet. Written by `{command}`.\n"
    seeds = sorted({seed for result in results for seed in result["seeds"]})
    parts = [
        INTRODUCTION,
        f"**{len(results)} of {planned} cells are measured**, each with {len(seeds)} seed"
        f"{'s' if len(seeds) > 1 else ''} (world and weights) and {results[0]['days']} days of "
        f"{_mean_held_out(results):,.0f} held-out ads. Differences are expected GAUC in "
        "thousandths; in brackets where the 95 % interval over users holds 0. An interval says "
        "what other users of the same world would show; other weights and worlds vary beyond it"
        + (ONE_SEED if len(seeds) == 1 else ".\n"),
        _power(results),
        _summary(results),
        f"Written by `{command}`.\n",
    ]
    for number, (plane, inside) in enumerate(planes):
        title = f"## {plane.x.name.replace('_', ' ')} and {plane.y.name.replace('_', ' ')}\n"
        if inside:
            parts += [
                title,
                *([f"![Heat maps]({pictures[number]})\n"] if number in pictures else []),
            ]
            parts.append(_differences(plane, inside))
    if BESIDE in results[0]["worth"]:
        parts += ["## The rule of thumb\n", _rule(results)]
    if len(seeds) > 1:
        parts += ["## Each seed\n", _each_seed(results)]
    parts += ["## All cells\n", _all(results)]
    return "\n".join(parts)


def _mean_held_out(results: list[Result]) -> float:
    return float(np.mean([result["held_out"] / result["days"] for result in results]))


def _power(results: list[Result]) -> str:
    """Return the smallest difference that shows, over all cells and parts."""
    least = [
        2.8 * worth["error"]
        for result in results
        for part, worth in result["worth"].items()
        if part != "full over the best floor"
    ]
    return (
        "The smallest difference between rows of the method that a cell shows (four of five "
        f"repetitions, users alone): median {np.median(least):.4f}, largest {max(least):.4f}.\n"
    )


def _summary(results: list[Result]) -> str:
    """Say in how many cells each part helps for sure, harms for sure, or neither."""
    lines = []
    for part in results[0]["worth"]:
        worths = [Gains(**result["worth"][part]) for result in results]
        sure = [one for one in worths if one.sure]
        helps = sum(one.difference > 0 for one in sure)
        least, most = (1000 * pick(one.difference for one in worths) for pick in (min, max))
        counts = [helps, len(sure) - helps, len(worths) - len(sure)]
        lines.append([part, *map(str, counts), f"{least:+.0f} to {most:+.0f}"])
    header = ["what it is worth", "helps", "harms", "no sure difference", "from, to"]
    return markdown_table(header, lines)


def _differences(plane: Plane, results: dict[tuple[float, float], Result]) -> str:
    names = list(next(iter(results.values()))["worth"])
    header = [plane.x.name, plane.y.name, *names, "leads"]
    lines = [
        [
            f"{x:g}",
            f"{y:g}",
            *(said(Gains(**result["worth"][part])) for part in names),
            _leader(result),
        ]
        for (x, y), result in results.items()
    ]
    return markdown_table(header, lines)


def _leader(result: Result) -> str:
    """Return the best row."""
    rows: dict[str, float] = {
        row: v["expected_gauc"] for row, v in result["rows"].items() if row != "oracle"
    }
    best = max(rows, key=lambda row: rows[row])
    return NAMES.get(best, best)


def _all(results: list[Result]) -> str:
    rows = list(results[0]["rows"])
    costly = [row for row in (FULL, "ads_only") if row in rows]
    header = [
        *COORDINATES,
        *(NAMES.get(row, row) for row in rows),
        f"samples a day, {' / '.join(NAMES.get(row, row) for row in costly)}",
    ]
    lines = []
    for result in results:
        world = result["world"]
        scores = [f"{result['rows'][row]['expected_gauc']:.4f}" for row in rows]
        samples = [f"{result['rows'][row]['daily_samples']:,.0f}" for row in costly]
        lines.append([*_place(world), *scores, " / ".join(samples)])
    return "Expected GAUC.\n\n" + markdown_table([name.replace("_", " ") for name in header], lines)


def _rule(results: list[Result]) -> str:
    """Return what the rule chooses in each cell and what that is worth.

    Apart from the cells that the package comes with: the rule was made on those.
    """
    fitted = {cell["name"] for cell in measured_cells()}
    groups = {
        "On the worlds that it was made on": [r for r in results if r["name"] in fitted],
        "**On worlds that were measured after it was written**": [
            r for r in results if r["name"] not in fitted
        ],
    }
    header = [
        *(name.replace("_", " ") for name in COORDINATES),
        "the rule's row",
        f"over the other of `{MEMORY}` and `{FULL}`",
        "behind the best row",
    ]
    parts = [f"{RULE[0].upper()}{RULE[1:]}.\n"]
    for title, inside in groups.items():
        if inside:
            lines = [[*_place(result["world"]), *_followed(result)] for result in inside]
            parts += [f"{title}: {told(inside)}\n", markdown_table(header, lines)]
    return "\n".join(parts)


def _followed(result: Result) -> list[str]:
    one = follow(result)
    return [NAMES.get(one.row, one.row), said(one.over_other), f"{1000 * one.behind_best:.1f}"]


def _each_seed(results: list[Result]) -> str:
    """Return every difference by seed: how far weights and worlds alone move it."""
    names = list(results[0]["worth"])
    header = [*(name.replace("_", " ") for name in COORDINATES), *names]
    lines = []
    for result in results:
        by_seed = (result["by_seed"][name] for name in names)
        each = (", ".join(f"{1000 * one:+.1f}" for one in seeds) for seeds in by_seed)
        lines.append([*_place(result["world"]), *each])
    return "Expected GAUC in thousandths, a world and weights each.\n\n" + markdown_table(
        header, lines
    )


def _place(world: dict[str, Any]) -> list[str]:
    """Return the coordinates of a cell."""
    return [_period(world), *(f"{world[name]:g}" for name in COORDINATES if name != "period")]


def _period(world: dict[str, Any]) -> str:
    """Return which periods users have: one, none, or the base's mixture."""
    shares = world["period_shares"]
    if not sum(shares):
        return "never"
    return f"{world['periods'][0]:g}" if len(shares) == 1 else "mixed"
