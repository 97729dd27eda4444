"""A store in a local folder.

Renames and links make things appear whole, locks of the kernel keep processes apart.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from ecdctr.errors import StoreError, TryAgain
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.store import compaction
from ecdctr.store.leftovers import remove_old
from ecdctr.store.manifest import NAME, STUDIES, VERSION

TRIES = 100  # to get the next number of a log, against others who want it too


class Folders:
    """A group: date folders and what lies in them; without dates, the folders themselves."""

    def __init__(self, root: Path, dated: bool) -> None:
        self.root, self.dated = root, dated

    def names(self) -> Iterator[str]:
        """Yield them, a date folder at a time."""
        for day in _subfolders(self.root):
            if self.dated:
                yield from (f"{day}/{name}" for name in _subfolders(self.root / day))
            else:
                yield day

    def removals(self, since: str, until: str) -> list[str]:
        """Return what notes stand for."""
        return compaction.removals(self.root, _subfolders(self.root), since, until)


class LocalStorage:
    """Folders lie at <root>/<group>/<name>, documents at <root>/<key>.

    What starts with a dot is no experiment.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.local = root

    @cached_property
    def cache(self) -> Cache:
        """Under ECDCTR_CACHE, as of a bucket."""
        return Cache.of(str(self.root))

    def check(self) -> None:
        """Refuse a folder without hard links and atomic renames.

        Where the root is not made yet, its parent is asked.
        """
        folder = next(path for path in (self.root, *self.root.parents) if path.exists())
        first, second = (folder / f".{uuid.uuid4().hex}" for _ in range(2))
        try:
            durable.write_bytes(first, b"")
            os.link(first, second)
            os.replace(second, first)
        except OSError as error:
            mend = "choose a folder that can be written and linked in"
            raise StoreError(
                f"The store {self.root} cannot be written: {error.strerror}; {mend}."
            ) from None
        finally:
            for path in (first, second):
                with contextlib.suppress(OSError):
                    path.unlink()

    def experiments(self) -> list[str]:
        """Return folders with a name that an experiment may have."""
        if not self.root.exists():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and NAME.fullmatch(p.name))

    def add_experiment(self, name: str, content: bytes) -> bool:
        """Return a folder with experiment.json."""
        return self.create(f"{name}/experiment.json", content)

    def read(self, key: str) -> bytes | None:
        """Return the file's content."""
        try:
            return (self.root / key).read_bytes()
        except FileNotFoundError:
            return None

    def create(self, key: str, content: bytes) -> bool:
        """Create a document: a hard link takes the name."""
        path = self.root / key
        durable.make_dir(path.parent)
        return durable.create_exclusive(path, content)

    def discard(self, key: str) -> None:
        """Unlink the file."""
        (self.root / key).unlink(missing_ok=True)

    def append(self, log: str, content: bytes, after: int | None = None) -> int | None:
        """Append to a log.

        It is a folder of numbered files; who creates the next number's file has it. Looked for is
        the content among the last TRIES records alone: no more come in between. Raises TryAgain
        when others were faster each time.
        """
        for _ in range(TRIES):
            records = self.records(log, TRIES)
            same = [number for number, recorded in records if recorded == content]
            if same:
                return same[0]
            last = records[-1][0] if records else 0
            if after is not None and last != after:
                return None
            if self.create(f"{log}/{last + 1:06d}.json", content):
                return last + 1
        raise TryAgain(
            f"{self.root}/{log}: others were faster {TRIES} times; run the same command again."
        )

    def records(self, log: str, newest: int = 0) -> list[tuple[int, bytes]]:
        """Return the numbered files."""
        return compaction.records(self.root / log, newest)

    def discard_log(self, log: str) -> None:
        """Remove its folder."""
        shutil.rmtree(self.root / log, ignore_errors=True)

    def listing(self, group: str, dated: bool = True) -> Folders:
        """Return the group's folder, which is looked at as far as it is asked about."""
        return Folders(self.root / group, dated)

    def file(self, group: str, name: str, file: str) -> bytes | None:
        """Return the file's content."""
        return self.read(f"{group}/{name}/{file}")

    def folder(self, group: str, name: str) -> Path:
        """Return the folder itself."""
        return self.root / group / name

    def add(
        self,
        folder: Path,
        group: str,
        date: str,
        seal: Callable[[str], None],
        finished: Callable[[], bool],
    ) -> str | None:
        """Make a folder a version: the rename takes the number, so no two writers share one."""
        parent = self.root / group / date
        durable.make_dir(parent)
        durable.sync_files(folder)
        with durable.locked(self._lock(group)):
            if finished():
                return None
            taken = [p.name for p in parent.iterdir() if VERSION.match(p.name)]
            gone = compaction.removals(self.root / group, [date], date, date)
            taken += [name.partition("/")[2] for name in gone]
            number = 1 + max((int(name[1:]) for name in taken), default=0)
            while True:
                version = f"v{number:04d}"
                seal(version)
                durable.sync(folder)
                if durable.rename_dir(folder, parent / version):
                    durable.sync(parent)
                    return version
                number += 1

    def replace(self, folder: Path, group: str, name: str) -> None:
        """Point a link elsewhere by one rename, under a lock."""
        target = self.root / group / name
        durable.make_dir(target.parent)
        durable.sync_files(folder)
        with durable.locked(self._lock(group)):
            durable.replace_dir(folder, target)

    def amend(self, group: str, name: str, source: Path, added: list[str], gone: list[str]) -> None:
        """Rename each into its place, then unlink."""
        folder = self.root / group / name
        for file in added:
            durable.make_dir((folder / file).parent)
            with durable.replacing(folder / file) as temporary:
                shutil.copyfile(source / file, temporary)
                durable.sync(temporary)
            durable.sync((folder / file).parent)
        for file in gone:
            (folder / file).unlink(missing_ok=True)

    def remove(self, group: str, name: str, note: bytes | None) -> bool:
        """Rename a folder into the trash; a note stays in its place until the next `clean`."""
        folder = self.root / group / name
        trash = self.root / ".trash" / uuid.uuid4().hex
        durable.make_dir(trash.parent)
        if note is not None:
            durable.write_bytes(folder.parent / f"{folder.name}.removed", note)
        return durable.rename_dir(folder, trash)

    def removed(self, group: str, name: str) -> bytes | None:
        """Return its note."""
        note = compaction.note(self.root / group, name)
        return None if note is None else note.encode()

    def clean(self, older_than_seconds: float) -> int:
        """Remove abandoned trainings, half-built versions, replaced folders and the trash.

        Small files, of which each day leaves some, are put together.
        """
        for group in {path.parent.parent for path in self.root.glob("*/*/*/v*.removed")}:
            compaction.put_notes_together(group)
        for log in self.root.glob("*/aliases/*/*"):
            compaction.put_records_together(log, TRIES)
        freed = remove_old(self.root / ".progress", time.time() - older_than_seconds)
        for pattern in ("*/evaluations/*/*/.*~*", f"{STUDIES}/.*~*"):
            for path in self.root.glob(pattern):
                link = path.parent / path.name[1:].partition("~")[0]
                in_use = link.is_symlink() and os.readlink(link) == path.name
                if not in_use and not link.is_file():  # where copies make links to files of text
                    shutil.rmtree(path, ignore_errors=True)
        for day in self.root.glob("*/evaluations/*/*"):
            with contextlib.suppress(OSError):  # it has evaluations
                day.rmdir()
        # Whoever builds holds the lock (Store.staging)
        shutil.rmtree(self.root / ".staging", ignore_errors=True)
        shutil.rmtree(self.root / ".trash", ignore_errors=True)
        return freed

    def _lock(self, group: str) -> Path:
        return self.root / ".locks" / group.replace("/", ".")

    @contextlib.contextmanager
    def in_use(self, reads_only: bool = False) -> Iterator[None]:
        """Hold a shared lock, of those who only read also where they cannot make one.

        There no lock is held only if there is none yet, and what reads compares files as ever.
        """
        with durable.locked(self.root / ".locks" / "in-use", shared=True, reads_only=reads_only):
            yield

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Hold the same lock, not shared; raises BlockingIOError while others hold it."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(durable.locked(self.root / ".locks" / "in-use", wait=False))
            except BlockingIOError:
                raise BlockingIOError("a training or evaluation is running; try later") from None
            yield


def _subfolders(folder: Path) -> list[str]:
    """List their names, newest first, without those that are being replaced.

    Numbers as numbers: v10000 is above v9999.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name[0] != "." and entry.is_dir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        names, key=lambda name: (len(name) if VERSION.match(name) else 0, name), reverse=True
    )
