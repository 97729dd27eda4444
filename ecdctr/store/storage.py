"""What a store needs of the place where it lies, and which places there are.

A local folder, or object storage.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ecdctr.errors import StoreError
from ecdctr.files.urls import (
    LOCAL,
    WRITE_OUT,
    is_for_shells,
    lacks_a_slash,
    problem_of_url,
    usual_scheme,
)
from ecdctr.store.local import LocalStorage

if TYPE_CHECKING:
    from ecdctr.files.cache import Cache

URL = "://"
CONDITIONAL = {
    "s3",
    "gs",
    "az",
    "azure",
    "adl",
    "abfs",
    "abfss",
    "http",
    "https",
}  # may have conditional writes


class Listing(Protocol):
    """The folders of a group, read once for all that is asked."""

    def names(self) -> Iterator[str]:
        """Yield those that are there, newest date and highest number first."""

    def removals(self, since: str, until: str) -> list[str]:
        """Return the names of those that were taken away, of dates between two, both included."""


class Storage(Protocol):
    """Documents, logs and folders under a root.

    A document is a small file. A log is a list of documents that only grows. A folder of a group
    ("production/actr") has a name ("2026-03-01/v0001") and files that never change; it is there as
    a whole or not at all.
    """

    @property
    def root(self) -> Path | str:
        """Where it lies, for messages."""

    local: Path  # on this machine: what is being built, how far trainings are

    @property
    def cache(self) -> Cache:
        """Copies on this machine: of versions that are stored as changes, whole; of a bucket."""

    def check(self) -> None:
        """Try to write, and leave nothing behind.

        Raises StoreError, with the mend, if the place cannot be written as needed.
        """

    def experiments(self) -> list[str]:
        """Return the names of experiments that hold something, sorted."""

    def add_experiment(self, name: str, content: bytes) -> bool:
        """Create an experiment's document; False if it exists already."""

    def read(self, key: str) -> bytes | None:
        """Return a document, None if there is none."""

    def create(self, key: str, content: bytes) -> bool:
        """Create a document, whole; False if it exists already."""

    def discard(self, key: str) -> None:
        """Take a document away, if it is there."""

    def append(self, log: str, content: bytes, after: int | None = None) -> int | None:
        """Add to a log; returns the number that the record got, 1 being the first.

        Idempotent: content that the log got just before is not added again, so that each record
            needs something of its own.
        With `after`, None if the log's last number is another one (0: the log is empty);
            nothing is added then.
        """

    def records(self, log: str, newest: int = 0) -> list[tuple[int, bytes]]:
        """Return numbered records, oldest first: so many of a log's newest, 0 for all."""

    def discard_log(self, log: str) -> None:
        """Take a log away with all of its records, if it is there."""

    def listing(self, group: str, dated: bool = True) -> Listing:
        """Return which folders a group has and had; `dated` ones have names like DATE/NAME."""

    def file(self, group: str, name: str, file: str) -> bytes | None:
        """Return one file of a folder, None if there is none."""

    def folder(self, group: str, name: str) -> Path:
        """Return a folder on this machine, to read its files.

        It may not exist if the folder does not.
        """

    def add(
        self,
        folder: Path,
        group: str,
        date: str,
        seal: Callable[[str], None],
        finished: Callable[[], bool],
    ) -> str | None:
        """Make a local folder the next version of a date, all or nothing.

        None if `finished` says that it need not be. `seal` is told the version before anybody can
        see it, to write it into the folder.
        """

    def replace(self, folder: Path, group: str, name: str) -> None:
        """Put a local folder in place of that of a name, if there is one."""

    def amend(self, group: str, name: str, source: Path, added: list[str], gone: list[str]) -> None:
        """Put files of a local folder into a folder, then take some of its own away.

        Nobody else may use the store meanwhile. Whoever dies in between leaves both.
        """

    def remove(self, group: str, name: str, note: bytes | None) -> bool:
        """Take a folder away, whole at once; with a note its version is never given again."""

    def removed(self, group: str, name: str) -> bytes | None:
        """Return the note of a folder that was taken away on purpose, None of any other."""

    def clean(self, older_than_seconds: float) -> int:
        """Remove what killed processes left and nobody took up for so long.

        Returns the bytes freed.
        """

    def in_use(self, reads_only: bool = False) -> contextlib.AbstractContextManager[None]:
        """Let nothing be removed while this is held; who only reads may lack the right to write."""

    def exclusively(self) -> contextlib.AbstractContextManager[None]:
        """Keep everybody else from the store.

        Raises BlockingIOError, with the reason, if somebody uses it.
        """


def absolute(root: Path | str) -> Path | str:
    """Return a path made absolute, a URL as it is.

    File:// and local:// are paths, gcs:// is gs:// and s3a:// is s3://. Raises StoreError for
    what is neither, for a URL that cannot hold a store, and for a path at which, or above which, a
    file stands.
    """
    text = _without_scheme(str(root))
    if not text.strip() or lacks_a_slash(text):
        raise StoreError(
            f"The store '{root}' is neither a folder nor a URL; name one like demo/store or "
            "s3://bucket/ecdctr."
        )
    if text.endswith(("\r", "\n")):
        raise StoreError(
            f"The store {text!a} ends with an end of line; save the file that names it "
            "(ECDCTR_STORE) with the line ends of this machine."
        )
    if is_for_shells(text):
        raise StoreError(f"The store {root} starts with {WRITE_OUT}.")
    if URL in text:
        if problem := problem_of_url(text):
            raise StoreError(f"The store {problem}.")
        scheme = text.partition(URL)[0]
        if scheme not in CONDITIONAL:
            raise StoreError(
                f"The store {text}: {scheme}:// has no conditional writes, without which two "
                "writers could publish one version; use a folder, or a URL of s3://, gs:// or "
                "az://."
            )
        return text
    try:
        path = Path(text).resolve()
    except RuntimeError:  # Python's word for links that go round in a circle
        raise StoreError(
            f"The store {root}: a link on the way points to itself; mend it or name another folder."
        ) from None
    for place in (path, *path.parents):
        if place.exists() and not place.is_dir():
            raise StoreError(
                f"The store {root}: {place} is a file, expected a folder; name another."
            )
    return path


def _without_scheme(root: str) -> str:
    """Return the folder of a file:// URL, any other with its scheme as it is called here.

    Raises StoreError where file:// is followed by the name of a machine.
    """
    root = usual_scheme(root)
    scheme, mark, rest = root.partition(URL)
    if not mark or scheme not in LOCAL:
        return root
    if problem := problem_of_url(root):
        raise StoreError(f"The store {problem}.")
    return rest


@lru_cache(maxsize=16)
def open_storage(root: Path | str) -> Storage:
    """Return the storage of a path or URL; raises StoreError for a URL that cannot hold one."""
    root = absolute(root)
    if isinstance(root, Path):
        return LocalStorage(root)
    try:
        from ecdctr.store.objects import ObjectStorage
    except ImportError:
        raise StoreError(
            f"The store {root} lies on object storage, which needs the extra 'objects': pip "
            "install 'ecdctr[objects]'"
        ) from None
    return ObjectStorage(root)
