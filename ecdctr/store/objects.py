"""A store on object storage (S3 and what speaks its protocol, GCS, Azure).

Conditional writes decide what is there. Each group has an index, one small object that lists its
folders. A folder is there when the index names it, and the index changes by compare-and-swap only.
Nothing that is resolved rests on listing a bucket, so a listing that lags behind misleads nobody.
Objects are written once; what was uploaded and never entered an index is invisible.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from ecdctr.errors import StoreError, TryAgain, first_line
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.store.lease import Leases
from ecdctr.store.manifest import STUDIES, VERSION

CONTENTS = "contents.json"  # the files of a folder with their SHA-256
TRIES = 100  # of a swap, against others who change the same object
Swap = Callable[[dict[str, Any]], Any]


class ObjectStorage:
    """A bucket and a prefix.

    Credentials and the endpoint come from the environment (AWS_…, GOOGLE_…, AZURE_…).
    """

    def __init__(self, url: str) -> None:
        self.root = url.rstrip("/")
        self.cache = Cache.of(self.root)
        self.local = self.cache.root
        with self._explained():
            self.bucket = from_url(self.root, retry_config={"max_retries": 4})
        self._checked = False
        self._known: set[str] = set()
        self.leases = Leases(self.root, lambda change: self._swap(".locks/in-use.json", change))

    def check(self) -> None:
        """Ask once, before the first write: a probe of conditional writes that leaves nothing.

        Raises StoreError for a bucket that is not there, or that has no conditional writes.
        """
        if self._checked:
            return
        self._checked = True
        key = f".probe/{uuid.uuid4().hex}"
        try:
            first = self._put(key, b"1", "create")
            again = self._put(key, b"2", "create")
            stale = self._put(key, b"3", '"0123456789abcdef0123456789abcdef"')
        except FileNotFoundError:  # of something that is to be created: its bucket
            self._checked = False
            raise StoreError(
                f"The store {self.root} cannot be written: there is no such bucket; create it, or "
                "mend the address."
            ) from None
        except (StoreError, NotImplementedError) as error:
            self._checked = False
            raise StoreError(
                f"The store {self.root} cannot be written: {first_line(error)}"
            ) from None
        with self._explained(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.bucket, key)
        if not first or again or stale:
            self._checked = False
            missing = "If-None-Match" if again else "If-Match"
            raise StoreError(
                f"The store {self.root} cannot be written: its endpoint ignores conditional writes "
                f"({missing}), so two writers would overwrite each other. Use S3 itself or a "
                "server that has them."
            )

    # -- documents and logs ------------------------------------------------------------------------

    def experiments(self) -> list[str]:
        """From an index of their own."""
        return sorted(self._read_json("experiments.json")[0].get("experiments", []))

    def add_experiment(self, name: str, content: bytes) -> bool:
        """Write the document, then its name in the index.

        A crash between leaves a document that the next call enlists.
        """
        made = self.create(f"{name}/experiment.json", content)
        self._enlist(name)
        return made

    def read(self, key: str) -> bytes | None:
        """Read with one GET."""
        return self._get(key)[0]

    def create(self, key: str, content: bytes) -> bool:
        """Create with one PUT with If-None-Match."""
        self.check()
        return self._put(key, content, "create")

    def discard(self, key: str) -> None:
        """Delete the object."""
        with self._explained(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.bucket, key)

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
        number: int | None = self._swap(f"{log}.json", add)
        return number

    def records(self, log: str) -> list[tuple[int, bytes]]:
        """Read with one GET."""
        texts = self._read_json(f"{log}.json")[0].get("records", [])
        return [(number, text.encode()) for number, text in enumerate(texts, 1)]

    # -- folders -----------------------------------------------------------------------------------

    def names(self, group: str, dated: bool = True) -> Iterator[str]:
        """Read the index, sorted."""
        index = self._read_json(f"{group}/index.json")[0].get("folders", {})
        yield from sorted(index, key=_by_age, reverse=True)

    def file(self, group: str, name: str, file: str) -> bytes | None:
        """From the copy where there is one, else one GET."""
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
        digests: dict[str, str] = json.loads(content)

        def fill(target: Path) -> None:
            for file, digest in digests.items():
                path = target / file
                durable.make_dir(path.parent)
                self._download(f"{place}/{file}", path)
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
        self.check()
        self.leases.check()
        self._enlist(group.partition("/")[0])
        key, version = f"{group}/index.json", ""
        for attempt in range(TRIES):
            index, tag = self._read_json(key)
            if finished():
                if version:
                    self._delete(f"{group}/{date}/{version}")
                return None
            if not version:
                version = self._claim(folder, group, date, seal, index)
                self._upload(folder, f"{group}/{date}/{version}", skip=("manifest.json",))
            name = f"{date}/{version}"
            index.setdefault("folders", {})[name] = f"{group}/{name}"
            self.leases.check()
            if self._put(key, json.dumps(index).encode(), tag):
                return version
            if name in self._read_json(key)[0].get("folders", {}):
                return version  # the answer to our own swap was lost on the way
            _wait(attempt)
        raise self._contended(key)

    def replace(self, folder: Path, group: str, name: str) -> None:
        """Replace a folder: under a new name in the bucket.

        The index then points there, and the old objects go.
        """
        self.check()
        self._enlist(group.partition("/")[0])
        place = f"{group}/{name}.{uuid.uuid4().hex[:12]}"
        self._upload(folder, place)

        old: list[str] = []

        def point(index: dict[str, Any]) -> None:
            before = index.setdefault("folders", {}).get(name)
            if before not in (None, place):
                old[:] = [before]
            index["folders"][name] = place

        self.leases.check()
        self._swap(f"{group}/index.json", point)
        for one in old:
            self._delete(one)

    def remove(self, group: str, name: str, note: bytes) -> bool:
        """Out of the index, then the objects."""
        places: list[str] = []

        def forget(index: dict[str, Any]) -> None:
            index.setdefault("removed", {})[name] = note.decode()
            if name in index.get("folders", {}):
                places[:] = [index["folders"].pop(name)]

        self.leases.check()
        self._swap(f"{group}/index.json", forget)
        for place in places:
            self._delete(place)
        return bool(places)

    def removed(self, group: str, name: str) -> bytes | None:
        """Return what the index says of it."""
        note = self._read_json(f"{group}/index.json")[0].get("removed", {}).get(name)
        return None if note is None else str(note).encode()

    def removals(self, group: str, since: str, until: str) -> list[str]:
        """Return what the index names."""
        names = self._read_json(f"{group}/index.json")[0].get("removed", {})
        return [name for name in names if since <= name.partition("/")[0] <= until]

    def clean(self, older_than_seconds: float) -> int:
        """Remove what no index names, and local files of abandoned trainings.

        What is being built lies on this machine; nobody builds while the only lease is held.
        """
        freed, limit = 0, time.time() - older_than_seconds
        shutil.rmtree(self.local / ".staging", ignore_errors=True)
        for path in (self.local / ".progress").glob("*"):
            if path.stat().st_mtime < limit:
                path.unlink()
        places: dict[str, set[str]] = {}
        with self._explained():
            for page in obstore.list(self.bucket):
                for entry in page:
                    group, place = _split(entry["path"])
                    if group is None or entry["last_modified"].timestamp() > limit:
                        continue
                    if group not in places:
                        places[group] = set(
                            self._read_json(f"{group}/index.json")[0].get("folders", {}).values()
                        )
                    if place not in places[group]:
                        obstore.delete(self.bucket, entry["path"])
                        freed += entry["size"]
        return freed

    # -- who uses the store ------------------------------------------------------------------------

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Hold a lease, renewed meanwhile; while versions are removed, wait."""
        with self.leases.in_use():
            self._ask_anew()
            yield

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Hold the only lease."""
        return self.leases.exclusively()

    # -- requests ----------------------------------------------------------------------------------

    def _swap(self, key: str, change: Swap) -> Any:
        """Read a JSON object, change it, write it back if nobody else did meanwhile, else again.

        `change` may be called on an object that it has changed already, when the answer to the swap
        was lost. Raises TryAgain when others are faster every time.
        """
        self.check()
        for attempt in range(TRIES):
            value, tag = self._read_json(key)
            before = json.dumps(value)
            result = change(value)
            if json.dumps(value) == before or self._put(key, json.dumps(value).encode(), tag):
                return result
            _wait(attempt)
        raise self._contended(key)

    def _contended(self, key: str) -> TryAgain:
        return TryAgain(
            f"{self.root}/{key}: others were faster {TRIES} times; run the same command again."
        )

    def _read_json(self, key: str) -> tuple[dict[str, Any], str]:
        """Return an object and its tag; an empty one, to be created, where there is none."""
        content, tag = self._get(key)
        return ({}, "create") if content is None else (json.loads(content), tag)

    def _get(self, key: str) -> tuple[bytes | None, str]:
        with self._explained():
            try:
                answer = obstore.get(self.bucket, key)
                return bytes(answer.bytes()), str(answer.meta["e_tag"])
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise StoreError(
                        f"The store {self.root} cannot be used: there is no such bucket."
                    ) from None
                return None, "create"

    def _put(self, key: str, content: bytes | Path, tag: str) -> bool:
        """Write if nothing is there (tag 'create') or if what is there has this tag.

        False if another was faster.
        """
        mode: Any = "create" if tag == "create" else {"e_tag": tag}
        with self._explained():
            try:
                obstore.put(self.bucket, key, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def _upload(self, folder: Path, place: str, skip: tuple[str, ...] = ()) -> None:
        contents = durable.digests(folder)
        with self._explained():
            for name in contents:
                if name not in skip:
                    obstore.put(self.bucket, f"{place}/{name}", folder / name)
            obstore.put(self.bucket, f"{place}/{CONTENTS}", json.dumps(contents).encode())

    def _download(self, key: str, path: Path) -> None:
        with self._explained():
            try:
                with path.open("wb") as file:
                    for chunk in obstore.get(self.bucket, key):
                        file.write(chunk)
            except FileNotFoundError:
                raise StoreError(f"{self.root}/{key} is missing.") from None

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
            if self._put(key, content, "create") or self.read(key) == content:
                return version
            number += 1

    def _delete(self, place: str) -> None:
        """Delete the objects of a folder; what a crash leaves of them is for `clean`."""
        content = self.read(f"{place}/{CONTENTS}")
        with self._explained():
            for name in json.loads(content) if content else ["manifest.json"]:
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self.bucket, f"{place}/{name}")
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(self.bucket, f"{place}/{CONTENTS}")

    def _place(self, group: str, name: str) -> str | None:
        """Return where a folder's objects lie.

        A version's place never changes, so it is asked for once.
        """
        if f"{group}/{name}" in self._known:
            return f"{group}/{name}"
        place: str | None = self._read_json(f"{group}/index.json")[0].get("folders", {}).get(name)
        if place == f"{group}/{name}":
            self._known.add(place)
        return place

    def _ask_anew(self) -> None:
        """Forget which folders are there.

        One that was seen before the lease may have been removed since.
        """
        self._known = {name for name in self._known if name.endswith("/")}

    def _enlist(self, experiment: str) -> None:
        def add(index: dict[str, Any]) -> None:
            if experiment not in index.setdefault("experiments", []):
                index["experiments"].append(experiment)

        if f"{experiment}/" not in self._known and not experiment.startswith("."):
            self._swap("experiments.json", add)
            self._known.add(f"{experiment}/")

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Yield errors of the endpoint as one sentence."""
        try:
            yield
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            raise
        except BaseError as error:
            raise StoreError(f"The store {self.root} cannot be used: {first_line(error)}") from None


def _wait(attempt: int) -> None:
    """Wait longer each time, up to a second, at random: who collided shall not do so again."""
    time.sleep(random.uniform(0, min(0.05 * 1.5**attempt, 1.0)))  # noqa: S311  # no secret


def _by_age(name: str) -> tuple[str, int, str]:
    date, _, last = name.rpartition("/")
    return date, len(last) if VERSION.match(last) else 0, last


def _split(path: str) -> tuple[str | None, str]:
    """Return the group and the place that an object belongs to.

    No group for documents, logs and indexes.
    """
    match path.split("/"):
        case [experiment, "evaluations", level, day, version, *_]:
            group = f"{experiment}/evaluations/{level}"
            return group, f"{group}/{day}/{version}"
        case [group, study, _, *_] if group == STUDIES:
            return group, f"{group}/{study}"
        case [experiment, level, date, version, _, *_] if VERSION.match(version):
            group = f"{experiment}/{level}"
            return group, f"{group}/{date}/{version}"
    return None, path
