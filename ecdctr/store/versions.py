"""Which versions and experiments there are, and what each says of itself."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ecdctr.config.terms import LEVELS, PRODUCTION
from ecdctr.errors import StoreError, first_line, first_problem
from ecdctr.files import durable
from ecdctr.store import deltas
from ecdctr.store.documents import COPY, read_document
from ecdctr.store.manifest import SCHEMA_VERSION, Manifest, Ref
from ecdctr.store.places import check_name, group_of, place, ref_of
from ecdctr.store.storage import Listing, open_storage

if TYPE_CHECKING:
    from ecdctr.store.deltas import Changes


class Versions:
    """What lies under a root, and who uses it.

    Versions lie at <root>/<experiment>/<level>/<data date>/<version>/.
    """

    def __init__(self, root: Path | str) -> None:
        self.storage = open_storage(root)

    @property
    def root(self) -> Any:
        """Where the store lies: a path, or a URL as text."""
        return self.storage.root

    def create_experiment(self, name: str, parent: str = PRODUCTION) -> None:
        """Declare an experiment whose resolves fall back to its parent; production has none.

        Raises StoreError for a bad name, or when it exists with another parent.
        """
        check_name(name)
        if name == PRODUCTION or self.storage.add_experiment(
            name, json.dumps({"parent": parent}).encode()
        ):
            return
        existing = self.parent_of(name)
        if existing != parent:
            raise StoreError(
                f"Experiment '{name}' has parent '{existing}', not '{parent}'; choose another name."
            )

    def parent_of(self, experiment: str) -> str | None:
        """Return the experiment where a resolve goes on, None at production."""
        if experiment == PRODUCTION:
            return None
        check_name(experiment)
        content = self.storage.read(f"{experiment}/experiment.json")
        if not content:
            return PRODUCTION
        where = f"{self.root}/{experiment}/experiment.json"
        return str(read_document(content, where, COPY, "parent")["parent"])

    def every_version(self) -> list[Ref]:
        """Return all versions by experiment, level, date and number."""
        return [
            ref
            for experiment in self.experiments()
            for level in LEVELS
            for ref in self.versions(experiment, level)
        ]

    def experiments(self) -> list[str]:
        """Return names of all experiments that hold something, sorted."""
        return self.storage.experiments()

    @contextlib.contextmanager
    def in_use(self, reads_only: bool = False) -> Iterator[None]:
        """Keep what reads or writes from removals; may be nested."""
        with self.storage.in_use(reads_only):
            yield

    @contextlib.contextmanager
    def exclusively(self, what: str) -> Iterator[None]:
        """Keep everything from training and evaluating; raises StoreError if something does now."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.storage.exclusively())
            except BlockingIOError as error:
                raise StoreError(f"Cannot {what} in {self.root}: {error}.") from None
            yield

    def path(self, ref: Ref) -> Path:
        """Return a folder on this machine with a version's whole files.

        One that is stored as changes is put together in the cache. Raises StoreError where it
        cannot be, or is damaged in a bucket.
        """
        stored = self.storage.folder(*place(ref))
        try:
            return self._put_together(ref, stored) if (stored / deltas.NAME).exists() else stored
        except (StoreError, FileNotFoundError):
            stored = self.storage.folder(*place(ref))
            if (stored / deltas.NAME).exists():
                raise
            return stored  # retention made it whole meanwhile

    def _put_together(self, ref: Ref, stored: Path) -> Path:
        changes = deltas.read((stored / deltas.NAME).read_bytes(), ref)
        manifest = self.manifest(ref)
        digests = {name: entry.sha256 for name, entry in manifest.files.items()}

        def fill(target: Path) -> None:
            base = self._base(ref, changes)
            deltas.put_together(stored, changes, manifest, base, target)

        return self.storage.cache.folder(
            f"whole/{ref}", fill, lambda target: durable.has_files(target, digests)
        )

    def _base(self, ref: Ref, changes: Changes) -> Path:
        """Return the whole files that a version's changes are against; raises StoreError."""
        try:
            before = self.changes(changes.ref)
            if before and before.links >= changes.links:
                raise StoreError(f"it is itself the end of {before.links} links.")
            return self.sound(changes.ref, changes.files)
        except StoreError as error:
            raise StoreError(
                f"{ref} is stored as changes against {changes.base}, which cannot be used: "
                f"{first_line(error)}"
            ) from None

    def sound(self, ref: Ref, names: Iterable[str]) -> Path:
        """Return a version's folder once files of it were compared with what was published.

        Raises StoreError that names the one which is missing or damaged.
        """
        files, folder = self.manifest(ref).files, self.path(ref)
        for name in names:
            if name not in files or not durable.has_files(folder, {name: files[name].sha256}):
                raise StoreError(f"{ref}/{name} is missing or damaged.")
        return folder

    def changes(self, ref: Ref) -> Changes | None:
        """Return what a version is stored against, None where it is stored whole."""
        content = self.storage.read("/".join((*place(ref), deltas.NAME)))  # no copy of a while ago
        return None if content is None else deltas.read(content, ref)

    def stored_bytes(self, ref: Ref, manifest: Manifest) -> int:
        """Return what a version's files take in the store."""
        changes = self.changes(ref)
        smaller = changes.files if changes else {}
        whole = sum(manifest.files[name].bytes for name in smaller)
        return manifest.total_bytes - whole + sum(one.bytes for one in smaller.values())

    def manifest(self, ref: Ref) -> Manifest:
        """Read a version's manifest.

        Raises StoreError if it is missing, unreadable, or another version's.
        """
        where = f"{self.root}/{ref}/manifest.json"
        content = self.storage.file(*place(ref), "manifest.json")
        if content is None:
            if place(ref)[1] in self.listing(ref.experiment, ref.level).names():
                raise StoreError(
                    f"{where} is missing from a version that is there; put it back from a copy"
                    f"{', or remove its folder' if isinstance(self.root, Path) else ''}."
                )
            raise StoreError(f"No version {ref} in {self.root} (see: ecdctr store list).")
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            if any(each["loc"] == ("schema_version",) for each in error.errors()):
                raise StoreError(
                    f"{where} is not of the format {SCHEMA_VERSION} that this release reads "
                    "(schema_version); use the release that wrote it, or train the version again "
                    "with --force."
                ) from None
            raise StoreError(
                f"{where} cannot be read: {first_problem(error)}; put it back from a copy, or "
                "train the version again with --force."
            ) from None
        if manifest.ref != ref:
            raise StoreError(f"{where} cannot be read: it says that it is {manifest.ref}.")
        return manifest

    def versions(self, experiment: str, level: str) -> list[Ref]:
        """Return all versions of a level, oldest data date and number first."""
        return list(refs_of(self.listing(experiment, level), experiment, level))[::-1]

    def newest(self, experiment: str, level: str, as_of: dt.date = dt.date.max) -> Ref | None:
        """Return the version with the newest data date, up to `as_of`, of the experiment itself.

        The manifests of other experiments are not read.
        """
        return newest_of(self.listing(experiment, level), experiment, level, as_of)

    def find(self, experiment: str, level: str, date: dt.date, fingerprint: str) -> Manifest | None:
        """Return the newest finished version of that date with that fingerprint."""
        for ref in refs_of(self.listing(experiment, level), experiment, level):
            if ref.date < date:
                break
            if ref.date == date and (manifest := self.manifest(ref)).fingerprint == fingerprint:
                return manifest
        return None

    def listing(self, experiment: str, level: str) -> Listing:
        """Return which versions a level has and had, read once."""
        return self.storage.listing(group_of(experiment, level))


def refs_of(listing: Listing, experiment: str, level: str) -> Iterator[Ref]:
    """Yield the versions of a listing, newest date and number first."""
    for name in listing.names():
        if ref := ref_of(experiment, level, name):
            yield ref


def newest_of(listing: Listing, experiment: str, level: str, as_of: dt.date) -> Ref | None:
    """Return the version of a listing with the newest data date, up to `as_of`."""
    return next((ref for ref in refs_of(listing, experiment, level) if ref.date <= as_of), None)
