"""Which version is the candidate and which one serves, and what was before."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from enum import StrEnum
from typing import Any, NamedTuple

from ecdctr.config.terms import PRODUCTION
from ecdctr.errors import StoreError, TryAgain
from ecdctr.files.urls import no_utf8
from ecdctr.store.documents import read_document
from ecdctr.store.manifest import Ref
from ecdctr.store.places import group_of
from ecdctr.store.soundness import Soundness

CANDIDATE, SERVING = "candidate", "serving"
ALIASES = (CANDIDATE, SERVING)
BY_HAND = "promote another by hand: ecdctr store promote VERSION"
SHOWN = 80  # letters of a reason in a refusal
ADVANCES = 20  # tries, against others who set the same alias


class Kind(StrEnum):
    """What made an alias point where it points."""

    TRAIN = "train"
    GATE = "gate"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class AliasRecord(NamedTuple):
    """One line of an alias's history; `reason` is for people, `kind` for code.

    `verdict` is the gate's, as it keeps it beside the version right after; None of any other kind.
    """

    number: int
    ref: Ref
    at: str
    reason: str
    kind: Kind
    verdict: dict[str, Any] | None = None


class Aliases(Soundness):
    """Aliases, whose records only grow."""

    def set_alias(
        self,
        alias: str,
        ref: Ref,
        reason: str,
        kind: Kind = Kind.PROMOTE,
        after: int | None = None,
        verdict: dict[str, Any] | None = None,
    ) -> AliasRecord:
        """Point an alias of the version's experiment and level at it; the history is kept.

        With `after` it does so only if the alias's newest record still has that number (0: there is
        none). `verdict` lies in the record, so that who is killed before keeping it can keep it
        later. Raises StoreError for an unknown alias, a reason that no page could show, a version
        that is not there, and one that is to serve past the gate and is damaged, TryAgain for a
        record that came in between.
        """
        if alias not in ALIASES:
            raise StoreError(f"Unknown alias '{alias}'; aliases are {', '.join(ALIASES)}.")
        if no_utf8(reason):
            raise StoreError(
                f"The reason {reason[:SHOWN]!a} is no UTF-8, so that no page could show it; write "
                "it in the terminal's encoding."
            )
        at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        record = {"id": uuid.uuid4().hex, "ref": str(ref), "at": at, "reason": reason, "kind": kind}
        content = json.dumps(record | ({"verdict": verdict} if verdict else {}), default=str)
        log = f"{group_of(ref.experiment, 'aliases')}/{ref.level}/{alias}"
        with self.in_use():  # nothing is removed between the look and the record
            if alias == SERVING and kind != Kind.GATE:  # which has just scored with it
                self.check(ref)
            else:
                self.manifest(ref)
            number = self.storage.append(log, content.encode(), after)
        if number is None:
            newest = self.alias_record(alias, ref.experiment, ref.level)
            now = f"set to {newest.ref} meanwhile ({newest.reason})" if newest else "never set"
            raise TryAgain(
                f"'{alias}' of {ref.experiment}/{ref.level} was {now}; {ref} was not set. Run the "
                "command again."
            )
        return AliasRecord(number, ref, at, reason, kind, verdict)

    def advance(self, alias: str, ref: Ref, reason: str, kind: Kind) -> None:
        """Point an alias at a version unless it points at a newer one, as often as others set it.

        Raises TryAgain when others were faster each time.
        """
        for attempt in range(ADVANCES):
            newest = self.alias_record(alias, ref.experiment, ref.level)
            if newest and newest.ref.age >= ref.age:
                return
            try:
                self.set_alias(alias, ref, reason, kind, newest.number if newest else 0)
                return
            except TryAgain:
                if attempt == ADVANCES - 1:
                    raise

    def alias_history(
        self, alias: str, experiment: str = PRODUCTION, level: str = "actr", newest: int = 0
    ) -> list[AliasRecord]:
        """Return records of an alias, oldest first: so many of the newest, 0 for all."""
        log = f"{group_of(experiment, 'aliases')}/{level}/{alias}"
        records = self.storage.records(log, newest)
        return [_alias_record(f"{self.root}/{log}", number, text) for number, text in records]

    def alias_record(
        self, alias: str, experiment: str = PRODUCTION, level: str = "actr"
    ) -> AliasRecord | None:
        """Return the newest record of an alias, None if it was never set."""
        records = self.alias_history(alias, experiment, level, newest=1)
        return records[-1] if records else None

    def alias(self, alias: str, experiment: str = PRODUCTION, level: str = "actr") -> Ref | None:
        """Return the version an alias points at, None if it was never set."""
        record = self.alias_record(alias, experiment, level)
        return record.ref if record else None

    def serving(self, experiment: str = PRODUCTION, level: str = "actr") -> AliasRecord | None:
        """Return the newest record of `serving`, None if nothing ever served."""
        return self.alias_record(SERVING, experiment, level)

    def rollback(self, experiment: str = PRODUCTION, level: str = "actr") -> AliasRecord:
        """Point `serving` back at the version that served before the present one.

        A rollback undoes one promotion: repeated, it walks further back. Raises StoreError if
        nothing is left, or that version is gone or damaged, TryAgain when `serving` was set
        meanwhile.
        """
        history = self.alias_history(SERVING, experiment, level)
        stack = served_before(history)
        if len(stack) < 2:
            raise StoreError(
                f"No earlier serving {level} in experiment '{experiment}' to roll back to; "
                f"{BY_HAND}."
            )
        reason = f"rollback from {stack[-1]}"
        try:
            return self.set_alias(SERVING, stack[-2], reason, Kind.ROLLBACK, history[-1].number)
        except StoreError as error:
            raise StoreError(
                f"'serving' stays at {stack[-1]}, since the one before cannot serve: {error} Or "
                f"{BY_HAND}."
            ) from None


def served_before(history: list[AliasRecord]) -> list[Ref]:
    """Return what a rollback walks back through, the present version last.

    Promotions push, a rollback pops.
    """
    stack: list[Ref] = []
    for record in history:
        if record.kind == Kind.ROLLBACK and record.ref in stack:
            while stack[-1] != record.ref:
                stack.pop()
        elif not stack or stack[-1] != record.ref:
            stack.append(record.ref)
    return stack


def _alias_record(log: str, number: int, content: bytes) -> AliasRecord:
    """Return a record as stored; raises StoreError for a damaged one.

    Records of older stores have no kind, and only a rollback wrote 'rollback from VERSION'.
    """
    what = f"Record {number} of {log}"
    mend = "put it back from a copy, or set the alias anew: ecdctr store promote VERSION"
    raw = read_document(content, what, mend, "ref", "at", "reason")
    texts = [raw[key] for key in ("ref", "at", "reason")]
    kind = raw.get("kind")
    if not all(isinstance(text, str) for text in texts) or kind not in (None, *Kind):
        raise StoreError(f"{what} is damaged (it is not what was written); {mend}.")
    if kind is None:
        before = raw["reason"].removeprefix("rollback from ")
        undone = before != raw["reason"] and len(before.split("/")) == 4
        kind = Kind.ROLLBACK if undone else Kind.PROMOTE
    ref = Ref.parse(raw["ref"])
    return AliasRecord(number, ref, raw["at"], raw["reason"], Kind(kind), raw.get("verdict"))
