"""Which files were read: whoever has to say that one is damaged asks here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

_READ: ContextVar[dict[Path, None] | None] = ContextVar("read", default=None)


@contextmanager
def reads() -> Iterator[dict[Path, None]]:
    """Yield the files that are read in a block, in the order of reading; blocks inside share it."""
    if (outer := _READ.get()) is not None:
        yield outer
        return
    paths: dict[Path, None] = {}
    token = _READ.set(paths)
    try:
        yield paths
    finally:
        _READ.reset(token)


def note_read(paths: Iterable[Path]) -> None:
    """Write down that these files are read, by DuckDB or another reader."""
    noted = _READ.get()
    if noted is None:
        return
    for path in paths:
        noted.pop(path, None)
        noted[path] = None
