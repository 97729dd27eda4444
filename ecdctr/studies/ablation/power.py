"""Rows judged by true probabilities of held-out ads.

What they show, and the smallest difference that they can show.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ecdctr.config.terms import FULL
from ecdctr.evaluation.gains import Gains, gains, rows_over_worlds
from ecdctr.report.markdown import markdown_table
from ecdctr.studies.ablation.records import per_seed

Records = list[dict[str, Any]]

MEASURES = ("expected_gauc", "expected_log_loss")
NOTE = (
    "± is 1.96 standard errors over users of these worlds, each with all of its days. Detectable: "
    "what shows in four of five repetitions."
)
OTHER_WORLDS = (
    " Other worlds: Student's t over seeds, each a world and weights of its own; by Holm: p over "
    "all rows of the table."
)


def drawn(users: Records) -> Records:
    """Return the records that rest on drawn clicks."""
    return [record for record in users if record.get("measure", "drawn") == "drawn"]


def sums(users: Records, row: str) -> dict[Any, tuple[float, int]]:
    """Return a row's users on held-out ads: (seed, user).

    Sum of AUC x impressions over days, impressions.
    """
    by_user: dict[Any, tuple[float, int]] = {}
    for record in users:
        if record["row"] == row and record.get("measure") == "expected":
            key = (record["seed"], record["user"])
            total, weight = by_user.get(key, (0.0, 0))
            count = record["impressions"]
            by_user[key] = (total + count * record["auc"], weight + count)
    return by_user


def ahead(users: Records, first: str, second: str) -> Gains:
    """Return the expected GAUC of the first row minus that of the second."""
    return gains(sums(users, first), sums(users, second))


def smallest(gained: Iterable[Gains]) -> float:
    """Return the smallest difference that shows for every one of these comparisons."""
    return float(np.nanmax([one.detectable for one in gained]))


def power_section(records: Records, users: Records, names: dict[str, str]) -> list[str]:
    """Return the section of a study's page; empty where the world has no held-out ads.

    With three worlds and more it says what other worlds would show: a world is the unit then.
    """
    judged = [record for record in records if record.get("expected_gauc") is not None]
    if not judged:
        return []
    rows = list(dict.fromkeys(record["row"] for record in judged))
    others = [row for row in rows if row not in (FULL, "oracle")] if FULL in rows else []
    here = {row: ahead(users, FULL, row) for row in others}
    impressions = sum(r["expected_impressions"] for r in judged if r["row"] == rows[0])
    text = (
        f"{impressions:,.0f} held-out ads that no row is trained on, judged by their true "
        "probabilities."
    )
    if here:
        text += (
            " **The smallest difference to full that they show for every row: "
            f"{smallest(here.values()):.4f}.**"
        )
    elsewhere = _over_worlds(judged, others)
    header = ["row", "expected GAUC", "expected LogLoss", "full − row", "detectable"]
    if elsewhere:
        header += ["full − row, other worlds [95 %]", "p by Holm", "detectable there"]
    lines = []
    for row in rows:
        means = [_mean(judged, row, name) for name in MEASURES]
        gained = [*_on_these(here.get(row)), *elsewhere.get(row, [])]
        padding = [""] * (len(header) - 1 - len(means) - len(gained))
        lines.append([names.get(row, row), *means, *gained, *padding])
    return [
        "## Held-out ads, by true probabilities\n",
        text + "\n",
        markdown_table(header, lines),
        (NOTE + OTHER_WORLDS if elsewhere else NOTE) + "\n",
    ]


def _on_these(one: Gains | None) -> list[str]:
    """Return cells of a row: the difference over users of these worlds, what shows."""
    return [f"{one.difference:+.4f} ± {one.margin:.4f}", f"{one.detectable:.4f}"] if one else []


def _over_worlds(judged: Records, others: list[str]) -> dict[str, list[str]]:
    """Return cells of each row: the difference over worlds, p by Holm, what shows."""
    full = per_seed(judged, FULL, "expected_gauc")
    each = {row: full - per_seed(judged, row, "expected_gauc") for row in others}
    return {
        row: [one.interval, f"{p:.4f}", f"{one.detectable:.4f}"]
        for row, (one, p) in rows_over_worlds(each).items()
    }


def _mean(records: Records, row: str, name: str) -> str:
    values = [r[name] for r in records if r["row"] == row and r.get(name) is not None]
    return f"{np.mean(values):.4f}" if values else "–"
