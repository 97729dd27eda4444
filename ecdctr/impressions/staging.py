"""The folder in which an import works, beside the days that it makes, until all of it is written.

An import can be killed at any moment: what it leaves is never read as data, and the next import
into the same folder takes it away, or finishes it where all was written already.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ecdctr.errors import ConfigError
from ecdctr.impressions.layout import SCRATCH, WRITTEN

FINAL = "final"  # what of the working folder becomes the root's
LOCK = f"{SCRATCH}lock"
WORKING = re.compile(re.escape(SCRATCH) + "[a-z0-9_]{8}")  # as tempfile names folders


@contextmanager
def staging(root: Path) -> Iterator[Path]:
    """Yield a working folder under `root`; the domains in its `final` are put in place at the end.

    Raises ConfigError where `root` holds impressions, or another import works there.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        _put_in_place(root)
        taken = sorted(path.name for path in root.glob("domain=*"))
        if taken:
            raise ConfigError(
                f"{root} already holds {', '.join(taken)}; import into an empty folder."
            )
        for left in [path for path in root.iterdir() if WORKING.fullmatch(path.name)]:
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=root, prefix=SCRATCH) as folder:
            yield Path(folder)
            (Path(folder) / FINAL).rename(root / WRITTEN)
            _put_in_place(root)


def _put_in_place(root: Path) -> None:
    """Move what an import has written where it is read, also one that was killed while it did."""
    written = root / WRITTEN
    if written.is_dir():
        for domain_folder in sorted(written.iterdir()):
            domain_folder.rename(root / domain_folder.name)
        written.rmdir()


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Keep other imports out of a folder for the block; the kernel forgets those that were killed.

    Raises ConfigError when one works there.
    """
    path = root / LOCK
    with path.open("a") as file:
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
