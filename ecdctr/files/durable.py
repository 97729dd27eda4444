"""The file operations that everything durable is made of, each one step that can crash; tests crash between them."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


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
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write; it takes its place when the block ends well, else it goes away."""
    temporary = path.parent / f".{uuid.uuid4().hex}"
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_dir(source: Path, target: Path) -> None:
    """Put a finished directory in place of an older one of the same name, if there is one."""
    if target.exists():
        retired = target.parent / f".retired-{uuid.uuid4().hex}"
        os.rename(target, retired)
        os.rename(source, target)
        shutil.rmtree(retired, ignore_errors=True)
    else:
        os.rename(source, target)


def sha256(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a folder, by its path inside."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path) for path in paths}


def has_files(folder: Path, expected: dict[str, str]) -> bool:
    """Whether a folder has all of these files with these digests."""
    return all(
        (folder / name).exists() and sha256(folder / name) == digest
        for name, digest in expected.items()
    )


@contextlib.contextmanager
def locked(path: Path, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """Hold an advisory lock for the block; released by the kernel when the process dies.

    Any number of shared holders, or one exclusive one. Without `wait`, raises BlockingIOError if it is taken.
    """
    make_dir(path.parent)
    with path.open("a") as file:
        fcntl.flock(
            file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
        )
        yield
