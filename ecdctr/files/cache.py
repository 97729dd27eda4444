"""Folders copied to this machine.

Bounded in size, used by many processes at once, checked when they are first used.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from ecdctr.errors import ConfigError, set_variable
from ecdctr.files import durable

FOLDER, LIMIT = "ECDCTR_CACHE", "ECDCTR_CACHE_GB"
DEFAULT_GB = 50.0


class Cache:
    """Copies under a root.

    A process that uses one holds a lock on it to its end, so that it is not thrown out.
    """

    def __init__(self, root: Path, limit_bytes: float) -> None:
        self.root, self.limit = root, limit_bytes
        self._held: dict[str, contextlib.ExitStack] = {}

    @classmethod
    def of(cls, url: str) -> Cache:
        """Return the cache of a URL: under ECDCTR_CACHE, at most ECDCTR_CACHE_GB.

        Raises ConfigError for another value.
        """
        root = Path(set_variable(FOLDER) or Path.home() / ".cache" / "ecdctr")
        text = set_variable(LIMIT) or str(DEFAULT_GB)
        try:
            limit = float(text) * 1e9
            if math.isnan(limit) or limit < 0:
                raise ValueError
        except ValueError:
            raise ConfigError(
                f"{LIMIT} is '{text}'; expected a number of gigabytes, for example 50."
            ) from None
        return cls(root / hashlib.sha256(url.encode()).hexdigest()[:16], limit)

    def folder(self, key: str, fill: Callable[[Path], None], valid: Callable[[Path], bool]) -> Path:
        """Return the copy of a key.

        `fill` makes it where there is none, or where `valid` finds that it is damaged. What `fill`
        raises leaves nothing behind. Others are thrown out for it, those not used for longest
        first.
        """
        target = self.root / "folders" / key
        if key in self._held:
            return target
        lock = self._lock(key)
        with durable.locked(_filling(lock)), contextlib.ExitStack() as held:
            held.enter_context(durable.locked(lock, shared=True))
            if not (target.exists() and valid(target)):
                self._make(target, fill)
            self._held[key] = held.pop_all()
        os.utime(target)
        self._evict()
        return target

    def forget(self, key: str) -> None:
        """Hold a copy no longer; when it is used again, it is compared again."""
        if held := self._held.pop(key, None):
            held.close()

    def _make(self, target: Path, fill: Callable[[Path], None]) -> None:
        temporary = self.root / "filling" / uuid.uuid4().hex
        durable.make_dir(temporary)
        durable.make_dir(target.parent)
        try:
            fill(temporary)
            shutil.rmtree(target, ignore_errors=True)  # damaged; the lock on filling is held
            os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _evict(self) -> None:
        copies = []
        for lock in (self.root / "locks").glob("*.lock"):
            target = self.root / "folders" / lock.stem.replace("~", "/")
            try:
                size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
                copies.append((target.stat().st_mtime, size, lock, target))
            except FileNotFoundError:
                self._throw_out(lock, target)  # what is left of one
        total = sum(size for _, size, _, _ in copies)
        for _, size, lock, target in sorted(copies):
            if total <= self.limit:
                return
            if self._throw_out(lock, target):
                total -= size

    def _throw_out(self, lock: Path, target: Path) -> bool:
        """Remove a copy and its locks unless it is in use or being made."""
        try:
            with durable.locked(_filling(lock), wait=False), durable.locked(lock, wait=False):
                shutil.rmtree(target, ignore_errors=True)
                for folder in target.parents[: len(target.relative_to(self.root).parts) - 2]:
                    with contextlib.suppress(OSError):  # others lie in it
                        folder.rmdir()
                lock.unlink()
                _filling(lock).unlink()
                return True
        except BlockingIOError:
            return False

    def _lock(self, key: str) -> Path:
        path = self.root / "locks" / f"{key.replace('/', '~')}.lock"
        durable.make_dir(path.parent)
        return path


def _filling(lock: Path) -> Path:
    """Return the lock of whoever makes a copy."""
    return lock.with_suffix(".fill")
