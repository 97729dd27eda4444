"""The file operations that everything durable is made of, each one step that can crash.

Tests crash between them.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO

from ecdctr.errors import lacks_room

logger = logging.getLogger("ecdctr")


def make_dir(path: Path) -> None:
    """Create a directory and its parents."""
    path.mkdir(parents=True, exist_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and force it to disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Force a file's or a directory's entry to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_files(folder: Path) -> None:
    """Force all files of a folder to disk, before a rename makes it the one that others read."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync(path)


def rename_dir(source: Path, target: Path) -> bool:
    """Rename a directory atomically; False if the target exists already."""
    try:
        os.rename(source, target)
    except OSError:
        if target.exists():
            return False
        raise
    return True


def create_exclusive(path: Path, content: bytes) -> bool:
    """Create a whole file atomically; False if it exists already."""
    temporary = path.parent / f".{uuid.uuid4().hex}"
    write_bytes(temporary, content)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def naming(folder: Path) -> Iterator[None]:
    """Say in which folder there was no room, where a library does not; there are many disks."""
    try:
        yield
    except Exception as error:  # safetensors' errors are none of the system's
        if lacks_room(error) and getattr(error, "filename", None) is None:
            error.filename = str(folder)  # type: ignore[attr-defined]  # as machine_trouble reads
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a temporary file beside `path` that takes its place when the block ends well."""
    temporary = path.parent / f".{uuid.uuid4().hex}"
    try:
        with naming(path.parent):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def scratch(parent: Path, prefix: str) -> Iterator[Path]:
    """Make a folder to work in, gone after the block, or after a later one if this process dies.

    Who works in one holds a lock on it, which the kernel ends with the process; those of this
    prefix that nobody holds are what killed ones left.
    """
    make_dir(parent)
    for left in parent.glob(f"{prefix}*"):
        with contextlib.suppress(OSError), _held(left, fcntl.LOCK_EX | fcntl.LOCK_NB):
            shutil.rmtree(left, ignore_errors=True)
    with contextlib.ExitStack() as stack:
        folder = None
        while folder is None:
            folder = _made_and_held(parent, prefix, stack)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def _made_and_held(parent: Path, prefix: str, stack: contextlib.ExitStack) -> Path | None:
    """Make a folder and lock it; None where somebody took it for one that was left, in between."""
    folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    with contextlib.suppress(FileNotFoundError):
        if _is_at(stack.enter_context(_held(folder, fcntl.LOCK_SH)), folder):
            return folder
    return None


@contextlib.contextmanager
def _held(folder: Path, kind: int) -> Iterator[int]:
    """Hold a lock on a folder; yields its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, kind)
        yield descriptor
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def keeping(path: Path) -> Iterator[Path]:
    """Name a file a second time, so that who replaces or removes it meanwhile changes nothing here.

    Where there is no such file, the name given leads to none.
    """
    kept = path.parent / f".{uuid.uuid4().hex}"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.link(path, kept)
        yield kept
    finally:
        kept.unlink(missing_ok=True)


@contextlib.contextmanager
def sealing(path: Path) -> Iterator[Path]:
    """Like `replacing`, for a file that can be made again: its SHA-256 is written beside it.

    Who writes the same file at once writes the same bytes, and so the same digest.
    """
    with replacing(path) as temporary:
        yield temporary
        with replacing(_seal_of(path)) as seal:
            seal.write_text(sha256(temporary), "utf-8")


def stamp(path: Path) -> tuple[int, int, int]:
    """Return a file's size and its times of change in nanoseconds: what is new if it is."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def is_whole(path: Path) -> bool:
    """Tell whether a file is there and, where it was sealed, holds what it held then.

    Read once per process, and again when it changed; who is told of damage makes it again.
    """
    try:
        now, sealed = stamp(path), _seal_of(path).read_text("utf-8", errors="replace")
    except FileNotFoundError:
        return path.exists()
    return _is_whole(path, sealed, *now)


@lru_cache(maxsize=100_000)
def _is_whole(path: Path, sealed: str, _size: int, _mtime_ns: int, _ctime_ns: int) -> bool:
    whole = sha256(path) == sealed
    if not whole:
        logger.warning("%s changed on its disk, where nothing writes it; it is made again", path)
    return whole


def _seal_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def replace_text(path: Path, text: str) -> None:
    """Put a whole text file in place, its folder made where there is none."""
    make_dir(path.parent)
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def replace_dir(source: Path, target: Path) -> None:
    """Put a finished directory in place of an older one of the same name.

    At every moment one of the two is there. The name is a symbolic link to a hidden directory
    beside it, and changes by one rename. What the link pointed at before stays until the next time,
    for those who are reading it. For one writer at a time; a plain directory of that name, as older
    versions made them, is taken over (dying in that moment hides it).
    """
    place = target.parent / f".{target.name}~{uuid.uuid4().hex}"
    before = target.parent / os.readlink(target) if target.is_symlink() else None
    os.rename(source, place)
    if target.exists() and before is None:
        before = target.parent / f".{target.name}~{uuid.uuid4().hex}"
        os.rename(target, before)
    link = target.parent / f".{target.name}~link"
    link.unlink(missing_ok=True)
    os.symlink(place.name, link)
    os.replace(link, target)
    sync(target.parent)
    for older in target.parent.glob(f".{target.name}~*"):
        if older not in (place, before):
            shutil.rmtree(older, ignore_errors=True)


def sha256(path: Path) -> str:
    """Return SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """Return SHA-256 of every file of a folder, by its path inside."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def leads_out(name: str) -> bool:
    """Tell whether a file's name inside a folder, as somebody wrote it down, leads out of it."""
    return name.startswith("/") or ".." in name.split("/") or "\0" in name


def has_files(folder: Path, expected: dict[str, str]) -> bool:
    """Tell whether a folder has all of these files with these digests."""
    return all(
        (folder / name).is_file() and sha256(folder / name) == digest
        for name, digest in expected.items()
    )


@contextlib.contextmanager
def locked(
    path: Path, shared: bool = False, wait: bool = True, reads_only: bool = False
) -> Iterator[None]:
    """Hold an advisory lock for the block; released by the kernel when the process dies.

    Any number of shared holders, or one exclusive one, who may take the file away: whoever waited
    for it then takes the next one of its name. Without `wait`, raises BlockingIOError if it is
    taken. Who `reads_only` holds none where it cannot be made, as on a disk mounted read-only.
    """
    kind = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while file := _lock_file(path, reads_only):
        with file:
            fcntl.flock(file, kind)
            if _is_at(file.fileno(), path):
                yield
                return
    yield


def _lock_file(path: Path, reads_only: bool) -> IO[bytes] | None:
    """Open a lock's file, made where there is none; None where who only reads may make none."""
    try:
        make_dir(path.parent)
        return path.open("ab")
    except OSError as error:
        if not reads_only or error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
    with contextlib.suppress(FileNotFoundError):
        return path.open("rb")
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Tell whether an open file is the one at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
