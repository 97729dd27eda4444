"""Whether a version's files are what was published."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from ecdctr.errors import StoreError
from ecdctr.files import durable
from ecdctr.store import deltas
from ecdctr.store.places import place
from ecdctr.store.versions import Versions

if TYPE_CHECKING:
    from ecdctr.store.manifest import Manifest, Ref

DIFFERS = "manifest.json differs from its digest"


class Soundness(Versions):
    """Versions compared with their manifests."""

    def check_manifest(self, ref: Ref) -> None:
        """Compare a version's manifest with its digest before something is decided by it.

        Reads none of its other files. Raises StoreError that names the version.
        """
        manifest = self.manifest(ref)
        digest = self.storage.file(*place(ref), "manifest.sha256")
        content = self.storage.file(*place(ref), "manifest.json") or b""
        if digest != hashlib.sha256(content).hexdigest().encode():
            raise StoreError(f"{ref}: {DIFFERS}; train it again: {_training(ref, manifest)}.")

    def check(self, ref: Ref) -> None:
        """Re-hash a version's files before something is built on them.

        Raises StoreError that names the damaged one.
        """
        problems = self.damages(ref)
        if problems:
            raise StoreError(" ".join(problems))

    def damages(self, ref: Ref) -> list[str]:
        """Re-hash a version's files; one sentence per file that is not what was published."""
        try:
            manifest = self.manifest(ref)
        except StoreError as error:
            mend = f"train it again, with the variant and seed that it had: {_training(ref)}."
            return [f"{error} If it is damaged, {mend}"]
        mend = f"train it again: {_training(ref, manifest)}."
        try:
            folder = self.path(ref)
            if broken := self._broken_deltas(ref):
                raise StoreError(f"{', '.join(broken)} differ from what was published.")
        except StoreError as error:  # damaged before it was copied here
            return [f"{ref}: {error} If it stays so, {mend}"]
        problems = []
        digest = folder / "manifest.sha256"
        sealed = digest.read_bytes() if digest.is_file() else b""
        if sealed != durable.sha256(folder / "manifest.json").encode():
            problems.append(f"{ref}: {DIFFERS}; {mend}")
        for name, entry in manifest.files.items():
            path = folder / name
            if not path.is_file():
                problems.append(f"{ref}: file {name} is missing; {mend}")
            elif durable.sha256(path) != entry.sha256:
                problems.append(f"{ref}: file {name} differs from its manifest; {mend}")
        return problems

    def _broken_deltas(self, ref: Ref) -> list[str]:
        """Return the stored changes that are damaged, though a whole copy may lie in the cache."""
        changes = self.changes(ref)
        return deltas.damages(self.storage.folder(*place(ref)), changes) if changes else []


def _training(ref: Ref, manifest: Manifest | None = None) -> str:
    """Return the command that makes a version again, as far as is known what it was made with."""
    options = manifest.options if manifest else ""
    return (
        f"ecdctr train {ref.level} --date {ref.date} --experiment {ref.experiment}{options} --force"
    )
