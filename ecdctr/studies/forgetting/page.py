"""A forgetting study as files.

Page, tables, figures, and the numbers behind them for the pages in Airflow's UI.
"""

from __future__ import annotations

import base64
import csv
import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ecdctr.files import durable
from ecdctr.report.figures import GREY, grey, new_figure, save_png
from ecdctr.report.templates import environment
from ecdctr.studies.forgetting.measures import (
    MEASURES,
    Matrix,
    Measure,
    difference,
    forgets_less,
    forgetting,
    half_life,
    measure,
    recency_curve,
    recommend,
)

if TYPE_CHECKING:
    from ecdctr.store.store import Store

CURVE_DAYS = 4  # with fewer there is no curve: each age of a day but the first is that of one day


class About(NamedTuple):
    """What a study looked at; `recurrence_days` is known for simulated worlds only."""

    name: str
    world: str
    days: list[dt.date]
    seeds: tuple[int, ...]
    hold_out_every: int
    recurrence_days: int | None


def write_study(
    store: Store, about: About, variants: dict[str, Matrix], failed: dict[str, str]
) -> tuple[Path, str]:
    """Write all files of a study into the store, whole or not at all.

    Returns the folder and the Markdown. An earlier study of the same name is replaced. The first
    variant is what the others are compared with.
    """
    measures = {name: measure(matrix) for name, matrix in variants.items()}
    advice = recommend(variants)
    markdown = _markdown(about, variants, measures, failed, advice)
    with store.staging() as folder:
        save_png(_heat_maps(about, variants), folder / "heat.png")
        if len(about.days) >= CURVE_DAYS:
            save_png(_curves(variants), folder / "curves.png")
        _write_csv(folder / "matrix.csv", about, variants)
        (folder / "study.md").write_text(markdown, "utf-8")
        (folder / "study.html").write_text(_html(folder, about, measures, failed, advice), "utf-8")
        content = {
            "kind": "forgetting",
            "name": about.name,
            "world": about.world,
            "days": [str(day) for day in about.days],
            "seeds": list(about.seeds),
            "hold_out_every": about.hold_out_every,
            "advice": advice,
            "curves": len(about.days) >= CURVE_DAYS,
            "failed": failed,
            "measures": {
                name: {key: [_finite(value) for value in one] for key, one in of_variant.items()}
                for name, of_variant in measures.items()
            },
            "written_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        durable.write_bytes(folder / "study.json", json.dumps(content, indent=1).encode())
        store.save_study(folder, about.name)
    return store.study(about.name), markdown


def _markdown(
    about: About,
    variants: dict[str, Matrix],
    measures: dict[str, dict[str, Measure]],
    failed: dict[str, str],
    advice: str,
) -> str:
    days = about.days
    lines = [
        f"# Forgetting on {about.world}\n",
        f"{len(days)} days ({days[0]} to {days[-1]}), seeds {', '.join(map(str, about.seeds))}, "
        f"one in {about.hold_out_every} impressions of ads held out; 95 % intervals by bootstrap "
        "over users.\n",
        f"**{advice}**\n",
        "| variant | " + " | ".join(MEASURES) + " |",
        "|---" * (len(MEASURES) + 1) + "|",
    ]
    lines += [
        f"| {name} | " + " | ".join(str(cell) for cell in of_variant.values()) + " |"
        for name, of_variant in measures.items()
    ]
    lines += [
        f"| {name} | failed: {reason} |" + " |" * (len(MEASURES) - 1)
        for name, reason in failed.items()
    ]
    lines += _against_the_first(variants, measures)
    length = len(days)
    ages = [k for k in (0, 1, 3, 7, 14, 21, 28, 35, 56) if k <= 3 * length // 4]
    lines += ["\n## GAUC on a day that lies k days back\n"]
    lines += [
        "| variant | " + " | ".join(f"k = {k}" for k in ages) + " |",
        "|---" * (len(ages) + 1) + "|",
    ]
    for name, matrix in variants.items():
        curve = recency_curve(matrix.r).mean(0)
        lines.append(f"| {name} | " + " | ".join(f"{curve[k]:.4f}" for k in ages) + " |")
    return "\n".join(lines) + "\n"


def _against_the_first(
    variants: dict[str, Matrix], measures: dict[str, dict[str, Measure]]
) -> list[str]:
    """Return each variant's forgetting minus the first one's.

    Where the first one surely forgets, it is returned as a share as well.
    """
    first, *others = variants
    forgets = measures[first]["forgetting"].low > 0
    lines = [
        f"\n## Forgetting relative to `{first}`\n",
        "| variant | of each seed | difference | lower by |",
        "|---" * 4 + "|",
    ]
    for name in (first, *others):
        each = ", ".join(f"{value:+.4f}" for value in forgetting(variants[name].halves))
        cells = ["–", "–"]
        if name != first:
            cells[0] = str(difference("forgetting", variants[name], variants[first]))
        if name != first and forgets:
            less = forgets_less(variants[name], variants[first])
            cells[1] = f"{100 * less.value:.0f} % [{100 * less.low:.0f} %, {100 * less.high:.0f} %]"
        lines.append(f"| {name} | {each} | {' | '.join(cells)} |")
    if not forgets:
        lines.append(
            f"\nWhat `{first}` forgets cannot be told from nothing, so that a share of it says "
            "nothing."
        )
    return lines


def _html(
    folder: Path,
    about: About,
    measures: dict[str, dict[str, Measure]],
    failed: dict[str, str],
    advice: str,
) -> str:
    """Return one page with its figures inside, to be sent around."""
    templates = environment("ecdctr.studies.forgetting")
    figures = {
        name: base64.b64encode((folder / f"{name}.png").read_bytes()).decode("ascii")
        for name in ("heat", "curves")
        if (folder / f"{name}.png").exists()
    }
    table = {
        name: [str(cell) for cell in of_variant.values()] for name, of_variant in measures.items()
    }
    page = templates.get_template("study.html")
    return page.render(
        about=about,
        names=list(MEASURES),
        table=table,
        failed=failed,
        advice=advice,
        figures=figures,
        curve_days=CURVE_DAYS,
    )


def _write_csv(path: Path, about: About, variants: dict[str, Matrix]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["variant", "seed", "model_date", "day", "gauc"])
        for name, matrix in variants.items():
            for seed, r in zip(about.seeds, matrix.r, strict=True):
                for model_date, cells in zip(about.days, r, strict=True):
                    for day, value in zip(about.days, cells, strict=True):
                        writer.writerow([name, seed, model_date, day, f"{value:.6f}"])


def _heat_maps(about: About, variants: dict[str, Matrix]) -> Any:
    figure = new_figure(4.2 * len(variants), 4.2)
    grid = figure.subplots(1, len(variants), squeeze=False)[0]
    means = {name: matrix.r.mean(0) for name, matrix in variants.items()}
    low, high = (function([function(r) for r in means.values()]) for function in (np.min, np.max))
    image: Any = None
    for axes, (name, r) in zip(grid, means.items(), strict=True):
        image = axes.imshow(r, vmin=low, vmax=high, cmap="viridis", origin="upper")
        last = len(r) - 1
        axes.plot([0, last], [0, last], color="white", lw=0.8)
        if about.recurrence_days and about.recurrence_days <= last:
            axes.plot(
                [0, last - about.recurrence_days],
                [about.recurrence_days, last],
                ":",
                color="white",
                lw=0.8,
            )
        axes.set_title(f"{name}, half-life {_days(half_life(variants[name].r))}", fontsize=9)
        axes.set_xlabel("day j")
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_major_locator().set_params(integer=True)
    grid[0].set_ylabel("model after day i")
    grey(list(grid))
    bar = figure.colorbar(image, ax=list(grid), shrink=0.8, label="GAUC")
    grey([bar.ax])
    return figure


def _curves(variants: dict[str, Matrix]) -> Any:
    """Draw GAUC by the age of a day, and by how much each variant is ahead of the first one.

    Both are drawn on the same draws of users.
    """
    figure = new_figure(11, 3.6)
    left, right = figure.subplots(1, 2)
    curves = {
        name: (recency_curve(matrix.r), recency_curve(matrix.drawn))
        for name, matrix in variants.items()
    }
    first, first_drawn = next(iter(curves.values()))
    for name, (value, drawn) in curves.items():
        for axes, mean, samples in (
            (left, value, drawn),
            (right, value - first, drawn - first_drawn),
        ):
            half = max(mean.shape[-1] // 2, 1)
            low, high = np.nanquantile(samples.mean(0), [0.025, 0.975], axis=0)
            (line,) = axes.plot(mean.mean(0)[:half], marker="o", ms=3, label=name)
            axes.fill_between(
                range(half), low[:half], high[:half], color=line.get_color(), alpha=0.2, lw=0
            )
    left.set_ylabel("GAUC")
    right.set_ylabel(f"GAUC ahead of {next(iter(variants))}")
    for axes in (left, right):
        axes.set_xlabel("days since the day was learned")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8, labelcolor=GREY)
    grey([left, right])
    return figure


def _finite(value: float) -> float | None:
    """Replace infinity, which JSON lacks: a half-life beyond the study is null."""
    return float(value) if np.isfinite(value) else None


def _days(values: Any) -> str:
    mean = float(np.mean(values))
    return f"{mean:.1f} days" if np.isfinite(mean) else "beyond the study"
