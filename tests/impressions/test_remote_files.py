"""A host that never answers, whatever the protocol: one sentence, within a limit of our own."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from ecdctr.errors import ContractError, OutOfReach
from ecdctr.impressions import remote, remote_files
from ecdctr.impressions.impressions import open_impressions
from tests.impressions.logs import LAST, write_log

LIMIT = 0.2  # seconds
SILENCE = r"data.root .*://.* cannot be read: no answer came within 0.2 seconds; look at the host"


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(remote_files, "ANSWERS_WITHIN", LIMIT)
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))


class Slow(LocalFileSystem):
    """A protocol whose client waits for ever in one of its methods, until the test is over."""

    protocol = "slow"
    cachable = False
    silent = ""  # the method
    over = threading.Event()

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._wait("open")

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("slow://host")

    def _wait(self, method: str) -> None:
        if self.silent == method:
            self.over.wait()

    def ls(self, path: str, detail: bool = False, **options: Any) -> Any:
        self._wait("ls")
        return super().ls(path, detail, **options)

    def isdir(self, path: str) -> bool:
        self._wait("isdir")
        return super().isdir(path)

    def info(self, path: str, **options: Any) -> Any:
        self._wait("info")
        return super().info(path, **options)

    def cat_file(self, path: str, **options: Any) -> Any:
        self._wait("cat_file")
        return super().cat_file(path, **options)

    def get_file(self, path: str, target: str, **options: Any) -> None:
        if self.silent != "get_file":
            return super().get_file(path, target, **options)
        Path(target).write_bytes(b"some")  # and nothing more ever comes
        return self._wait("get_file")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A log at a URL of that protocol."""
    monkeypatch.setattr(Slow, "over", threading.Event())
    fsspec.register_implementation("slow", Slow, clobber=True)
    write_log(tmp_path / "data")
    yield f"slow://host{tmp_path}/data"
    Slow.over.set()
    remote_files.opened.cache_clear()


QUESTIONS: dict[str, Callable[[Any], object]] = {
    "open": lambda impressions: impressions.has("ads", LAST),
    "ls": lambda impressions: impressions.has("ads", LAST),
    "isdir": lambda impressions: impressions.dates("ads"),
    "cat_file": lambda impressions: impressions.read_text("ads", LAST, "part-0.parquet"),
    "get_file": lambda impressions: impressions.files("ads", LAST),
    "info": lambda impressions: impressions.files("ads", LAST),
}


@pytest.mark.parametrize("method", QUESTIONS)
def test_a_client_that_never_comes_back_is_given_up(root, monkeypatch, method):
    monkeypatch.setattr(Slow, "silent", method)
    with pytest.raises(OutOfReach, match=SILENCE):
        QUESTIONS[method](open_impressions(root))
    monkeypatch.setattr(Slow, "silent", "")
    assert QUESTIONS[method](open_impressions(root)), "it answers again, and so do we"


def test_a_copy_may_take_as_long_as_it_grows(root, monkeypatch):
    """Seven limits long, of a file that grows within each of them."""
    rounds = []

    def get_file(self: Slow, path: str, target: str, **_: Any) -> None:
        content = Path(path).read_bytes()
        with Path(target).open("wb") as file:
            for i in range(7):
                file.write(content[i::7])
                file.flush()
                rounds.append(i)
                self.over.wait(LIMIT)
        Path(target).write_bytes(content)

    monkeypatch.setattr(Slow, "get_file", get_file)
    monkeypatch.setattr(remote_files, "ANSWERS_WITHIN", 4 * LIMIT)
    (path,) = open_impressions(root).files("ads", LAST)
    assert path.stat().st_size
    assert len(rounds) == 7


@pytest.mark.parametrize("protocol", ["webhdfs", "ftp"])
def test_a_host_that_takes_a_connection_and_says_nothing_is_given_up(monkeypatch, protocol):
    """A firewall may swallow what is sent; these clients set no limit unless told."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"{protocol}://127.0.0.1:{silent.getsockname()[1]}/data"
        with pytest.raises(OutOfReach, match=r"data.root .* cannot be read: .*([Tt]ime|answer)"):
            open_impressions(url).dates("ads")


class ClientConnectionError(Exception):
    """As aiohttp calls what ends its connections."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConnectionRefusedError(111, "Connection refused"), OutOfReach),
        (socket.gaierror(-3, "Temporary failure in name resolution"), OutOfReach),
        (ClientConnectionError("Server disconnected"), OutOfReach),
        (PermissionError(13, "Permission denied"), ContractError),
        (ValueError("no such table"), ContractError),
    ],
)
def test_what_a_client_says_is_told_as_it_says_it(root, monkeypatch, error, kind):
    """What may be over in a while is worth another try of the same command; the rest is not."""

    def refuses(self: Slow, path: str, detail: bool = False, **_: Any) -> None:
        raise error

    monkeypatch.setattr(Slow, "ls", refuses)
    with pytest.raises(kind, match=re.escape(f"cannot be read: {error}")):
        open_impressions(root).has("ads", LAST)


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"part-0.parquet": 1}', b"\xff\xfe", None])
def test_a_damaged_list_of_what_was_copied_is_copied_again(root, tmp_path, damage):
    """As a full disk, or a person, leaves it in the cache; None is a folder in its place."""
    remote._cache.cache_clear()
    (before,) = open_impressions(root).files("ads", LAST)
    content, sealed = before.read_bytes(), before.with_name(remote.DIGESTS)
    before.write_bytes(b"damaged, too")
    sealed.unlink()
    sealed.mkdir() if damage is None else sealed.write_bytes(damage)
    remote._cache.cache_clear()  # as in another process
    (after,) = open_impressions(root).files("ads", LAST)
    assert after.read_bytes() == content


def test_a_damaged_digest_of_a_day_is_made_again(root, tmp_path):
    remote._cache.cache_clear()
    digest = open_impressions(root).digest("ads", LAST)
    (remembered,) = (tmp_path / "cache").glob("*/digests/*")
    remembered.write_bytes(b"\0" * 64)
    assert open_impressions(root).digest("ads", LAST) == digest
