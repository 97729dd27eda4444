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

from ecdctr.errors import ContractError, out_of_reach
from ecdctr.impressions import remote_files
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
    with pytest.raises(ContractError, match=SILENCE) as told:
        QUESTIONS[method](open_impressions(root))
    assert out_of_reach(told.value)
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
        with pytest.raises(ContractError, match=r"data.root .* cannot be read: .*([Tt]ime|answer)"):
            open_impressions(url).dates("ads")


class ClientConnectionError(Exception):
    """As aiohttp calls what ends its connections."""


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ConnectionRefusedError(111, "Connection refused"), True),
        (socket.gaierror(-3, "Temporary failure in name resolution"), True),
        (ClientConnectionError("Server disconnected"), True),
        (PermissionError(13, "Permission denied"), False),
        (ValueError("no such table"), False),
    ],
)
def test_what_a_client_says_is_told_as_it_says_it(root, monkeypatch, error, again):
    """What may be over in a while is worth another try of the same command; the rest is not."""

    def refuses(self: Slow, path: str, detail: bool = False, **_: Any) -> None:
        raise error

    monkeypatch.setattr(Slow, "ls", refuses)
    with pytest.raises(ContractError, match=re.escape(f"cannot be read: {error}")) as told:
        open_impressions(root).has("ads", LAST)
    assert out_of_reach(told.value) is again
