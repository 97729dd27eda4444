"""The promotion gate: the newest version that is shown to be no worse than the champion serves.

A version is judged once, on the days after it, as they come: as soon as the test's power suffices,
or after `evaluation.gate_days` of them. Until then it waits, and what serves stays. When that is
depends on the traffic and not on how good the version looks, so that looking every day does not let
bad ones through; nor does asking again: what the data said stands until the data, the champion or
the rule is another.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import uuid
from typing import TYPE_CHECKING

from ecdctr.code import code_digest
from ecdctr.config import LEVEL_DOMAIN, Config, digest
from ecdctr.config.terms import dag_of
from ecdctr.errors import ContractError, EcdctrError, StoreError, TryAgain
from ecdctr.evaluation.basis import basis_now, evaluating_code
from ecdctr.evaluation.noninferiority import Result, noninferiority
from ecdctr.evaluation.stored import Stored, current, load, pair
from ecdctr.evaluation.verdict import Outcome, Verdict, explain
from ecdctr.impressions.days import whole_days
from ecdctr.impressions.reading import one_reading
from ecdctr.store.aliases import SERVING, AliasRecord, Kind
from ecdctr.store.manifest import Ref, variant_option

if TYPE_CHECKING:
    from ecdctr.store.store import Store

ATTEMPTS = 5  # of judging, while others promote
JUDGING = ("evaluation.gate", "evaluation.noninferiority", "evaluation.stored")


def gate(config: Config, store: Store, challenger: Ref, date: dt.date) -> Verdict:
    """Judge an evaluated version, and promote it to `serving` unless there is a reason against it.

    Refused are: predictions that are all alike, calibration outside its bounds, parents that are
    too old, a version that served before or is older than what serves, and a version that is not
    shown to be within the margins (non-inferiority, docs/operations.md). A version waits where the
    data cannot tell, or the champion cannot be evaluated on the same days. Where the version does
    not serve, older ones that waited are judged, newest first, with the days that have come since;
    the first that passes serves. Every verdict is kept, and what the data said stands. Evaluations
    that do not rest on the data and code as they are now are made anew. When another version is
    promoted or a day delivered meanwhile, all is judged again. Raises StoreError when the version
    was not evaluated on `date`, TryAgain when others were faster each time, and what keeps the
    version from being judged; then the version waits, and the gate of a later one judges it.
    """
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(TryAgain, ContractError):
            return _gate(config, store, challenger, date)
    return _gate(config, store, challenger, date, last=True)


def let_wait(store: Store, challenger: Ref, date: dt.date, error: Exception) -> None:
    """Keep that a version could not be judged, so that it waits for the gate of a later one."""
    served = store.serving(challenger.experiment, challenger.level)
    serves = served is not None and served.ref == challenger
    stored = challenger in store.versions(challenger.experiment, challenger.level)
    if serves or not stored or challenger.date >= date:
        return
    reason = f"{challenger} could not be judged on {date}: {error}"
    said = store.verdicts(challenger)
    if said and said[-1]["reason"] == reason:  # asked again
        return
    examples: dict[str, str] = {}
    with contextlib.suppress(EcdctrError):  # a damaged evaluation may be the reason
        if evaluation := load(store, challenger, date):
            examples = {str(date): str(evaluation.content.get("examples", ""))}
    verdict = Verdict(Outcome.WAITING, reason, served.ref if served else None, examples)
    store.add_verdict(challenger, {"date": date, "passed": False, **verdict._asdict()})


@one_reading()  # each attempt has its own
def _gate(
    config: Config, store: Store, challenger: Ref, date: dt.date, last: bool = False
) -> Verdict:
    with store.in_use():
        served = store.serving(challenger.experiment, challenger.level)
        champion = served.ref if served else None
        if served:
            _keep_what_promoted(store, served)
        if champion == challenger:
            return Verdict(Outcome.SERVES, f"{challenger} serves already", champion)
        if store.evaluation(challenger, date) is None:
            raise StoreError(
                f"{challenger} was not evaluated on {date}; "
                f"run: ecdctr evaluate --date {date} --version {challenger}"
                f"{variant_option(store.manifest(challenger).variant)}"
            )
        try:
            verdict = _settle(config, store, challenger, served, date)
        except (EcdctrError, TryAgain) as error:
            if last or not isinstance(error, TryAgain | ContractError):
                let_wait(store, challenger, date, error)
                with contextlib.suppress(TryAgain):
                    _judge_waiting(config, store, challenger, served, date)
            raise
        if verdict.passed:
            return verdict
        notes = _judge_waiting(config, store, challenger, served, date)
        return verdict._replace(reason=". ".join([verdict.reason, *notes]))


def _keep_what_promoted(store: Store, served: AliasRecord) -> None:
    """Keep the verdict of a gate that was killed between the alias and the verdict.

    It is the one of the alias's record: the days may have been delivered again since.
    """
    if served.verdict and not any(said.get("passed") for said in store.verdicts(served.ref)):
        store.add_verdict(served.ref, served.verdict)


def _judge_waiting(
    config: Config, store: Store, challenger: Ref, served: AliasRecord | None, date: dt.date
) -> list[str]:
    """Judge the versions that waited, until one serves.

    Says which does, and which cannot be judged.
    """
    notes = []
    for older in _waiting(store, challenger, served.ref if served else None):
        try:
            passed = _settle(config, store, older, served, date).passed
        except EcdctrError as error:  # its own trouble; the others are judged all the same
            notes.append(f"{older}, which waits, cannot be judged: {error}")
            continue
        if passed:
            return [*notes, f"{older}, which waited, has passed meanwhile and serves"]
    return notes


def _waiting(store: Store, challenger: Ref, champion: Ref | None) -> list[Ref]:
    """Return versions of earlier dates, newer than the champion, whose last verdict was to wait.

    Newest first. Of a date only the newest version: it was trained again in place of the others.
    """
    newest = {
        ref.date: ref
        for ref in store.versions(challenger.experiment, challenger.level)
        if ref.date < challenger.date and (champion is None or ref.age > champion.age)
    }
    waiting = []
    for _, ref in sorted(newest.items(), reverse=True):
        verdicts = store.verdicts(ref)
        if verdicts and verdicts[-1]["outcome"] == Outcome.WAITING:
            waiting.append(ref)
    return waiting


def _settle(
    config: Config, store: Store, challenger: Ref, served: AliasRecord | None, date: dt.date
) -> Verdict:
    """Judge a version, keep the verdict, and let it serve if it passed.

    It does not serve where another one was promoted meanwhile.
    """
    champion = served.ref if served else None
    store.check_manifest(challenger)
    standing = _standing(config, store, challenger, champion)
    if standing:
        return standing
    verdict = _judge(config, store, challenger, champion, date)
    kept = {"id": uuid.uuid4().hex, "date": date, "passed": verdict.passed, **verdict._asdict()}
    if verdict.passed:  # first: a verdict that passed is kept only of what served
        number = served.number if served else 0
        store.set_alias(SERVING, challenger, verdict.reason, Kind.GATE, number, kept)
    store.add_verdict(challenger, kept)
    return verdict


def _standing(
    config: Config, store: Store, challenger: Ref, champion: Ref | None
) -> Verdict | None:
    """Return the refusal by the data that stands.

    Data, champion, settings and the code that evaluates and judges are what they were.
    """
    if champion is None:
        return None
    asked = [str(part) for part in champion], _rule(config)
    for said in reversed(store.verdicts(challenger)):
        if said["outcome"] == Outcome.REFUSED and (said["champion"], said.get("rule")) == asked:
            days = [dt.date.fromisoformat(day) for day in said["examples"]]
            now = {str(day): basis_now(config, challenger, day).examples for day in days}
            if now == said["examples"]:
                reason = f"{said['reason']} (so judged on {said['date']}; a version is judged once)"
                figures = said["power"], said["needed_days"], said["rule"]
                return Verdict(Outcome.REFUSED, reason, champion, now, *figures)
    return None


def _rule(config: Config) -> str:
    settings = config.evaluation.model_dump(mode="json")
    gate = {name: value for name, value in settings.items() if name.startswith("gate_")}
    judging = code_digest(["evaluation.gate"], JUDGING)
    parts = [
        gate,
        config.evaluation.bootstrap_samples,
        config.seed,
        evaluating_code(),
        judging,
    ]
    return digest(parts)[:20]


def _judge(
    config: Config, store: Store, challenger: Ref, champion: Ref | None, date: dt.date
) -> Verdict:
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
        return Verdict(Outcome.REFUSED, reason, champion, examples, rule=_rule(config))
    if champion is None:
        metrics = ours.content["metrics"]["all"]
        text = (
            f"first to serve, compared with nothing; calibration {metrics['calibration']:.2f} on "
            f"{metrics['impressions']:,.0f} impressions of {date}"
        )
        return Verdict(Outcome.FIRST, text, None, examples, rule=_rule(config))
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
        _rule(config),
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
