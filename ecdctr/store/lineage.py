"""What a version descends from, and whether all of a store is sound."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ecdctr.config.terms import LEVELS
from ecdctr.errors import StoreError, lacks_room
from ecdctr.store.aliases import ALIASES, Aliases
from ecdctr.store.places import place

if TYPE_CHECKING:
    from collections.abc import Callable

    from ecdctr.store.manifest import Manifest, Ref


class Lineage(Aliases):
    """Lineage and verification."""

    def lineage(self, ref: Ref) -> dict[Ref, Manifest]:
        """Return the version and all it descends from that retention has left, nearest first.

        Raises StoreError if one is missing that retention has not taken away.
        """
        manifests = {ref: self.manifest(ref)}
        queue = [(parent, ref) for parent in manifests[ref].parent_refs]
        while queue:
            current, child = queue.pop(0)
            if current in manifests or self.removed(current):
                continue
            if self._is_lost(current):
                raise StoreError(_lost_parent(child, current))
            manifests[current] = self.manifest(current)
            queue += [(parent, current) for parent in manifests[current].parent_refs]
        return manifests

    def removed(self, ref: Ref) -> bool:
        """Tell whether retention has taken a version away."""
        return self.storage.removed(*place(ref)) is not None

    def verify(self) -> list[str]:
        """Re-hash every file of every version, read every alias; one sentence per problem."""
        problems = []
        for experiment in self.experiments():
            for level in LEVELS:
                for alias in ALIASES:
                    problems += _each(partial(self._verify_alias, alias, experiment, level))
                for ref in self.versions(experiment, level):
                    problems += _each(partial(self._verify_version, ref))
        return problems

    def _verify_alias(self, alias: str, experiment: str, level: str) -> list[str]:
        """Read an alias's records, and look whether the version that it points at is there."""
        try:
            history = self.alias_history(alias, experiment, level)
        except StoreError as error:
            return [str(error)]
        ref = history[-1].ref if history else None
        if not ref or not self._is_lost(ref):
            return []
        mend = "put it back from a copy, or set the alias anew: ecdctr store promote VERSION"
        return [f"{ref}, at which '{alias}' points, is missing; {mend}."]

    def _is_lost(self, ref: Ref) -> bool:
        """Tell whether a version is gone that retention has not taken away."""
        return self.storage.file(*place(ref), "manifest.json") is None and not self.removed(ref)

    def _verify_version(self, ref: Ref) -> list[str]:
        problems = self.damages(ref)
        try:
            manifest = self.manifest(ref)
        except StoreError:
            return problems
        return problems + [
            _lost_parent(ref, parent) for parent in manifest.parent_refs if self._is_lost(parent)
        ]


def _lost_parent(ref: Ref, parent: Ref) -> str:
    return (
        f"{ref}: its parent {parent} is missing; put it back from a copy, or train this "
        "version again with --force."
    )


def _each(look: Callable[[], list[str]]) -> list[str]:
    """Return what a look finds; a file that cannot be read is damage, and no end of the others.

    Raises OSError for what is none of a file: no memory, no room for files that are open.
    """
    try:
        return look()
    except OSError as error:
        if error.filename is None or lacks_room(error):
            raise
        mend = "put it back from a copy, or train the version again"
        return [f"{error.filename} cannot be read ({error.strerror}); {mend}."]
