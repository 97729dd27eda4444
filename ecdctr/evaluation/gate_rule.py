"""The gate's rule: what speaks against a version, and how it compares with the one that serves."""

from __future__ import annotations

import datetime as dt
import math
from typing import TYPE_CHECKING

from ecdctr.code import code_digest
from ecdctr.config import LEVEL_DOMAIN, Config, digest
from ecdctr.config.terms import dag_of
from ecdctr.errors import ContractError, EcdctrError, TryAgain
from ecdctr.evaluation.basis import basis_now, evaluating_code
from ecdctr.evaluation.noninferiority import Result, noninferiority
from ecdctr.evaluation.stored import Stored, current, pair
from ecdctr.evaluation.verdict import Outcome, Verdict, explain
from ecdctr.impressions.days import whole_days
from ecdctr.store.aliases import SERVING
from ecdctr.store.manifest import Ref

if TYPE_CHECKING:
    from ecdctr.store.store import Store

JUDGING = ("evaluation.gate_rule", "evaluation.noninferiority", "evaluation.stored")


def rule_of(config: Config) -> str:
    """Name what decides beside the data: the gate's settings, and the code that judges."""
    settings = config.evaluation.model_dump(mode="json")
    gate = {name: value for name, value in settings.items() if name.startswith("gate_")}
    judging = code_digest(["evaluation.gate_rule"], JUDGING)
    parts = [
        gate,
        config.evaluation.bootstrap_samples,
        config.seed,
        evaluating_code(),
        judging,
    ]
    return digest(parts)[:20]


def judge(
    config: Config, store: Store, challenger: Ref, champion: Ref | None, date: dt.date
) -> Verdict:
    """Judge a version by the days up to `date`, against the one that serves.

    Raises ContractError where the day is not whole, TryAgain where days were delivered meanwhile.
    """
    domain, yesterday = LEVEL_DOMAIN[challenger.level], date - dt.timedelta(days=1)
    if whole_days(config, domain, yesterday, date, 1) != [date]:
        raise ContractError(
            f"{domain} of {date} is not delivered whole in both domains (data.ready: "
            f"{config.data.ready}); deliver it and run the command again."
        )
    ours = current(config, store, challenger, date)
    examples = {str(date): str(ours.content["examples"])}
    against = _against_its_past(store, challenger, champion) or _against_its_parents(
        config, store, challenger
    )
    if against:
        return Verdict(Outcome.REFUSED, f"{challenger}: {against}", champion, examples)
    against = _against_itself(config, ours)
    if against:
        reason = f"{challenger}: {against}"
        return Verdict(Outcome.REFUSED, reason, champion, examples, rule=rule_of(config))
    if champion is None:
        metrics = ours.content["metrics"]["all"]
        text = (
            f"first to serve, compared with nothing; calibration {metrics['calibration']:.2f} on "
            f"{metrics['impressions']:,.0f} impressions of {date}"
        )
        return Verdict(Outcome.FIRST, text, None, examples, rule=rule_of(config))
    return _compare(config, store, challenger, champion, date)


def _against_its_past(store: Store, challenger: Ref, champion: Ref | None) -> str | None:
    """Tell whether people have decided already.

    A version that was taken out of service, or a newer one that serves.
    """
    by_hand = f"promote it by hand if it is meant: ecdctr store promote {challenger}"
    if champion and champion.age > challenger.age:
        return f"older than the serving {champion}; {by_hand}"
    history = store.alias_history(SERVING, challenger.experiment, challenger.level)
    if any(record.ref == challenger for record in history):
        return f"served before and does not any more, since {history[-1].reason}; {by_hand}"
    return None


def _against_itself(config: Config, ours: Stored) -> str | None:
    """Return what an evaluation alone says against a version.

    A figure that is missing or not a number does.
    """
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
    """Say whether what an A-CTR started from was stale.

    A chain keeps its first day's parents by intention.
    """
    parents = store.manifest(challenger).parents
    if challenger.level != "actr" or "actr" in parents:
        return None
    settings = config.evaluation
    allowed = {
        "cpm": settings.gate_max_cpm_age,
        "tpm": settings.gate_max_tpm_age,
    }
    for level, days in allowed.items():
        newest_first = [Ref.parse(text) for text in parents.get(level, [])]
        for parent in newest_first[:1]:
            age = (challenger.date - parent.date).days
            if age > days:
                return (
                    f"its {level} {parent} is {age} days older, at most {days} are allowed "
                    f"(evaluation.gate_max_{level}_age); look why {dag_of(level)} did not run"
                )
    return None


def _compare(
    config: Config, store: Store, challenger: Ref, champion: Ref, date: dt.date
) -> Verdict:
    """Test on the last days that neither version has read and that were delivered."""
    settings = config.evaluation
    domain = LEVEL_DOMAIN[challenger.level]
    days = whole_days(config, domain, challenger.date, date, settings.gate_days)
    if not days:  # `date` was whole when the judging began
        raise _meanwhile(challenger, champion, [date])
    ours = [current(config, store, challenger, day) for day in days]
    examples = {str(one.date): str(one.content["examples"]) for one in ours}
    try:
        try:
            theirs = [current(config, store, champion, day) for day in days]
        except EcdctrError as error:
            if isinstance(error, ContractError) or _delivered_meanwhile(config, ours, date):
                raise _meanwhile(challenger, champion, days) from error
            theirs = [current(config, store, champion, day) for day in days]  # back by now?
    except EcdctrError as error:
        text = (
            f"{challenger}: the serving {champion} cannot be evaluated on {days[0]} to {days[-1]}, "
            f"so that nothing can be compared: {error} To let the challenger serve all the same: "
            f"ecdctr store promote {challenger}"
        )
        return Verdict(Outcome.WAITING, text, champion, examples)
    if any(one.basis != other.basis for one, other in zip(ours, theirs, strict=True)):
        raise _meanwhile(challenger, champion, days)
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
        f"{challenger} {outcome}: {explain(config, result, champion, days, outcome)}",
        champion,
        examples,
        result.power,
        result.needed * len(days) if math.isfinite(result.needed) else None,
        rule_of(config),
    )


def _delivered_meanwhile(config: Config, ours: list[Stored], date: dt.date) -> bool:
    """Tell whether the days are not any more what our evaluations rest on."""
    ref, days = ours[0].ref, [one.date for one in ours]
    most = config.evaluation.gate_days
    if whole_days(config, LEVEL_DOMAIN[ref.level], ref.date, date, most) != days:
        return True
    return any(one.basis != basis_now(config, ref, one.date) for one in ours)


def _meanwhile(challenger: Ref, champion: Ref, days: list[dt.date]) -> TryAgain:
    return TryAgain(
        f"{challenger} and {champion}: days from {days[0]} to {days[-1]} were delivered again "
        "or away while they were compared. Run the command again."
    )


def _outcome(config: Config, result: Result, days: int) -> Outcome:
    settings = config.evaluation
    enough = result.users >= settings.gate_min_users
    if not (enough and result.power >= settings.gate_power) and days < settings.gate_days:
        return Outcome.WAITING
    return Outcome.PASSED if enough and result.holds else Outcome.REFUSED
