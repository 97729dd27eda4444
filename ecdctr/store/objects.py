"""A store on object storage (S3 and what speaks its protocol, GCS, Azure).

Conditional writes decide what is there. Each group has an index, one small object that lists its
folders. A folder is there when the index names it, and the index changes by compare-and-swap only.
Nothing that is resolved rests on listing a bucket, so a listing that lags behind misleads nobody.
Objects are written once; what was uploaded and never entered an index is invisible.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ecdctr.errors import StoreError
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.store.bucket import CONTENTS, TRIES, Bucket, Denied, wait
from ecdctr.store.lease import IN_USE, Leases
from ecdctr.store.leftovers import remove_old, sweep
from ecdctr.store.manifest import VERSION

logger = logging.getLogger("ecdctr")


class Index:
    """What an index said when it was read."""

    def __init__(self, folders: dict[str, str], removed: dict[str, str]) -> None:
        self.folders, self.removed = folders, removed

    def names(self) -> Iterator[str]:
        """Yield them sorted."""
        yield from sorted(self.folders, key=_by_age, reverse=True)

    def removals(self, since: str, until: str) -> list[str]:
        """Return what it names."""
        return [name for name in self.removed if since <= name.partition("/")[0] <= until]


class ObjectStorage:
    """A bucket and a prefix.

    Credentials and the endpoint come from the environment (AWS_…, GOOGLE_…, AZURE_…).
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self.cache = Cache.of(self.root)
        self.local = self.cache.root
        self.bucket = Bucket(self.root)
        self._there: set[str] = set()
        self.leases = Leases(self.root, lambda change: self.bucket.swap(IN_USE, change))

    def check(self) -> None:
        """Probe conditional writes, once."""
        self.bucket.check()

    # -- documents and logs ------------------------------------------------------------------------

    def experiments(self) -> list[str]:
        """Read them from an index of their own."""
        return sorted(self.bucket.read_json("experiments.json")[0].get("experiments", []))

    def add_experiment(self, name: str, content: bytes) -> bool:
        """Write the document, then its name in the index.

        A crash between leaves a document that the next call enlists.
        """
        made = self.create(f"{name}/experiment.json", content)
        self._enlist(name)
        return made

    def read(self, key: str) -> bytes | None:
        """Read with one GET."""
        return self.bucket.get(key)[0]

    def create(self, key: str, content: bytes) -> bool:
        """Create with one PUT with If-None-Match."""
        self.bucket.check()
        return self.bucket.put(key, content, "create")

    def discard(self, key: str) -> None:
        """Delete the object."""
        self.bucket.delete(key)

    def append(self, log: str, content: bytes, after: int | None = None) -> int | None:
        """Append to a log, one object that is swapped.

        Whether it has the record decides, not the answer to the swap.
        """
        text = content.decode()

        def add(log: dict[str, Any]) -> int | None:
            records: list[str] = log.get("records", [])
            if text in records:
                return records.index(text) + 1
            if after is not None and len(records) != after:
                return None
            log["records"] = [*records, text]
            return len(records) + 1

        self.leases.check()
        number: int | None = self.bucket.swap(f"{log}.json", add)
        return number

    def records(self, log: str, newest: int = 0) -> list[tuple[int, bytes]]:
        """Read with one GET."""
        texts = self.bucket.read_json(f"{log}.json")[0].get("records", [])
        records = [(number, text.encode()) for number, text in enumerate(texts, 1)]
        return records[-newest:]

    def discard_log(self, log: str) -> None:
        """Delete the object."""
        self.leases.check()
        self.bucket.delete(f"{log}.json")

    # -- folders -----------------------------------------------------------------------------------

    def listing(self, group: str, dated: bool = True) -> Index:
        """Read the index, once."""
        content = self.bucket.read_json(f"{group}/index.json")[0]
        return Index(content.get("folders", {}), content.get("removed", {}))

    def file(self, group: str, name: str, file: str) -> bytes | None:
        """Return the copy where there is one, else one GET."""
        place = self._place(group, name)
        if place is None:
            return None
        copied = self.cache.root / "folders" / place / file
        with contextlib.suppress(OSError):
            return copied.read_bytes()
        return self.read(f"{place}/{file}")

    def folder(self, group: str, name: str) -> Path:
        """Return a copy in the cache.

        Each file is compared with its SHA-256 after it was copied, and when first used again.

        Raises StoreError when the objects themselves are damaged or missing.
        """
        place = self._place(group, name)
        while place is not None:
            try:
                return self._copy(place)
            except StoreError:
                before, place = place, self._place(group, name)
                if place == before:  # else replaced while it was read
                    raise
        return self.cache.root / "folders" / group / name

    def _copy(self, place: str) -> Path:
        content = self.read(f"{place}/{CONTENTS}")
        if content is None:
            raise StoreError(f"{self.root}/{place}/{CONTENTS} is missing.")
        digests: dict[str, str] = self.bucket.parsed(f"{place}/{CONTENTS}", content)

        def fill(target: Path) -> None:
            for file, digest in digests.items():
                path = target / file
                durable.make_dir(path.parent)
                self.bucket.download(f"{place}/{file}", path)
                if durable.sha256(path) != digest:
                    raise StoreError(f"{self.root}/{place}/{file} differs from its digest.")

        return self.cache.folder(place, fill, lambda target: durable.has_files(target, digests))

    def add(
        self,
        folder: Path,
        group: str,
        date: str,
        seal: Callable[[str], None],
        finished: Callable[[], bool],
    ) -> str | None:
        """Publish a version.

        The manifest's object takes the number, the index makes the version visible, last of all.

        Whoever loses the swap looks again whether it is still needed, so that two writers of the
        same make one. Raises TryAgain for who loses it too often.
        """
        self.bucket.check()
        self.leases.check()
        self._enlist(group.partition("/")[0])
        key, version = f"{group}/index.json", ""
        for attempt in range(TRIES):
            index, tag = self.bucket.read_json(key)
            if finished():
                if version:
                    self.bucket.delete_folder(f"{group}/{date}/{version}")
                return None
            if not version:
                version = self._claim(folder, group, date, seal, index)
                self.bucket.upload(folder, f"{group}/{date}/{version}", skip=("manifest.json",))
            name = f"{date}/{version}"
            index.setdefault("folders", {})[name] = f"{group}/{name}"
            self.leases.check()
            if self.bucket.put(key, json.dumps(index).encode(), tag):
                return version
            if name in self.bucket.read_json(key)[0].get("folders", {}):
                return version  # the answer to our own swap was lost on the way
            wait(attempt)
        raise self.bucket.contended(key)

    def replace(self, folder: Path, group: str, name: str) -> None:
        """Replace a folder: under a new name in the bucket.

        The index then points there, and the old objects go.
        """
        self.bucket.check()
        self._enlist(group.partition("/")[0])
        place = f"{group}/{name}.{uuid.uuid4().hex[:12]}"
        self.bucket.upload(folder, place)

        old: list[str] = []

        def point(index: dict[str, Any]) -> None:
            before = index.setdefault("folders", {}).get(name)
            if before not in (None, place):
                old[:] = [before]
            index["folders"][name] = place

        self.leases.check()
        self.bucket.swap(f"{group}/index.json", point)
        for one in old:
            self.bucket.delete_folder(one)

    def amend(self, group: str, name: str, source: Path, added: list[str], gone: list[str]) -> None:
        """Upload, say so in the list of its files, delete."""
        place = f"{group}/{name}"
        contents: dict[str, str] = self.bucket.read_json(f"{place}/{CONTENTS}")[0]
        self.leases.check()
        for file in added:
            self.bucket.overwrite(f"{place}/{file}", source / file)
            contents[file] = durable.sha256(source / file)
        kept = {file: digest for file, digest in contents.items() if file not in gone}
        self.bucket.overwrite(f"{place}/{CONTENTS}", json.dumps(kept).encode())
        self.cache.forget(place)
        for file in gone:
            self.bucket.delete(f"{place}/{file}")

    def remove(self, group: str, name: str, note: bytes | None) -> bool:
        """Take it out of the index, then the objects."""
        places: list[str] = []

        def forget(index: dict[str, Any]) -> None:
            if note is not None:
                index.setdefault("removed", {})[name] = note.decode()
            if name in index.get("folders", {}):
                places[:] = [index["folders"].pop(name)]

        self.leases.check()
        self.bucket.swap(f"{group}/index.json", forget)
        for place in places:
            self.bucket.delete_folder(place)
        return bool(places)

    def removed(self, group: str, name: str) -> bytes | None:
        """Return what the index says of it."""
        note = self.bucket.read_json(f"{group}/index.json")[0].get("removed", {}).get(name)
        return None if note is None else str(note).encode()

    def clean(self, older_than_seconds: float) -> int:
        """Remove what no index names, and local files of abandoned trainings.

        What is being built lies on this machine; nobody builds while the only lease is held.
        """
        limit = time.time() - older_than_seconds
        shutil.rmtree(self.local / ".staging", ignore_errors=True)
        remove_old(self.local / ".progress", limit)
        return sweep(self.bucket, limit)

    # -- who uses the store ------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_use(self, reads_only: bool = False) -> Iterator[None]:
        """Hold a lease, renewed meanwhile, also who reads; while versions are removed, wait.

        Who only reads goes on without one where the credentials allow no writes; what reads
        compares files as ever.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(self.leases.in_use())
            except Denied:
                if not reads_only:
                    raise
                logger.warning(
                    "%s is read without a lease, which these credentials may not write: if 'store "
                    "gc' removes what is read, run the command again.", self.root,
                )  # fmt: skip
            self._ask_anew()
            yield

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Hold the only lease."""
        return self.leases.exclusively()

    def _claim(
        self,
        folder: Path,
        group: str,
        date: str,
        seal: Callable[[str], None],
        index: dict[str, Any],
    ) -> str:
        """Claim the next free number.

        Who creates the manifest's object has it, whatever becomes of the version.
        """
        names = [*index.get("folders", {}), *index.get("removed", {})]
        taken = [int(name.rpartition("/v")[2]) for name in names if name.startswith(f"{date}/v")]
        number = 1 + max(taken, default=0)
        while True:
            version = f"v{number:04d}"
            seal(version)
            key, content = (
                f"{group}/{date}/{version}/manifest.json",
                (folder / "manifest.json").read_bytes(),
            )
            if self.bucket.put(key, content, "create") or self.read(key) == content:
                return version
            number += 1

    def _place(self, group: str, name: str) -> str | None:
        """Return where a folder's objects lie.

        A version's place never changes, so it is asked for once.
        """
        if f"{group}/{name}" in self._there:
            return f"{group}/{name}"
        place: str | None = (
            self.bucket.read_json(f"{group}/index.json")[0].get("folders", {}).get(name)
        )
        if place == f"{group}/{name}":
            self._there.add(place)
        return place

    def _ask_anew(self) -> None:
        """Forget which folders are there.

        One that was seen before the lease may have been removed since.
        """
        self._there = {name for name in self._there if name.endswith("/")}

    def _enlist(self, experiment: str) -> None:
        def add(index: dict[str, Any]) -> None:
            if experiment not in index.setdefault("experiments", []):
                index["experiments"].append(experiment)

        if f"{experiment}/" not in self._there and not experiment.startswith("."):
            self.bucket.swap("experiments.json", add)
            self._there.add(f"{experiment}/")


def _by_age(name: str) -> tuple[str, int, str]:
    date, _, last = name.rpartition("/")
    return date, len(last) if VERSION.match(last) else 0, last
