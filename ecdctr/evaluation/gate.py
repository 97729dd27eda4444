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
import uuid
from typing import TYPE_CHECKING

from ecdctr.errors import ContractError, EcdctrError, StoreError, TryAgain
from ecdctr.evaluation.basis import basis_now
from ecdctr.evaluation.gate_rule import judge, rule_of
from ecdctr.evaluation.stored import load
from ecdctr.evaluation.verdict import Outcome, Verdict
from ecdctr.impressions.reading import one_reading
from ecdctr.store.aliases import SERVING, AliasRecord, Kind
from ecdctr.store.manifest import Ref, variant_option

if TYPE_CHECKING:
    from ecdctr.config import Config
    from ecdctr.store.store import Store

ATTEMPTS = 5  # of judging, while others promote


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
    verdict = judge(config, store, challenger, champion, date)
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
    asked = [str(part) for part in champion], rule_of(config)
    for said in reversed(store.verdicts(challenger)):
        if said["outcome"] == Outcome.REFUSED and (said["champion"], said.get("rule")) == asked:
            days = [dt.date.fromisoformat(day) for day in said["examples"]]
            now = {str(day): basis_now(config, challenger, day).examples for day in days}
            if now == said["examples"]:
                reason = f"{said['reason']} (so judged on {said['date']}; a version is judged once)"
                figures = said["power"], said["needed_days"], said["rule"]
                return Verdict(Outcome.REFUSED, reason, champion, now, *figures)
    return None
