"""What the gate says of a version.

What becomes of it, why, and how much the test can see with this traffic.
"""

from __future__ import annotations

import datetime as dt
import math
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.store.results import WAITS

if TYPE_CHECKING:
    from ecdctr.config import Config
    from ecdctr.evaluation.noninferiority import Bound, Result
    from ecdctr.store.manifest import Ref


class Outcome(StrEnum):
    """What becomes of a version."""

    SERVES = "serves already"
    FIRST = "first to serve"
    PASSED = "passed"
    REFUSED = "refused"
    WAITING = WAITS


class Verdict(NamedTuple):
    """What the gate decided and why, and what it rests on.

    The fingerprint of each day's examples.
    """

    outcome: Outcome
    reason: str
    champion: Ref | None = None
    examples: dict[str, str] | None = None
    power: float | None = None  # how surely an equal version passes with this traffic
    # With how many days of such traffic the asked-for power is reached
    needed_days: float | None = None
    # Digest of the settings by which the data decided; None where it did not
    rule: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the version serves."""
        return self.outcome in (Outcome.SERVES, Outcome.FIRST, Outcome.PASSED)


def explain(
    config: Config, result: Result, champion: Ref, days: list[dt.date], outcome: Outcome
) -> str:
    """Return both bounds, what they rest on, and how much the test can see with this traffic."""
    settings = config.evaluation
    span = f"{days[0]}" if len(days) == 1 else f"{len(days)} days from {days[0]} to {days[-1]}"
    parts = [
        f"GAUC {_bound(result.gauc, 4)}; LogLoss {_bound(result.log_loss, 4)} (share, below 0 is "
        f"worse) against {champion} on {span}",
        f"{result.users:,} users with a click and a non-click",
    ]
    if result.users < settings.gate_min_users:
        missing = settings.gate_min_users - result.users
        parts[-1] += f", {missing:,} fewer than evaluation.gate_min_users"
    parts.append(f"harm to fewer than 1 user in {1 / result.unseen:,.0f} may not show")
    parts.append(f"an equal version passes with {100 * result.power:.0f} %")
    if result.power < settings.gate_power:
        parts[-1] += f", {100 * settings.gate_power:.0f} % need {_needed(result, len(days))}"
    if outcome == Outcome.WAITING:
        parts.append(
            f"{champion} serves on; the version is judged after {settings.gate_days} days at the "
            "latest (evaluation.gate_days)"
        )
    elif outcome == Outcome.REFUSED and result.gauc.high >= 0 and result.log_loss.high >= 0:
        parts.append(
            "not shown to be good enough, which is not shown to be worse: the traffic is small"
        )
    return "; ".join(parts)


def _bound(bound: Bound, digits: int) -> str:
    return (
        f"{bound.value:+.{digits}f}, at least {bound.low:+.{digits}f} "
        f"(allowed {-bound.margin:+.{digits}f})"
    )


def _needed(result: Result, days: int) -> str:
    if not math.isfinite(result.needed):
        return "more than a million times this traffic"
    users = math.ceil(result.users * result.needed)
    return f"about {math.ceil(days * result.needed)} days of this traffic ({users:,} users)"
