"""Arrays of files as pages of memory, and look-ups in them that read few pages. Needs numpy alone.

A binary search in 100 million ordered keys touches 27 of them, some ten pages that nothing else
needs. Beside such keys lies the first one of every page: these are held, so that one page is read.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

PAGE = 512  # keys: 4096 bytes of 64-bit ones
PLAIN = 64 * PAGE  # keys that numpy's own search is left to: they are soon in memory anyway
LARGE = 64 << 20  # bytes beyond which the kernel shall not read ahead what nobody asks for


def mapped(path: Path, dimensions: int) -> NDArray[Any]:
    """Return an array of a file's pages, of so many dimensions: [n] or [n, d].

    Raises OSError or ValueError when it is missing or damaged.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != dimensions:
        raise ValueError(f"expected {dimensions} dimensions, found {array.ndim}")
    if array.nbytes > LARGE and isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        array.base.madvise(mmap.MADV_RANDOM)
    plain: NDArray[Any] = array.view(np.ndarray)
    return plain


class HeldFiles:
    """Files that stay open, so that it can be told whether anybody wrote into them since.

    Of a name that was moved, removed or given to another file nothing is told: whoever has the old
    one mapped reads it as it was.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """Open the files; raises OSError where one is missing."""
        self._held: list[tuple[Path, int, tuple[int, int]]] = []
        weakref.finalize(self, _close, held := self._held)
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            held.append((path, descriptor, _stamp(descriptor)))

    def changed(self) -> Path | None:
        """Return the first file whose size or time of change is another one, None if none is."""
        return next((path for path, one, stamp in self._held if _stamp(one) != stamp), None)


def _stamp(descriptor: int) -> tuple[int, int]:
    status = os.fstat(descriptor)  # the kernel sets the time before it writes the first byte
    return status.st_size, status.st_mtime_ns


def _close(held: list[tuple[Path, int, tuple[int, int]]]) -> None:
    for _, descriptor, _ in held:
        os.close(descriptor)


class Ordered:
    """Keys in ascending order, in a file."""

    def __init__(self, folder: Path, name: str) -> None:
        """Map the keys; raises OSError or ValueError when they are missing or damaged."""
        self.keys = mapped(folder / f"{name}.npy", 1)
        self.firsts = np.load(folder / f"{name}_firsts.npy", allow_pickle=False)
        expected = -(-len(self.keys) // PAGE)
        if self.firsts.shape != (expected,) or self.firsts.dtype != self.keys.dtype:
            raise ValueError(
                f"{name}: expected the first keys of {expected:,} pages, found {self.firsts.shape}"
            )

    def __len__(self) -> int:
        return len(self.keys)

    def places(self, values: NDArray[Any]) -> NDArray[np.intp]:
        """Return the place of the first key that is not below each of `values` [n] → [n]."""
        if len(self.keys) <= PLAIN:
            return np.searchsorted(self.keys, values)
        page = np.searchsorted(self.firsts, values) - 1  # its first key lies below
        place = np.maximum(page, 0) * PAGE
        step = PAGE // 2
        while step:
            probe = place + step
            inside = np.minimum(probe, len(self.keys) - 1)
            below = (probe < len(self.keys)) & (self.keys[inside] < values)
            place = np.where(below, probe, place)
            step //= 2
        return np.where(page < 0, 0, place + 1)


def write_ordered(folder: Path, name: str, keys: NDArray[Any]) -> None:
    """Write keys in ascending order [n], and the first one of every page."""
    np.save(folder / f"{name}.npy", keys, allow_pickle=False)
    np.save(folder / f"{name}_firsts.npy", np.ascontiguousarray(keys[::PAGE]), allow_pickle=False)
