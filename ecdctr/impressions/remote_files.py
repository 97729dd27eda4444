"""The files at a URL: opened, listed, read and copied, within a time, every error one sentence.

On S3, GCS and Azure obstore does the work, as for the store; elsewhere whatever fsspec opens.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec

from ecdctr.errors import ContractError, OutOfReach, first_line, lacks_room, no_answer
from ecdctr.files.aws import problem_of_environment, with_variable

if TYPE_CHECKING:
    from ecdctr.impressions.reading import Files

BY_OBSTORE = ("s3", "gs", "az", "abfs")
ANSWERS_WITHIN = 60.0  # seconds; most clients of fsspec would wait for ever
OTHER_SERVER = (
    "look whether the address is right, and whether a proxy or a login page answers in its place."
)
SAYS = (
    "size",
    "e_tag",
    "ETag",
    "etag",
    "mtime",
    "modified",
    "last_modified",
    "created",
)  # of its content


def names_at(root: str, folder: str) -> list[str]:
    """List the names right in a folder."""
    with explained(root):
        if not _by_obstore(root):
            there = _answered(root, _names, folder)
            return [path.rstrip("/").rsplit("/", 1)[-1] for path in there]
        import obstore

        bucket, _, prefix = folder.partition("/")
        listed = obstore.list_with_delimiter(_bucket(root, bucket), prefix or None)
        paths = [*listed["common_prefixes"], *(one["path"] for one in listed["objects"])]
        return [path.rstrip("/").rsplit("/", 1)[-1] for path in paths]


def _names(filesystem: Any, folder: str) -> list[str]:
    filesystem.invalidate_cache()
    return filesystem.ls(folder, detail=False) if filesystem.isdir(folder) else []


def files_below(root: str, folder: str) -> Files:
    """Return the files below a folder of the root, each with what a listing says of its content.

    On object storage one request per 1,000 objects.
    """
    path = path_of(root)
    with explained(root):
        if not _by_obstore(root):
            opened(root)[0].invalidate_cache()
            return _files_in(root, f"{path}/{folder}", below=2)
        import obstore  # fsspec's own walk asks for every folder

        bucket, _, prefix = path.partition("/")
        pages = obstore.list(_bucket(root, bucket), prefix=f"{prefix}/{folder}".lstrip("/"))
        files = {f"{bucket}/{one['path']}": _said(dict(one)) for page in pages for one in page}
        if not files:
            _refuse_other_server(root, bucket)
        return files


def _refuse_other_server(root: str, bucket: str) -> None:
    """Raise ContractError where what lists nothing has an object that nobody can have written.

    The client reads a page of HTML, as a proxy or a login answers with, as a listing of nothing.
    """
    import obstore
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    with suppress(FileNotFoundError, PermissionDeniedError, UnauthenticatedError):
        obstore.get(_bucket(root, bucket), f".probe/{uuid.uuid4().hex}")
        raise ContractError(
            f"data.root {root} cannot be read: its endpoint answers with something whatever it is "
            f"asked for; {OTHER_SERVER}"
        )


def _files_in(root: str, folder: str, below: int) -> Files:
    """Return the files of a folder, and of so many folders below; none of a folder that is gone.

    fsspec's own find takes a folder that it cannot list for an empty one, without its days.
    """
    try:
        entries = _answered(root, lambda filesystem: filesystem.ls(folder, detail=True))
    except FileNotFoundError:
        return {}
    files: Files = {}
    for info in entries:
        name = info["name"].rstrip("/")
        if info["type"] != "directory":
            files[info["name"]] = _said(info)
        elif below and name != folder:
            files |= _files_in(root, name, below - 1)
    return files


def read_text(root: str, name: str) -> str:
    """Return the text of a small file below the root."""
    path = f"{path_of(root)}/{name}"
    with explained(root):
        content: bytes = _answered(root, lambda filesystem: filesystem.cat_file(path))
    return content.decode(errors="replace")


def copied(root: str, path: str, target: Path) -> dict[str, Any] | None:
    """Copy a file, and return what a listing would say of the content that was copied.

    None if it is gone.
    """
    with explained(root):
        try:
            return _copy(root, path, target)
        except FileNotFoundError:
            return None


def _copy(root: str, path: str, target: Path) -> dict[str, Any]:
    if not _by_obstore(root):
        _answered(root, lambda filesystem: filesystem.get_file(path, str(target)), growing=target)
        return _said(_answered(root, _info, path))
    import obstore

    bucket, _, key = path.partition("/")
    answer = obstore.get(_bucket(root, bucket), key)
    with target.open("wb") as file:
        for chunk in answer:
            file.write(chunk)
    return _said(dict(answer.meta))


def _info(filesystem: Any, path: str) -> dict[str, Any]:
    filesystem.invalidate_cache()
    info: dict[str, Any] = filesystem.info(path)
    return info


def _said(info: dict[str, Any]) -> dict[str, Any]:
    """Return what of a file's description changes with its content.

    Its tag, and where it has none the times.
    """
    tag = str(info.get("e_tag") or "").strip('"')
    if tag:
        return {"size": info["size"], "e_tag": tag}
    return {name: str(info[name]) for name in SAYS if info.get(name) is not None} | {
        "size": info["size"]
    }


def _by_obstore(root: str) -> bool:
    return root.partition("://")[0] in BY_OBSTORE


@lru_cache(maxsize=16)
def _bucket(root: str, bucket: str) -> Any:
    import obstore

    if root.startswith("s3://") and (problem := problem_of_environment()):
        raise ContractError(f"data.root {root} cannot be read: {problem}")
    return obstore.store.from_url(f"{root.split('://', maxsplit=1)[0]}://{bucket}")


def path_of(root: str) -> str:
    """Return the path of a root as its file system names it."""
    return opened(root)[1]


@lru_cache(maxsize=16)
def opened(root: str) -> tuple[Any, str]:
    """Return the file system of a URL and the root's path there.

    Raises ContractError where it cannot be opened, or never answers.
    """
    if _by_obstore(root):
        try:
            from obstore.fsspec import register
        except ImportError:
            raise ContractError(
                f"data.root {root} lies on object storage, which needs the extra 'objects': "
                "pip install 'ecdctr[objects]'"
            ) from None
        register(list(BY_OBSTORE))
    with explained(root):
        filesystem, path = _in_time(lambda: fsspec.core.url_to_fs(root))
        if root.startswith("webhdfs://"):
            session = filesystem.session  # so that a request ends, too, and not its waiting alone
            session.request = partial(session.request, timeout=ANSWERS_WITHIN)
    return filesystem, path.rstrip("/")


def _answered(
    root: str, ask: Callable[..., Any], *arguments: Any, growing: Path | None = None
) -> Any:
    """Ask the file system of a root; raises TimeoutError where no answer comes in time."""
    filesystem, _ = opened(root)
    return _in_time(lambda: ask(filesystem, *arguments), growing)


def _in_time(ask: Callable[[], Any], growing: Path | None = None) -> Any:
    """Return what a client answers; a copy has the time again whenever its file has grown.

    Clients of fsspec have limits of their own, or none, and a firewall may swallow what they send;
    so each question has a thread, which is left behind where nothing comes back.
    """
    answers: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:  # whatever it is, who asked gets it
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True, name="ecdctr-remote")
    thread.start()
    thread.join(ANSWERS_WITHIN)
    size = 0
    while thread.is_alive():
        before, size = size, growing.stat().st_size if growing and growing.exists() else 0
        if size <= before:
            raise TimeoutError(
                f"no answer came within {ANSWERS_WITHIN:g} seconds; look at the host, the port and "
                "what lies between"
            )
        thread.join(ANSWERS_WITHIN)
    if errors:
        raise errors[0]
    return answers[0]


@contextmanager
def explained(root: str) -> Iterator[None]:
    """Say whatever a file system says as one sentence.

    Raises OutOfReach for what may be over in a while, ContractError for the rest.
    """
    try:
        yield
    except (ContractError, OutOfReach):
        raise
    except Exception as error:
        if lacks_room(error):
            raise
        said = with_variable(first_line(error))
        if isinstance(error, json.JSONDecodeError):  # of a protocol that answers in JSON
            said = f"its answer is no listing ({said}); {OTHER_SERVER}"
        kind = OutOfReach if no_answer(error) else ContractError
        raise kind(f"data.root {root} cannot be read: {said}") from None
