"""The folder in which an import works, beside the days that it makes, until all of it is written.

An import can be killed at any moment: what it leaves is never read as data, and the next import
into the same folder takes it away, or finishes it where all was written already.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ecdctr.errors import ConfigError
from ecdctr.impressions.layout import SCRATCH, WRITTEN

FINAL = "final"  # what of the working folder becomes the root's
LOCK = f"{SCRATCH}lock"
WORKING = f"{SCRATCH}working-"  # and 32 digits, as nobody names a folder of their own
LEFT = re.compile(re.escape(WORKING) + "[0-9a-f]{32}")


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Yield a working folder under `root`; the domains in its `final` are put in place at the end.

    Raises ConfigError where `root` holds impressions or is no folder, has a name that DuckDB writes
    elsewhere, or another import works there.
    """
    if "\\" in str(root.resolve()):
        raise ConfigError(
            f"{root}: a backslash, which DuckDB takes for a slash where it writes; import into a "
            "folder without one, and move it."
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise ConfigError(
            f"{root}: expected a folder or nothing, found a file or a link to nothing; name "
            "another, or mend it."
        ) from None
    with _alone(root):
        _put_in_place(root)
        taken = sorted(path.name for path in root.glob("domain=*"))
        if taken:
            raise ConfigError(
                f"{root} already holds {', '.join(taken)}; import into an empty folder."
            )
        for left in [path for path in root.iterdir() if LEFT.fullmatch(path.name)]:
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
        folder = root / f"{WORKING}{uuid.uuid4().hex}"
        folder.mkdir(mode=0o700)
        try:
            yield folder
            (folder / FINAL).rename(root / WRITTEN)
            _put_in_place(root)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _put_in_place(root: Path) -> None:
    """Move what an import has written where it is read, also one that was killed while it did.

    Raises ConfigError where something else stands in the way.
    """
    written = root / WRITTEN
    if written.is_symlink() or (written.exists() and not written.is_dir()):
        raise ConfigError(f"{written}: expected a folder of an import or nothing; move it away.")
    if written.is_dir():
        for domain_folder in sorted(written.iterdir()):
            if not (domain_folder.name.startswith("domain=") and domain_folder.is_dir()):
                raise ConfigError(
                    f"{domain_folder}: expected domains of an import alone; move it away."
                )
            if os.path.lexists(root / domain_folder.name):
                raise ConfigError(
                    f"{domain_folder}, of an import that was stopped, and "
                    f"{root / domain_folder.name} are both there; move one of them away."
                )
        for domain_folder in sorted(written.iterdir()):
            domain_folder.rename(root / domain_folder.name)
        written.rmdir()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other imports out of a folder for the block; the kernel forgets those that were killed.

    Raises ConfigError when one works there.
    """
    path = root / LOCK
    if path.is_symlink() or (path.exists() and not path.is_file()):
        raise ConfigError(f"{path}: expected the lock of an import or nothing; move it away.")
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.fstat(file.fileno()).st_nlink > 0  # else another took it away just now
        except BlockingIOError:
            free = False
        if not free:
            raise ConfigError(
                f"Another import writes into {root}; wait until it has ended, or name another "
                "folder."
            )
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
