"""How a folder becomes a version."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ecdctr.files import durable
from ecdctr.store import deltas
from ecdctr.store.manifest import Base, FileEntry, Manifest, Ref
from ecdctr.store.places import check_name, place
from ecdctr.store.versions import Versions


class Publishing(Versions):
    """Publishing, all or nothing."""

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Make a private folder to build a version in; removed if it was not published.

        Nothing is removed meanwhile.
        """
        folder = self.storage.local / ".staging" / uuid.uuid4().hex
        with self.in_use():
            durable.make_dir(folder)
            try:
                with durable.naming(folder):
                    yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def progress(self, fingerprint: str) -> Path:
        """Return where a training with this fingerprint saves how far it is."""
        return self.storage.local / ".progress" / f"{fingerprint}.safetensors"

    def publish(
        self, folder: Path, manifest: Manifest, force: bool = False, base: Base | None = None
    ) -> Manifest:
        """Make a staged folder a version, all or nothing; returns the manifest as stored.

        Two writers never share a number. A finished version with the same fingerprint wins over the
        new one unless `force`. With a base its files are stored as changes against that one's,
        where that pays and the chain is not too long. Raises StoreError where the base is damaged.
        """
        check_name(manifest.experiment)
        entries = {
            name: FileEntry(sha256=digest, bytes=(folder / name).stat().st_size)
            for name, digest in durable.digests(folder).items()
        }
        if base:
            self._shrink(folder, entries, base)
        stored = manifest.model_copy(update={"files": entries})
        finished: list[Manifest] = []

        def seal(version: str) -> None:
            nonlocal stored
            stored = stored.model_copy(update={"version": version})
            durable.write_bytes(folder / "manifest.json", stored.model_dump_json(indent=1).encode())
            durable.write_bytes(
                folder / "manifest.sha256", durable.sha256(folder / "manifest.json").encode()
            )

        def is_finished() -> bool:
            same = self.find(
                manifest.experiment, manifest.level, manifest.data_date, manifest.fingerprint
            )
            finished[:] = [same] if same and not force else []
            return bool(finished)

        group = f"{manifest.experiment}/{manifest.level}"
        version = self.storage.add(folder, group, manifest.data_date.isoformat(), seal, is_finished)
        return finished[0] if version is None else stored

    def make_whole(self, ref: Ref) -> None:
        """Store whole what is stored as changes; for whoever has the store alone."""
        changes, folder = self.changes(ref), self.path(ref)
        if changes:
            gone = [deltas.NAME, *changes.stored]
            self.storage.amend(*place(ref), folder, list(changes.files), gone)

    def _shrink(self, folder: Path, entries: dict[str, FileEntry], base: Base) -> None:
        before = self.changes(base.ref)
        links = 1 + (before.links if before else 0)
        if links <= base.max_links:
            names = deltas.shrinkable(entries, self.manifest(base.ref).files)
            deltas.shrink(folder, names, entries, self.sound(base.ref, names), base.ref, links)
