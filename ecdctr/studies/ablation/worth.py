"""What each part of the method is worth: a row with it beside one that lacks nothing but it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ecdctr.config.terms import FULL
from ecdctr.evaluation.compare import Comparison, compare, holm
from ecdctr.evaluation.gains import OverWorlds, rows_over_worlds
from ecdctr.report.markdown import markdown_table
from ecdctr.studies.ablation.ahead import BY_HOLM, HEADLINE, headline, statistics
from ecdctr.studies.ablation.records import per_seed

FLOOR = "floor"  # the best one
MEMORY = "memory"  # the row without TPM's vectors
BESIDE = "vectors beside memory"
# The row with the part, the row without
WORTH = {
    "CPM": ("no_tpm", "ads_only"),
    "CPM beside memory": (MEMORY, "ads_memory"),
    "TPM's vectors": ("vectors", "no_tpm"),
    "memory": (MEMORY, "no_tpm"),
    "vectors and memory": (FULL, "no_tpm"),
    BESIDE: (FULL, MEMORY),
    "memory beside vectors": (FULL, "vectors"),
    "full over the best floor": (FULL, FLOOR),
    "full over the paper's form": (FULL, "paper"),
}
Pairs = dict[str, tuple[str, str]]


def parts_of(rows: Sequence[str]) -> Pairs:
    """Return the parts whose worth these rows and floors tell."""
    told = {*rows, FLOOR}
    return {part: pair for part, pair in WORTH.items() if told.issuperset(pair)}


def worth_section(
    records: list[dict[str, Any]], users: list[dict[str, Any]], same_users: bool
) -> list[str]:
    """Return the section of a study's page; empty where its rows tell of no part.

    `users` are the records of drawn clicks, `same_users` whether seeds are of the weights alone.
    The best floor has a table of its own.
    """
    rows = dict.fromkeys(record["row"] for record in records)
    pairs = {part: pair for part, pair in parts_of([*rows]).items() if FLOOR not in pair}
    if not pairs:
        return []
    metric = headline(records)
    each = {
        part: per_seed(records, first, metric) - per_seed(records, second, metric)
        for part, (first, second) in pairs.items()
    }
    over_worlds = metric != "gauc"
    compared = rows_over_worlds(each) if over_worlds else _over_users(users, pairs, same_users)
    lines = []
    for part, (one, p) in compared.items():
        seeds = ", ".join(f"{value:+.4f}" for value in each[part])
        rows_of = " − ".join(pairs[part])
        lines.append([part, rows_of, one.interval, f"{p:.4f}", f"{one.detectable:.4f}", seeds])
    header = ("part", "rows", "difference [95 % interval]", "p by Holm", "detectable", "each seed")
    told = (
        f"Student's t over seeds, each a world and weights of its own. {BY_HOLM}"
        if over_worlds
        else statistics(same_users)
    )
    return [
        f"## What each part is worth, in {HEADLINE[metric]}\n",
        markdown_table(header, lines)
        + f"\n{told} Detectable: the smallest difference that shows in four of five repetitions.\n",
    ]


def _over_users(
    users: list[dict[str, Any]], pairs: Pairs, same_users: bool
) -> dict[str, tuple[Comparison | OverWorlds, float]]:
    each = [compare(users, *pair, same_users=same_users) for pair in pairs.values()]
    adjusted = holm([one.p for one in each])
    return dict(zip(pairs, zip(each, adjusted, strict=True), strict=True))
