"""Weekly tables as arrays that a server maps into memory: beside a bundle's graph, not inside it.

Needs numpy alone. Per key four files: the users in order, where the pairs of each begin, and of
each pair its value, its counts and the days of its last clicks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ecdctr.domains import DOMAINS
from ecdctr.files.mapped import Ordered, mapped, write_ordered

if TYPE_CHECKING:
    from numpy.typing import NDArray

NEVER = np.iinfo(np.int32).min
PARTS = {"starts": 1, "values": 1, "counts": 2, "last": 2}  # beside the users: dimensions


class Facts(NamedTuple):
    """What is remembered of one user and some values, 0 and NEVER where nothing is."""

    counts: NDArray[np.int32]  # [n, domains · windows · 2], in the order of columns.counts
    last: NDArray[np.int32]  # [n, domains], days since 1970


def write_arrays(
    folder: Path,
    key: str,
    users: NDArray[Any],
    values: NDArray[Any],
    counts: NDArray[np.int32],
    last: NDArray[np.int32],
) -> None:
    """Write a key's table [pairs]; pairs in any order."""
    order = np.lexsort((values, users))
    users = users[order]
    distinct, starts = np.unique(users, return_index=True)
    write_ordered(folder, f"{key}.users", distinct)
    parts = (np.append(starts, len(users)), values[order], counts[order], last[order])
    for name, array in zip(PARTS, parts, strict=True):
        np.save(folder / f"{key}.{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


class KeyTable:
    """One key's arrays; a look-up reads the pages of one user."""

    def __init__(self, folder: Path, key: str) -> None:
        """Map the files; raises OSError or ValueError when one is missing or damaged."""
        self.users = Ordered(folder, f"{key}.users")
        self.starts, self.values, self.counts, self.last = (
            mapped(folder / f"{key}.{name}.npy", dimensions) for name, dimensions in PARTS.items()
        )

    def facts(self, user: Any, values: Sequence[Any]) -> Facts:
        """Look values of one user up; those of another type than the table's are not in it."""
        counts = np.zeros((len(values), self.counts.shape[1]), np.int32)
        last = np.full((len(values), len(DOMAINS)), NEVER, np.int32)
        place = _position(self.users.keys, user, self.users.places)
        if place is None:
            return Facts(counts, last)
        first, end = int(self.starts[place]), int(self.starts[place + 1])
        of_user = self.values[first:end]
        for row, value in enumerate(values):
            at = _position(of_user, value, of_user.searchsorted)
            if at is not None:
                counts[row], last[row] = self.counts[first + at], self.last[first + at]
        return Facts(counts, last)


def _position(
    ordered: NDArray[Any], value: Any, places: Callable[[NDArray[Any]], NDArray[np.intp]]
) -> int | None:
    if value is None or not len(ordered) or (ordered.dtype.kind == "U") != isinstance(value, str):
        return None
    at = int(places(np.array([value]))[0])
    return at if at < len(ordered) and ordered[at] == value else None
