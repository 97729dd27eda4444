"""The promotion gate: the newest version that is shown to be no worse than the champion serves.

A version is judged once, on the days after it, as they come: as soon as the test's power suffices, or after
`evaluation.gate_days` of them. Until then it waits, and what serves stays. When that is depends on the traffic and not
on how good the version looks, so that looking every day does not let bad ones through.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
from enum import StrEnum
from typing import NamedTuple

from ecdctr.config import LEVEL_DOMAIN, Config
from ecdctr.errors import EcdctrError, StoreError, TryAgain
from ecdctr.evaluation.noninferiority import Bound, Result, noninferiority
from ecdctr.evaluation.stored import Stored, current, pair
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.reading import one_reading
from ecdctr.store.manifest import Ref
from ecdctr.store.store import AliasRecord, Kind, Store

ATTEMPTS = 5  # of judging, while others promote


class Outcome(StrEnum):
    """What becomes of a version."""

    SERVES = "serves already"
    FIRST = "first to serve"
    PASSED = "passed"
    REFUSED = "refused"
    WAITING = "not judged yet"


class Verdict(NamedTuple):
    """What the gate decided and why, and what it rests on: the fingerprint of each day's examples."""

    outcome: Outcome
    reason: str
    champion: Ref | None = None
    examples: dict[str, str] | None = None
    power: float | None = None  # how surely an equal version passes with this traffic
    needed_days: float | None = (
        None  # with how many days of such traffic the asked-for power is reached
    )

    @property
    def passed(self) -> bool:
        """Whether the version serves."""
        return self.outcome in (Outcome.SERVES, Outcome.FIRST, Outcome.PASSED)


@one_reading()
def gate(config: Config, store: Store, challenger: Ref, date: dt.date) -> Verdict:
    """Judge an evaluated version, and promote it to `serving` unless there is a reason against it.

    Refused are: predictions that are all alike, calibration outside its bounds, parents that are too old, a champion
    that cannot be evaluated on the same days any more, and a version that is not shown to be within the margins
    (non-inferiority, docs/operations.md). While the version waits, older ones that waited are judged, newest first,
    with the days that have come since; the first that passes serves. Every verdict is kept. Evaluations that do not
    rest on the data and code as they are now are made anew. When another version is promoted meanwhile, as runs side by
    side do, it is the champion, and all is judged again. Raises StoreError when the version was not evaluated on
    `date`, TryAgain when others were faster each time.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(TryAgain):
            return _gate(config, store, challenger, date)
    return _gate(config, store, challenger, date)


def _gate(config: Config, store: Store, challenger: Ref, date: dt.date) -> Verdict:
    with store.in_use():
        served = store.serving(challenger.experiment, challenger.level)
        champion = served.ref if served else None
        if champion == challenger:
            return Verdict(Outcome.SERVES, f"{challenger} serves already", champion)
        if store.evaluation(challenger, date) is None:
            raise StoreError(
                f"{challenger} was not evaluated on {date}; "
                f"run: ecdctr evaluate --date {date} --version {challenger}"
            )
        verdict = _settle(config, store, challenger, served, date)
        if verdict.outcome == Outcome.WAITING:
            for older in _waiting(config, store, challenger, champion, date):
                if _settle(config, store, older, served, date).passed:
                    text = (
                        f"{verdict.reason}. {older}, which waited, has passed meanwhile and serves"
                    )
                    return verdict._replace(reason=text)
        return verdict


def _settle(
    config: Config, store: Store, challenger: Ref, served: AliasRecord | None, date: dt.date
) -> Verdict:
    """Judge a version, keep the verdict, and let it serve if it passed and nothing else was promoted meanwhile."""
    verdict = _judge(config, store, challenger, served.ref if served else None, date)
    if verdict.passed:  # first: a verdict that passed is kept only of what served
        number = served.number if served else 0
        store.set_alias("serving", challenger, verdict.reason, Kind.GATE, after=number)
    store.add_verdict(challenger, {"date": date, "passed": verdict.passed, **verdict._asdict()})
    return verdict


def _waiting(
    config: Config, store: Store, challenger: Ref, champion: Ref | None, date: dt.date
) -> list[Ref]:
    """Older versions, newer than the champion, whose last verdict was to wait: of each date the newest, newest first."""
    oldest = date - dt.timedelta(days=config.evaluation.gate_days)
    newest = {
        ref.date: ref
        for ref in store.versions(challenger.experiment, challenger.level)
        if oldest <= ref.date < challenger.date and (champion is None or ref.date > champion.date)
    }
    waiting = []
    for _, ref in sorted(newest.items(), reverse=True):
        verdicts = store.verdicts(ref)
        if verdicts and verdicts[-1]["outcome"] == Outcome.WAITING:
            waiting.append(ref)
    return waiting


def _judge(
    config: Config, store: Store, challenger: Ref, champion: Ref | None, date: dt.date
) -> Verdict:
    ours = current(config, store, challenger, date)
    examples = {str(date): str(ours.content["examples"])}
    against = _against_itself(config, ours) or _against_its_parents(config, store, challenger)
    if champion and champion.date > challenger.date:
        against = f"older than the serving {champion}; promote it by hand if it is meant"
    if against:
        return Verdict(Outcome.REFUSED, f"{challenger}: {against}", champion, examples)
    if champion is None:
        metrics = ours.content["metrics"]["all"]
        text = (
            f"first to serve, compared with nothing; calibration {metrics['calibration']:.2f} on "
            f"{metrics['impressions']:,.0f} impressions of {date}"
        )
        return Verdict(Outcome.FIRST, text, None, examples)
    return _compare(config, store, challenger, champion, date)


def _against_itself(config: Config, ours: Stored) -> str | None:
    """What an evaluation alone says against a version; a figure that is missing or not a number does."""
    settings, metrics = config.evaluation, ours.content["metrics"]["all"]
    spread = ours.content["score_spread"]
    if not spread >= settings.gate_min_score_spread:
        return (
            f"predictions on {ours.date} expected with a standard deviation of "
            f"{settings.gate_min_score_spread} or more, found {spread:.2g}: they are all alike"
        )
    calibration = metrics.get("calibration", math.nan)
    low, high = settings.gate_calibration
    if not low <= calibration <= high:
        text = "none (no clicks)" if math.isnan(calibration) else f"{calibration:.2f}"
        return f"calibration on {ours.date} expected within [{low}, {high}], found {text}"
    return None


def _against_its_parents(config: Config, store: Store, challenger: Ref) -> str | None:
    """Whether what an A-CTR started from was stale; a chain keeps its first day's parents by intention."""
    parents = store.manifest(challenger).parents
    if challenger.level != "actr" or "actr" in parents:
        return None
    settings = config.evaluation
    allowed = {
        "cpm": settings.gate_max_cpm_age,
        "tpm": settings.gate_max_tpm_age + config.snapshots.lag_days,
    }
    for level, days in allowed.items():
        newest_first = [Ref.parse(text) for text in parents.get(level, [])]
        for parent in newest_first[:1]:
            age = (challenger.date - parent.date).days
            if age > days:
                return (
                    f"its {level} {parent} is {age} days older, at most {days} are allowed "
                    f"(evaluation.gate_max_{level}_age); look why ecdctr_{level} did not run"
                )
    return None


def _compare(
    config: Config, store: Store, challenger: Ref, champion: Ref, date: dt.date
) -> Verdict:
    """The test on the last days that neither version has read, as far as they were delivered."""
    settings = config.evaluation
    domain = LEVEL_DOMAIN[challenger.level]  # type: ignore[index]
    delivered = open_impressions(config.data.root).dates(domain)
    days = [day for day in delivered if challenger.date < day <= date][-settings.gate_days :]
    ours = [current(config, store, challenger, day) for day in days]
    examples = {str(one.date): str(one.content["examples"]) for one in ours}
    try:
        theirs = [current(config, store, champion, day) for day in days]
    except EcdctrError as error:
        text = (
            f"{challenger}: the serving {champion} cannot be evaluated on {days[0]} to {days[-1]}, so that nothing "
            f"can be compared: {error} To let the challenger serve all the same: ecdctr store promote {challenger}"
        )
        return Verdict(Outcome.REFUSED, text, champion, examples)
    result = noninferiority(
        pair(list(zip(ours, theirs, strict=True))),
        settings.gate_max_gauc_drop,
        settings.gate_max_log_loss_rise,
        settings.gate_power,
        settings.bootstrap_samples,
        config.seed,
    )
    outcome = _outcome(config, result, len(days))
    return Verdict(
        outcome,
        f"{challenger} {outcome}: {_explain(config, result, champion, days, outcome)}",
        champion,
        examples,
        result.power,
        result.needed * len(days) if math.isfinite(result.needed) else None,
    )


def _outcome(config: Config, result: Result, days: int) -> Outcome:
    settings = config.evaluation
    enough = result.users >= settings.gate_min_users
    if not (enough and result.power >= settings.gate_power) and days < settings.gate_days:
        return Outcome.WAITING
    return Outcome.PASSED if enough and result.holds else Outcome.REFUSED


def _explain(
    config: Config, result: Result, champion: Ref, days: list[dt.date], outcome: Outcome
) -> str:
    """Both bounds, what they rest on, and how much the test can see with this traffic."""
    settings = config.evaluation
    span = f"{days[0]}" if len(days) == 1 else f"{len(days)} days from {days[0]} to {days[-1]}"
    parts = [
        f"GAUC {_bound(result.gauc, 4)}; LogLoss {_bound(result.log_loss, 4)} (share, below 0 is worse) against "
        f"{champion} on {span}",
        f"{result.users:,} users with a click and a non-click",
    ]
    if result.users < settings.gate_min_users:
        missing = settings.gate_min_users - result.users
        parts[-1] += f", {missing:,} fewer than evaluation.gate_min_users"
    parts.append(f"an equal version passes with {100 * result.power:.0f} %")
    if result.power < settings.gate_power:
        parts[-1] += f", {100 * settings.gate_power:.0f} % need {_needed(result, len(days))}"
    if outcome == Outcome.WAITING:
        parts.append(
            f"{champion} serves on; the version is judged after {settings.gate_days} days at the latest "
            "(evaluation.gate_days)"
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
