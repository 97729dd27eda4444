"""Which version was the newest one on a date."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING

from ecdctr.config.terms import DEFAULT, PRODUCTION
from ecdctr.errors import StoreError
from ecdctr.files.urls import looks_like_url
from ecdctr.store.documents import read_document
from ecdctr.store.manifest import variant_option
from ecdctr.store.places import place, ref_of
from ecdctr.store.versions import Versions, newest_of

if TYPE_CHECKING:
    from ecdctr.store.manifest import Ref
    from ecdctr.store.storage import Listing


class Resolving(Versions):
    """Resolving as of a date."""

    def resolve(
        self, level: str, as_of: dt.date, experiment: str = PRODUCTION, from_older: bool = False
    ) -> Ref | None:
        """Return the newest version whose data ends on or before `as_of`.

        It is one of this experiment, or else of its parent. Raises StoreError where retention has
        removed it, unless an older one will do.
        """
        current: str | None = experiment
        while current:
            newest = self.newest_as_of(current, level, as_of, from_older)
            if newest:
                return newest
            current = self.parent_of(current)
        return None

    def require(
        self,
        level: str,
        as_of: dt.date,
        experiment: str = PRODUCTION,
        variant: str = DEFAULT,
        from_older: bool = False,
    ) -> Ref:
        """Resolve, but raise StoreError for a missing version, which says how to make one.

        `variant` is that of whoever asks: the missing version has to be made with the same.
        """
        ref = self.resolve(level, as_of, experiment, from_older)
        if ref is None:
            raise StoreError(
                f"No {level} version with data date on or before {as_of} in experiment "
                f"'{experiment}' or its parents ({self._where()}); make one with: ecdctr train "
                f"{level} --date {as_of} --experiment {experiment}{variant_option(variant)}"
            )
        return ref

    def _where(self) -> str:
        """Name the store, and say so where there is none yet: its name may be mistyped."""
        there = looks_like_url(self.root) or Path(self.root).is_dir()
        return f"{self.root}" if there else f"{self.root}, a folder that is not there"

    def newest_as_of(
        self, experiment: str, level: str, as_of: dt.date, from_older: bool = False
    ) -> Ref | None:
        """Return the version of the experiment itself that was the newest one on a date.

        Where retention has removed it, one that is left of the same date and fingerprint is as
        good. Raises StoreError where none is, unless an older one will do.
        """
        listing = self.listing(experiment, level)
        newest = newest_of(listing, experiment, level, as_of)
        lost = None if from_older else _lost(listing, experiment, level, as_of, newest)
        if lost is None:
            return newest
        content = self.storage.removed(*place(lost)) or b"{}"
        note = read_document(content, f"The note on the removal of {lost} in {self.root}")
        if same := self.find(experiment, level, lost.date, note.get("fingerprint", "")):
            return same.ref
        force = " --force" if newest and newest.date == lost.date else ""  # else it may be taken up
        options = note.get("options", variant_option(note.get("variant", DEFAULT)))
        raise StoreError(
            f"What was known of {level} on {as_of} in experiment '{experiment}' is {lost}, which "
            f"was removed ({note.get('reason', 'store gc')}, {note.get('at', 'nobody knows when')})"
            f"; left before it is {newest or 'none'}, from which the same run would end in another "
            f"version; make it again (ecdctr train {level} --date {lost.date} --experiment "
            f"{experiment}{options}{force}), or let `ecdctr train` start from what is left: "
            "--from-older."
        )


def _lost(
    listing: Listing, experiment: str, level: str, as_of: dt.date, left: Ref | None
) -> Ref | None:
    """Return the newest version up to a date that retention removed, if it is newer."""
    since = left.date if left else dt.date.min
    removals = listing.removals(since.isoformat(), as_of.isoformat())
    removed = [ref for name in removals if (ref := ref_of(experiment, level, name))]
    newest = max(removed, key=lambda ref: ref.age, default=None)
    return newest if newest and (left is None or newest.age > left.age) else None
