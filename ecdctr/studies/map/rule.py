"""The README's rule of thumb, and what whoever follows it gets on measured worlds."""

from __future__ import annotations

from typing import Any, NamedTuple

from ecdctr.config.terms import FULL
from ecdctr.evaluation.gains import Gains
from ecdctr.studies.ablation.worth import BESIDE, MEMORY

DAILY = 20.0  # visits a month; between the worlds where vectors help (4) and where they do not (60)
# Impressions of ads in A-CTR's window: longer windows paid with 3,600 and 10,700 (docs/method.md)
FEW = 30_000
MOST_DAYS = 180  # that were tried
RULE = (
    "memory of users and TPM's vectors (`snapshots`); memory alone where users come about daily, "
    "since vectors bring nothing beside it there"
)
Result = dict[str, Any]


class Followed(NamedTuple):
    """What the rule chose in a world, and how far that is ahead, in expected GAUC."""

    row: str
    over_other: Gains  # over the row that it did not choose, of memory and full
    behind_best: float  # the best row that was measured, floors included, minus the chosen one


def chosen(statistics: dict[str, float]) -> str:
    """Return the row that the rule chooses for a log with such statistics."""
    return MEMORY if statistics["visits_per_month"] > DAILY else FULL


def for_log(statistics: dict[str, float]) -> str:
    """Return what the rule says of a log with such statistics."""
    with_vectors = "memory and snapshots" if chosen(statistics) == FULL else "memory, no snapshots"
    return f"By the rule of thumb ({RULE}): {with_vectors}."


def of_window(days: int, ads: int, log_days: int) -> str | None:
    """Return what to do where A-CTR's window of so many days holds few ads.

    None with enough, or where a longer one would hold no more or was not tried.
    """
    most = min(MOST_DAYS, log_days)
    if ads >= FEW or days >= most:
        return None
    return (
        f"A-CTR's window of {days} days (actr.window_days) holds {ads:,} ads, fewer than {FEW:,}: "
        f"try up to {most} days before anything else (docs/method.md)."
    )


def follow(result: Result) -> Followed:
    """Apply the rule to a measured cell that has both rows."""
    row = chosen(result["statistics"])
    beside = Gains(**result["worth"][BESIDE])
    over = beside if row == FULL else Gains(-beside.difference, beside.error)
    scores = {name: one["expected_gauc"] for name, one in result["rows"].items()}
    best = max(score for name, score in scores.items() if name != "oracle")
    return Followed(row, over, best - scores[row])


def told(results: list[Result]) -> str:
    """Return in a sentence or two how the rule fares on these cells."""
    each = [follow(result) for result in results]
    wrong = sum(one.over_other.sure and one.over_other.difference < 0 for one in each)
    right = sum(one.over_other.sure and one.over_other.difference > 0 for one in each)
    behind = [one.behind_best for one in each]
    most = f"; elsewhere it is behind the best by {1000 * max(behind):.1f} thousandths at most"
    return (
        f"In {sum(one == 0 for one in behind)} of {len(each)} worlds its row is the best of all "
        f"that were measured{most if any(behind) else ''}. Between `{MEMORY}` and `{FULL}` it is "
        f"surely right in {right}, surely wrong in {wrong}, and in {len(each) - right - wrong} the "
        "two cannot be told apart."
    )
