"""Errors that a user can act on: each message says what, where, expected, found and what to do."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError

# Exit code (EX_TEMPFAIL of sysexits.h) of a command that the machine did not let finish
TRY_AGAIN = 75
STDOUT = "standard output"  # in the place of a file's name
UNFORESEEN = 70  # exit code (EX_SOFTWARE) of a command that ended with an error nobody foresaw


class EcdctrError(Exception):
    """A refusal with one clear sentence; the command line prints it without a traceback."""


class ConfigError(EcdctrError):
    """The configuration file cannot be used."""


class ContractError(EcdctrError):
    """Impressions break the data contract."""


class StoreError(EcdctrError):
    """The artifact store refuses, or lacks what was asked for."""


class TrainingError(EcdctrError):
    """Training cannot go on (for example, the loss is not a number)."""


class BundleChanged(EcdctrError):
    """A file of a bundle was written into while it was in use: its scores mean nothing now."""


class TryAgain(Exception):
    """No refusal: others were faster, or this process stood still for too long.

    The same command may succeed.
    """


class OutOfReach(TryAgain):
    """A bucket, or another place behind a network, does not answer, or says that it cannot now."""


def set_variable(name: str) -> str | None:
    """Return a variable of the environment; None where it is not set.

    Raises ConfigError for an empty one: what was to be its value got lost.
    """
    value = os.environ.get(name)
    if value == "":
        raise ConfigError(f"{name} is set but empty; set it to a value, or unset it.")
    return value


_NO_ANSWER = re.compile(r"after [1-9]\d* retries|error sending request|timed out")
_OF_NETWORKS = (
    "ConnectionError", "TimeoutError", "gaierror", "Timeout", "ClientConnectionError",
    "NoValidConnectionsError",
)  # fmt: skip  # of Python, and of the clients that fsspec brings, which need not be there


def no_answer(error: BaseException) -> bool:
    """Tell whether a place behind a network did not answer, so that it may answer later.

    A client of object storage tries again by itself where that can help, and says how often.
    """
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds.intersection(_OF_NETWORKS)) or bool(_NO_ANSWER.search(first_line(error)))


def first_problem(error: ValidationError) -> str:
    """Return the first problem of what a program wrote: its key and what is wrong with it."""
    item = error.errors(include_url=False)[0]
    return ": ".join(filter(None, [".".join(map(str, item["loc"])), item["msg"]]))


def first_line(error: BaseException) -> str:
    """Return what an error of a library says, without what follows: it may be pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


NO_THREAD = "can't start new thread"
NO_NUMBER = -1  # of what is told by its words alone: locks and full pipes have EAGAIN, too
MORE_THREADS = "raise the limit of processes and threads (ulimit -u, or the container's pids limit)"
_TROUBLES = {
    "No space left on device": (errno.ENOSPC, "free some space"),
    "Disk quota exceeded": (errno.EDQUOT, "free some space or raise the quota"),
    "Read-only file system": (errno.EROFS, "mount it writable"),
    "Permission denied": (errno.EACCES, "give this user the right to read and write there"),
    "Operation not permitted": (
        errno.EPERM,
        "look whether the file may be changed at all (lsattr), or what the system allows there",
    ),
    "Is a directory": (
        errno.EISDIR,
        "expected a file there; take the folder away, or bring the file back from a copy",
    ),
    "Not a directory": (
        errno.ENOTDIR,
        "expected a folder there; take away the file in its place or above it",
    ),
    "File exists": (
        errno.EEXIST,
        "expected a folder there; take away the file, or the link to nothing, in its place",
    ),
    "No such file or directory": (
        errno.ENOENT,
        "look whether the folder was removed or its disk unmounted",
    ),
    "Too many levels of symbolic links": (errno.ELOOP, "mend the link that points to itself"),
    "Symlink loop": (errno.ELOOP, "mend the link that points to itself"),  # Python's words
    "File too large": (errno.EFBIG, "raise the limit of file sizes (ulimit -f, or the disk's)"),
    "Input/output error": (errno.EIO, "check the disk"),
    "Stale file handle": (errno.ESTALE, "mount the network folder again"),
    "Too many open files": (errno.EMFILE, "raise the limit of open files (ulimit -n)"),
    "Resource temporarily unavailable": (NO_NUMBER, MORE_THREADS),
    NO_THREAD: (NO_NUMBER, MORE_THREADS),  # Python's words
    "failed to map segment": (errno.ENOMEM, "free some memory"),  # of a library that is loaded
    "Out of Memory Error": (  # DuckDB's words
        errno.ENOMEM,
        "raise data.duckdb_memory, which it has reached, or lower data.threads",
    ),
}
_PATH = re.compile(r'"(/[^"\n]+)"')  # as DuckDB names one
_MISPLACED = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EMFILE, errno.ENOMEM)


def lacks_room(error: BaseException) -> bool:
    """Tell whether an error is of the machine's disk or memory, and not of what was read."""
    texts = [text for text, (number, _) in _TROUBLES.items() if number in _NO_ROOM]
    number = getattr(error, "errno", None)
    told = number in _NO_ROOM or any(text in str(error) for text in texts)
    return told or isinstance(error, MemoryError)


def is_misplaced(error: BaseException) -> bool:
    """Tell whether an error is of what lies at a place, which no time changes: another try is vain.

    A folder where a file is read, a file where a folder is to be, links that go round.
    """
    texts = [text for text, (number, _) in _TROUBLES.items() if number in _MISPLACED]
    number = getattr(error, "errno", None)
    return number in _MISPLACED or (number is None and any(text in str(error) for text in texts))


def machine_end(error: BaseException) -> tuple[int, str] | None:
    """Return the exit code and the sentence of what a machine does not let us do, else None."""
    trouble = machine_trouble(error)
    return (1 if is_misplaced(error) else TRY_AGAIN, trouble) if trouble else None


def _left_at(place: Path) -> str:
    """Say what is free on the disk of a place, which may be gone by now."""
    for folder in (place, *place.parents):
        try:
            disk = os.statvfs(folder)
        except OSError:
            continue
        free, size = (count * disk.f_frsize / 1e6 for count in (disk.f_bavail, disk.f_blocks))
        files = "" if disk.f_favail or not disk.f_files else " and no file more"
        return f" ({free:,.1f} of {size:,.1f} MB are free there{files})"
    return ""


def machine_trouble(error: BaseException) -> str | None:
    """Return one sentence for what a machine does not let us do, whichever library says so.

    None for any other error, and for one that is a sentence already.
    """
    if isinstance(error, TryAgain):
        return str(error)
    if isinstance(error, EcdctrError):
        return None
    number = getattr(error, "errno", None)
    for text, (code, remedy) in _TROUBLES.items():
        if number == code or text in str(error):
            where = getattr(error, "filename2", None) or getattr(error, "filename", None)
            where = str(where or next(iter(_PATH.findall(str(error))), ""))
            place = f" at {where}" if where else f" ({first_line(error)})"
            left = (
                _left_at(Path(where)) if where and where != STDOUT and code == errno.ENOSPC else ""
            )
            return (
                f"{text}{place}{left}: {remedy} and run the same command again. Nothing was "
                "published in part, and what was finished before is kept."
            )
    return None
