"""The Markdown page of a study: next-day GAUC per row over seeds, differences, cohorts, speeds."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ecdctr.config.studies import WORLD
from ecdctr.config.terms import DEFAULT, FULL
from ecdctr.evaluation.compare import compare, holm
from ecdctr.report.markdown import markdown_table
from ecdctr.report.rows import NAMES
from ecdctr.studies.ablation.ahead import (
    DETECTABLE,
    Ahead,
    against_floors,
    ahead_of_floor,
    best_row,
    statistics,
)
from ecdctr.studies.ablation.power import drawn, power_section
from ecdctr.studies.ablation.records import Records, per_seed, price
from ecdctr.studies.ablation.worth import worth_section
from ecdctr.studies.floors import FLOORS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.studies.ablation.speed import Speed

COHORTS = ("all", "new_users", "new_items", "low_activity")


class Origin(NamedTuple):
    """Where a study's numbers come from."""

    world: str = WORLD
    command: str = "ecdctr ablation"
    base: str = DEFAULT  # the variant that every row lies on top of
    own_data: bool = False  # the configuration's own impressions, not a simulated world
    about: str | None = None  # Markdown about the data


def results_page(
    records: Records,
    users: Records,
    origin: Origin,
    speeds: Sequence[Speed] = (),
    demo: dict[str, float] | None = None,
    figure: str | None = None,
) -> str:
    """Return the whole page, Markdown.

    Numbers are mean ± standard deviation over seeds of each seed's mean over days. `figure` is the
    name of the picture to show (ecdctr/studies/ablation/figure.py).
    """
    seeds = sorted({record["seed"] for record in records})
    days = len({record["date"] for record in records})
    rows = list(dict.fromkeys(record["row"] for record in records))
    ahead = ahead_of_floor(records, drawn(users), rows, origin.own_data)
    parts = [
        "# Results on own data\n"
        if origin.own_data
        else f"# Results on the `{origin.world}` world\n",
        against_floors(records, rows),
        best_row(records, ahead),
        *([origin.about] if origin.about else []),
        f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''} ({', '.join(map(str, seeds))}), "
        f"each with {'weights' if origin.own_data else 'a world and weights'} of its own; "
        f"{days} evaluation day{'s' if days > 1 else ''} per seed. "
        "A version with data date d is evaluated on the ads of day d + 1. Every row reads the same "
        "ads days.\n",
        f"Written by `{origin.command}`. Mean ± standard deviation over seeds.\n",
        *(
            []
            if origin.base == DEFAULT
            else [f"Every row lies on top of `{origin.base}`, which `full` is here.\n"]
        ),
        *([f"![GAUC and cost of each row]({figure})\n"] if figure else []),
        "## Next-day ads\n",
        _quality(records, rows, ahead, origin.own_data),
        *(_differences(records, drawn(users), rows, origin.own_data) if FULL in rows else []),
        *worth_section(records, drawn(users), origin.own_data),
        *power_section(records, users, NAMES),
        "## GAUC per cohort\n",
        _cohorts(records, rows),
        "## Training cost\n",
        _costs(records, rows),
    ]
    if speeds:
        parts += ["## Speed\n", _machine(), _speeds(speeds)]
    if demo:
        lines = [
            [step, f"{seconds:.0f} s"]
            for step, seconds in {**demo, "together": sum(demo.values())}.items()
        ]
        parts += [
            "## Steps of `./run demo`\n",
            "The last run on the same machine.\n",
            markdown_table(("step", "time"), lines),
        ]
    return "\n".join(parts)


def spread(values: NDArray[np.float64], sign: str = "") -> str:
    """Return the mean of one value per seed [seeds] and, of several, the standard deviation."""
    values = values[np.isfinite(values)]
    if not len(values):
        return "–"
    deviation = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.4f}{deviation}"


def _quality(records: Records, rows: list[str], ahead: dict[str, Ahead], own_data: bool) -> str:
    oracle, ads_only = (per_seed(records, name, "gauc") for name in ("oracle", "ads_only"))
    simulated = "oracle" in rows
    header = ["row", "GAUC", "AUC", "LogLoss", "calibration", "training a day"]
    header += ["row − best floor [95 % interval]", "p by Holm"] if ahead else []
    header += ["headroom recovered"] if simulated else []
    lines = []
    for row in rows:
        metrics = [
            spread(per_seed(records, row, name))
            for name in ("gauc", "auc", "log_loss", "calibration")
        ]
        lines.append([NAMES.get(row, row), *metrics, price(records, row)])
        if row in ahead:
            one, adjusted = ahead[row]
            lines[-1] += [one.interval, f"{adjusted:.4f}"]
        elif ahead:
            lines[-1] += ["–", "–"]
        if simulated:
            share = (per_seed(records, row, "gauc") - ads_only) / (oracle - ads_only)
            lines[-1].append(f"{100 * share.mean():.0f} %" if np.isfinite(share).all() else "–")
    notes = [
        "Training a day: all levels, each divided by the days between its refreshes; of runs "
        "beside each other.",
        *([statistics(own_data)] if ahead else []),
        *(
            ["Headroom recovered: (row − ads only) / (oracle − ads only), in GAUC."]
            if simulated
            else []
        ),
    ]
    return markdown_table(header, lines) + "\n" + " ".join(notes) + "\n"


def _differences(records: Records, users: Records, rows: list[str], own_data: bool) -> list[str]:
    others = [row for row in rows if row not in (FULL, "oracle")]
    comparisons = [compare(users, FULL, row, same_users=own_data) for row in others]
    lines = []
    for row, one, adjusted in zip(
        others, comparisons, holm([one.p for one in comparisons]), strict=True
    ):
        each = per_seed(records, FULL, "gauc") - per_seed(records, row, "gauc")
        seeds = ", ".join(f"{value:+.4f}" for value in each)
        name = NAMES.get(row, row)
        lines.append([name, str(one), f"{adjusted:.4f}", f"{one.detectable:.4f}", seeds])
    header = ("row", "full − row [95 % interval]", "p by Holm", "detectable", "each seed")
    return [
        "## Full E-CDCTR minus each row, in GAUC\n",
        markdown_table(header, lines) + f"\n{statistics(own_data)} {DETECTABLE}\n",
    ]


def _costs(records: Records, rows: list[str]) -> str:
    lines = []
    for row in rows:
        if row not in ("oracle", *FLOORS):
            samples, size = (
                per_seed(records, row, f"daily_{name}").mean() for name in ("samples", "bytes")
            )
            lines.append([NAMES.get(row, row), f"{samples:,.0f}", f"{size / 1e6:.1f} MB"])
    return markdown_table(("row", "samples a day", "stored a day"), lines) + (
        "\nAll levels together, each divided by the days between its refreshes.\n"
    )


def _cohorts(records: Records, rows: list[str]) -> str:
    lines = []
    for row in rows:
        if row != "oracle":
            lines.append(
                [
                    NAMES.get(row, row),
                    *(spread(per_seed(records, row, "gauc", c)) for c in COHORTS),
                ]
            )
    sizes = [
        sum(
            r.get("impressions") or 0
            for r in records
            if r["row"] == rows[0] and r["cohort"] == cohort
        )
        for cohort in COHORTS
    ]
    lines.append(["impressions, all seeds and days", *(f"{size:,.0f}" for size in sizes)])
    judges = [
        sum(
            r.get("gauc_users") or 0
            for r in records
            if r["row"] == rows[0] and r["cohort"] == cohort
        )
        for cohort in COHORTS
    ]
    lines.append(["users behind GAUC, all seeds and days", *(f"{count:,.0f}" for count in judges)])
    return markdown_table(("row", *(cohort.replace("_", " ") for cohort in COHORTS)), lines) + (
        "\nNew users and items were not seen in the lookback, low-activity users less often than "
        "`evaluation.low_activity_below`. GAUC rests on the users with a click and a non-click; of "
        "few it says little.\n"
    )


def _machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB; Python "
        f"{platform.python_version()}. Each level in a process of its own, nothing else running; "
        "median of the repeats and range.\n"
    )


def _speeds(speeds: Sequence[Speed]) -> str:
    lines = []
    for speed in speeds:
        memory = "–" if speed.peak_memory_mb is None else f"{speed.peak_memory_mb:,.0f} MB"
        rate = f"{speed.per_second:,.0f} ({speed.slowest:,.0f} to {speed.fastest:,.0f})"
        lines.append([speed.what, f"{speed.samples:,}", f"{speed.seconds:.1f} s", rate, memory])
    return markdown_table(("work", "rows", "time", "rows/s", "peak memory"), lines)
