"""Which versions may go, and how they are taken away.

No reader, rollback or later number is misled.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.config.terms import LEVELS
from ecdctr.errors import StoreError
from ecdctr.store.aliases import ALIASES, served_before
from ecdctr.store.manifest import Ref
from ecdctr.store.results import WAITS

if TYPE_CHECKING:
    from ecdctr.store.store import Store

ABANDONED = dt.timedelta(days=7)


class Removable(NamedTuple):
    """A version that nothing kept needs."""

    ref: Ref
    bytes: int


def removable(store: Store, keep: int, snapshot_days: int) -> list[Removable]:
    """Return what retention would remove, oldest first.

    Kept are: of each experiment and level the newest `keep` versions; what an alias points at, what
    it pointed at before, and what a rollback would lead to; what waits for the gate and is newer
    than what serves; TPM versions of the last
    `snapshot_days` before the newest and the one before them, which the next consumers resolve; and
    everything that these descend from. Of a chain, in which each version goes on from the one
    before it, that is the version before and no further: else nothing would ever go. Raises
    StoreError where the records of what serves are not there, as in a copy of a part of a store.
    """
    manifests = {ref: store.manifest(ref) for ref in store.every_version()}
    kept: set[Ref] = set()
    for experiment in store.experiments():
        for level in LEVELS:
            refs = [ref for ref in manifests if (ref.experiment, ref.level) == (experiment, level)]
            kept.update(refs[-keep:])
            if level == "tpm" and refs:
                oldest = refs[-1].date - dt.timedelta(days=snapshot_days)
                recent = [ref for ref in refs if ref.date >= oldest]
                kept.update(recent, refs[: len(refs) - len(recent)][-1:])
            histories = [store.alias_history(alias, experiment, level) for alias in ALIASES]
            if level == "actr" and len(refs) > keep and not any(histories):
                raise StoreError(_without_aliases(store, refs[0]))
            for history in histories:
                kept.update(list(dict.fromkeys(r.ref for r in reversed(history)))[:2])
                kept.update(served_before(history)[-2:])
            kept.update(ref for ref in refs if _waits(store, ref))
    waiting, done = list(kept), set[Ref]()
    while waiting:
        child = waiting.pop()
        if child in manifests and child not in done:
            done.add(child)
            parents = manifests[child].parent_refs
            kept.update(parents)
            waiting += [parent for parent in parents if parent.level != child.level]
    return [
        Removable(ref, store.stored_bytes(ref, manifest))
        for ref, manifest in manifests.items()
        if ref not in kept
    ]


def _without_aliases(store: Store, oldest: Ref) -> str:
    """Say that training has recorded each version as the candidate, but no record is there."""
    return (
        f"{store.root}/{oldest.experiment}/aliases holds no record of {oldest.level}, so that "
        f"nothing says which version serves, and {oldest} would go: put the folder aliases back "
        "from where the store was copied from, or name what serves: ecdctr store promote VERSION."
    )


def outdated(store: Store, days: int) -> list[tuple[Ref, dt.date]]:
    """Return evaluations on other than the newest `days` days, of each experiment and level.

    Those of a version that an alias points at stay: gate and pages compare with them.
    """
    judged_before = []
    for experiment in store.experiments():
        for level in LEVELS:
            evaluated = list(store.evaluated(experiment, level))
            if not evaluated:
                continue
            newest = max(date for date, _ in evaluated)
            named = {store.alias(alias, experiment, level) for alias in ALIASES}
            judged_before += [
                (ref, date)
                for date, ref in evaluated
                if (newest - date).days >= days and ref not in named
            ]
    return judged_before


def forget_evaluations(store: Store, days: int) -> list[tuple[Ref, dt.date]]:
    """Take away what `outdated` names, with the verdicts on versions of which nothing is left.

    Raises StoreError while something reads, trains or sets an alias in this store.
    """
    with store.exclusively("remove evaluations"):
        going = outdated(store, days)
        for ref, date in going:
            store.drop_evaluation(ref, date)
        _drop_verdicts(store, {ref for ref, _ in going})
    return going


def remove(store: Store, keep: int, snapshot_days: int, reason: str) -> tuple[list[Removable], int]:
    """Take away what retention would remove, children first; returns what went and the bytes freed.

    Looked for and taken while nothing else uses the store, so that an alias set in between, or a
    version that goes on from another, is seen. A version disappears whole, and its number is never
    given again. What killed processes left behind goes, too: half-built versions, and trainings
    that nobody took up for a week. Raises StoreError while something reads, trains or sets an alias
    in this store.
    """
    freed = 0
    with store.exclusively("remove versions"):
        versions = removable(store, keep, snapshot_days)
        _make_whole(store, {one.ref for one in versions})
        for ref, size in reversed(versions):
            at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
            manifest = store.manifest(ref)
            said = {"ref": str(ref), "at": at, "reason": reason, "options": manifest.options}
            said["fingerprint"] = manifest.fingerprint  # another version of it is as good
            note = json.dumps(said).encode()
            if store.storage.remove(
                f"{ref.experiment}/{ref.level}", f"{ref.date}/{ref.version}", note
            ):
                freed += size
        _drop_verdicts(store, {ref for ref, _ in versions})
        freed += store.storage.clean(ABANDONED.total_seconds())
    return versions, freed


def _make_whole(store: Store, going: set[Ref]) -> None:
    """Store versions that stay whole where what their changes are against goes.

    Raises StoreError where one cannot be put together; then nothing is removed.
    """
    for ref in store.every_version():
        changes = None if ref in going else store.changes(ref)
        if changes and changes.ref in going:
            store.make_whole(ref)


def _drop_verdicts(store: Store, refs: set[Ref]) -> None:
    """Take away the verdicts on those versions that are gone, and all their evaluations, too."""
    left: set[Ref] = set()
    for experiment, level in {(ref.experiment, ref.level) for ref in refs}:
        left.update(ref for _, ref in store.evaluated(experiment, level))
        left.update(store.versions(experiment, level))
    for ref in refs - left:
        store.drop_verdicts(ref)


def _waits(store: Store, ref: Ref) -> bool:
    """Tell whether a version waits for the gate of a later one: it may serve yet."""
    served = store.serving(ref.experiment, ref.level)
    if served and served.ref.age >= ref.age:
        return False
    verdicts = store.verdicts(ref)
    return bool(verdicts) and verdicts[-1]["outcome"] == WAITS
