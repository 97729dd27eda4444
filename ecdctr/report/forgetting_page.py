"""The page of a forgetting study: measures per variant, differences to the first, heat maps, curves."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from ecdctr.report.forgetting import (
    MEASURES,
    Array,
    Measure,
    Records,
    half_life,
    matrices,
    measure,
    recency_curve,
    retention,
)  # fmt: skip


def forgetting_page(
    users: Records, failed: dict[str, str], rows: tuple[str, ...], recurrence_days: int, preset: str
) -> tuple[str, str]:
    """HTML with heat maps and curves, and the tables as Markdown."""
    rows = tuple(row for row in rows if row not in failed)
    seeds = sorted({record["seed"] for record in users})
    stacks: dict[str, tuple[Array, Array]] = {}
    days: list[Any] = []
    for row in rows:
        found = [matrices([r for r in users if (r["row"], r["seed"]) == (row, seed)]) for seed in seeds]
        days = found[0][0]
        stacks[row] = (np.stack([r for _, r, _ in found]), np.stack([drawn for _, _, drawn in found]))
    measures = {row: measure(*stack) for row, stack in stacks.items()}
    templates = Environment(loader=PackageLoader("ecdctr.report", "."), autoescape=True)
    page = templates.get_template("forgetting.html")
    html = page.render(
        preset=preset,
        days=len(days),
        seeds=", ".join(map(str, seeds)),
        names=list(MEASURES),
        table={row: [str(cell) for cell in found.values()] for row, found in measures.items()},
        failed=failed,
        recurrence=recurrence_days,
        heat=_heat_maps(stacks, recurrence_days),
        curves=_curves(stacks),
    )
    return html, _markdown(measures, stacks, failed, preset, days, seeds)


def _markdown(
    measures: dict[str, dict[str, Measure]],
    stacks: dict[str, tuple[Array, Array]],
    failed: dict[str, str],
    preset: str,
    days: list[Any],
    seeds: list[int],
) -> str:
    lines = [
        f"# Forgetting on the `{preset}` world\n",
        f"{len(days)} days ({days[0]} to {days[-1]}), seeds {', '.join(map(str, seeds))}; 95 % intervals by bootstrap "
        "over the users of each day.\n",
        "| variant | " + " | ".join(MEASURES) + " |",
        "|---" * (len(MEASURES) + 1) + "|",
    ]
    lines += [
        f"| {row} | " + " | ".join(str(cell) for cell in found.values()) + " |" for row, found in measures.items()
    ]
    lines += [f"| {row} | failed: {reason} |" + " |" * (len(MEASURES) - 1) for row, reason in failed.items()]
    first = next(iter(stacks))
    lines += [f"\n## Forgetting relative to `{first}`\n", "| variant | lower by | each seed |", "|---|---|---|"]
    base, base_drawn = (MEASURES["forgetting"](part) for part in stacks[first])
    for row, (r, drawn) in stacks.items():
        if row != first:
            own, own_drawn = MEASURES["forgetting"](r), MEASURES["forgetting"](drawn)
            share = 1 - own.mean() / base.mean()
            low, high = np.quantile(1 - own_drawn.mean(0) / base_drawn.mean(0), [0.025, 0.975])
            each = ", ".join(f"{100 * value:.0f} %" for value in 1 - own / base)
            lines.append(f"| {row} | {100 * share:.0f} % [{100 * low:.0f} %, {100 * high:.0f} %] | {each} |")
    lines += ["\n## GAUC on a day that lies k days back\n", *_recency_table(stacks)]
    return "\n".join(lines) + "\n"


def _recency_table(stacks: dict[str, tuple[Array, Array]]) -> list[str]:
    length = next(iter(stacks.values()))[0].shape[-1]
    ages = [k for k in (0, 1, 3, 7, 14, 21, 28, 35, 56) if k <= 3 * length // 4]
    lines = ["| variant | " + " | ".join(f"k = {k}" for k in ages) + " |", "|---" * (len(ages) + 1) + "|"]
    for row, (r, _) in stacks.items():
        curve = recency_curve(r).mean(0)
        lines.append(f"| {row} | " + " | ".join(f"{curve[k]:.4f}" for k in ages) + " |")
    return lines


def _heat_maps(stacks: dict[str, tuple[Array, Array]], recurrence_days: int) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(stacks), 4.2))
    grid = figure.subplots(1, len(stacks), squeeze=False)[0]
    means = {row: r.mean(0) for row, (r, _) in stacks.items()}
    low, high = (function([function(r) for r in means.values()]) for function in (np.min, np.max))
    image: Any = None
    for axes, (row, r) in zip(grid, means.items(), strict=True):
        image = axes.imshow(r, vmin=low, vmax=high, cmap="viridis", origin="upper")
        last = len(r) - 1
        axes.plot([0, last], [0, last], color="white", lw=0.8)
        if recurrence_days <= last:
            axes.plot([0, last - recurrence_days], [recurrence_days, last], ":", color="white", lw=0.8)
        axes.set_title(f"{row}, half-life {_days(half_life(stacks[row][0]))}", fontsize=9)
        axes.set_xlabel("day j")
    grid[0].set_ylabel("model after day i")
    figure.colorbar(image, ax=list(grid), shrink=0.8, label="GAUC")
    return _png(figure)


def _curves(stacks: dict[str, tuple[Array, Array]]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6))
    left, right = figure.subplots(1, 2)
    for row, (r, drawn) in stacks.items():
        for axes, function in ((left, recency_curve), (right, retention)):
            value = function(r).mean(0)
            half = len(value) // 2
            low, high = np.nanquantile(function(drawn).mean(0), [0.025, 0.975], axis=0)
            (line,) = axes.plot(value[:half], label=row)
            axes.fill_between(range(half), low[:half], high[:half], color=line.get_color(), alpha=0.15, lw=0)
    left.set_ylabel("GAUC")
    right.set_ylabel("retention")
    right.axhline(0.5, color="#999999", ls=":")
    right.set_ylim(-0.5, 1.5)
    for axes in (left, right):
        axes.set_xlabel("days since the day was learned")
        axes.spines[["top", "right"]].set_visible(False)
    left.legend(frameon=False, fontsize=8)
    return _png(figure)


def _days(values: Array) -> str:
    mean = float(np.mean(values))
    return f"{mean:.1f} days" if np.isfinite(mean) else "beyond the study"


def _png(figure: Any) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    return base64.b64encode(buffer.getvalue()).decode()
