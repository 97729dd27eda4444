"""One reading of the impressions: what a command sees of them is of one moment, or it begins anew.

Days are delivered again at any time, also while they are read. So a domain at a URL is listed once
per command, and what is kept under a name that says what it is made of gets that name only if this
is still so when it is written.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

from ecdctr.errors import TryAgain
from ecdctr.files import durable
from ecdctr.files.reads import reads

ATTEMPTS = 3  # of work on days that are delivered meanwhile
Given = ParamSpec("Given")
Result = TypeVar("Result")
Files = dict[str, dict[str, Any]]  # path: what a listing says of it
_LISTINGS: ContextVar[dict[tuple[str, str], Files] | None] = ContextVar("listings", default=None)


class DeliveredAnew(TryAgain):
    """Impressions were delivered again while they were read."""

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} was delivered again while it was read; nothing was kept of it. Run the "
            "command again."
        )


@contextlib.contextmanager
def one_reading() -> Iterator[None]:
    """Hold one listing of each domain at a URL for a block, such as a command.

    Blocks inside share its listings.

    Outside any, whoever asks gets what lies there now. Raises ContractError with the file where
    something fails since one that it read is damaged.
    """
    if _LISTINGS.get() is not None:
        yield
        return
    token = _LISTINGS.set({})
    try:
        with told_damage():
            yield
    finally:
        _LISTINGS.reset(token)


@contextlib.contextmanager
def told_damage() -> Iterator[None]:
    """Raise ContractError with the damaged file for what DuckDB or Arrow say of files in a block.

    An error that no file explains is raised as it is.
    """
    with reads() as paths:
        try:
            yield
        except Exception as error:
            if paths:  # imported here: whoever only scores reads none, and has no DuckDB
                from ecdctr.impressions.damage import refuse_damaged

                refuse_damaged(error, [*reversed(paths)])
            raise


def listings() -> dict[tuple[str, str], Files] | None:
    """Return the listings of this reading by root and domain folder; None outside of any."""
    return _LISTINGS.get()


def settled(work: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let a function work in one reading, and again in another where days were delivered meanwhile.

    Raises DeliveredAnew when they are each time.
    """

    @functools.wraps(work)
    def again(*given: Given.args, **named: Given.kwargs) -> Result:
        with one_reading():
            for _ in range(ATTEMPTS - 1):
                with contextlib.suppress(DeliveredAnew):
                    return work(*given, **named)
                _forget()
            return work(*given, **named)

    return again


class Sealed(Protocol):
    """How a file is kept: by itself as `files.durable` does, or with others beside it."""

    def is_whole(self, path: Path) -> bool:
        """Tell whether it is there as it was written."""

    def sealing(self, path: Path) -> AbstractContextManager[Path]:
        """Write a temporary file that takes its place when the block ends well."""


@contextlib.contextmanager
def one_delivery(still: Callable[[], bool], where: str) -> Iterator[None]:
    """Work on days of which `still` tells whether they are as they were when the block began.

    Raises DeliveredAnew at its end if not; also for what the block raises then: files that go away
    are no damage.
    """
    try:
        yield
    except Exception as error:
        if still():
            raise
        raise DeliveredAnew(where) from error
    if not still():
        raise DeliveredAnew(where)


def keep(
    target: Path,
    write: Callable[[Path], None],
    still: Callable[[], bool],
    where: str,
    how: Sealed = durable,
) -> None:
    """Write a file that is named by what it is made of, unless it is there, whole.

    `still` says whether the name is right now that it is written. Raises DeliveredAnew, and keeps
    nothing, if not.
    """
    if how.is_whole(target):
        return
    durable.make_dir(target.parent)
    with how.sealing(target) as temporary, one_delivery(still, where):
        write(temporary)


def _forget() -> None:
    held = _LISTINGS.get()
    if held is not None:
        held.clear()
