"""Rows judged by true probabilities of held-out ads.

What they show, and the smallest difference that they can show.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ecdctr.config.terms import FULL
from ecdctr.evaluation.gains import Gains, gains

Records = list[dict[str, Any]]


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
    """Return the section of a study's page; empty where the world has no held-out ads."""
    judged = [record for record in records if record.get("expected_gauc") is not None]
    if not judged:
        return []
    rows = list(dict.fromkeys(record["row"] for record in judged))
    others = [row for row in rows if row not in (FULL, "oracle")]
    gained = {row: ahead(users, FULL, row) for row in others} if FULL in rows else {}
    lines = ["| row | expected GAUC | expected LogLoss | full − row | detectable |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for row in rows:
        gauc, loss = (_mean(judged, row, f"expected_{name}") for name in ("gauc", "log_loss"))
        cells = [names.get(row, row), gauc, loss, "", ""]
        if row in gained:
            one = gained[row]
            cells[3:] = [f"{one.difference:+.4f} ± {one.margin:.4f}", f"{one.detectable:.4f}"]
        lines.append("| " + " | ".join(cells) + " |")
    impressions = sum(r["expected_impressions"] for r in judged if r["row"] == rows[0])
    text = (
        f"{impressions:,.0f} held-out ads that no row is trained on, judged by their true "
        "probabilities."
    )
    if gained:
        least = smallest(gained.values())
        text += f" **The smallest difference to full that they show for every row: {least:.4f}.**"
    return [
        "## Held-out ads, by true probabilities\n",
        text + "\n",
        "\n".join(lines) + "\n",
        "± is 1.96 standard errors over users, each with all of its days; seeds are worlds. "
        "Detectable: what shows in four of five repetitions.\n",
    ]


def _mean(records: Records, row: str, name: str) -> str:
    values = [r[name] for r in records if r["row"] == row and r.get(name) is not None]
    return f"{np.mean(values):.4f}" if values else "–"
