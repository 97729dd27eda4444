"""Requests to a bucket: conditional writes, and errors of its endpoint as one sentence."""

from __future__ import annotations

import contextlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    PermissionDeniedError,
    PreconditionError,
)
from obstore.store import from_url

from ecdctr.errors import OutOfReach, StoreError, TryAgain, first_line, no_answer
from ecdctr.files import durable
from ecdctr.files.aws import problem_of_environment, with_variable
from ecdctr.store.documents import read_document

CONTENTS = "contents.json"  # the files of a folder with their SHA-256
MEND = (
    "look whether the endpoint is the bucket's own and nothing answers in its place, else bring "
    "back an older version of the object"
)
TRIES = 100  # of a swap, against others who change the same object
Swap = Callable[[dict[str, Any]], Any]


class Denied(StoreError):
    """What the credentials do not allow."""


class Bucket:
    """A bucket and a prefix.

    Credentials and the endpoint come from the environment (AWS_…, GOOGLE_…, AZURE_…).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        scheme, _, rest = url.partition("://")
        host, slash, path = rest.partition("/")
        if scheme == "s3" and (problem := problem_of_environment()):
            raise StoreError(f"The store {url} cannot be used: {problem}.")
        address = f"{scheme}://{host}{slash}{quote(path)}"  # where '#', '?' and '%' are letters
        try:
            with self.explained():
                self.objects = from_url(address, retry_config={"max_retries": 4})
        except ValueError as error:
            raise StoreError(f"The store {url} is no URL: {error}; mend the address.") from None
        self._checked = False

    def check(self) -> None:
        """Ask once, before the first write: a probe of conditional writes that leaves nothing.

        Raises StoreError for a bucket that is not there, or that has no conditional writes, Denied
        where the credentials allow no writes.
        """
        if self._checked:
            return
        key = f".probe/{uuid.uuid4().hex}"
        try:
            first = self.put(key, b"1", "create")
            again = self.put(key, b"2", "create")
            stale = self.put(key, b"3", '"0123456789abcdef0123456789abcdef"')
        except FileNotFoundError:  # of something that is to be created: its bucket
            raise StoreError(
                f"The store {self.url} cannot be written: there is no such bucket; create it, or "
                "mend the address."
            ) from None
        except (StoreError, NotImplementedError) as error:
            kind = Denied if isinstance(error, Denied) else StoreError
            raise kind(f"The store {self.url} cannot be written: {first_line(error)}") from None
        self.delete(key)
        if not first or again or stale:
            missing = "If-None-Match" if again else "If-Match"
            raise StoreError(
                f"The store {self.url} cannot be written: its endpoint ignores conditional writes "
                f"({missing}), so two writers would overwrite each other. Use S3 itself or a "
                "server that has them."
            )
        self._checked = True

    def swap(self, key: str, change: Swap) -> Any:
        """Read a JSON object, change it, write it back if nobody else did meanwhile, else again.

        `change` may be called on an object that it has changed already, when the answer to the swap
        was lost. Raises TryAgain when others are faster every time.
        """
        self.check()
        for attempt in range(TRIES):
            value, tag = self.read_json(key)
            before = json.dumps(value)
            result = change(value)
            if json.dumps(value) == before or self.put(key, json.dumps(value).encode(), tag):
                return result
            wait(attempt)
        raise self.contended(key)

    def contended(self, key: str) -> TryAgain:
        """Return what to raise where others were faster each time."""
        return TryAgain(
            f"{self.url}/{key}: others were faster {TRIES} times; run the same command again."
        )

    def read_json(self, key: str) -> tuple[dict[str, Any], str]:
        """Return an object and its tag; an empty one, to be created, where there is none."""
        content, tag = self.get(key)
        return ({}, "create") if content is None else (self.parsed(key, content), tag)

    def parsed(self, key: str, content: bytes) -> dict[str, Any]:
        """Return an object's content as JSON; raises StoreError for what nobody here wrote."""
        return read_document(content, f"{self.url}/{key}", MEND)

    def get(self, key: str) -> tuple[bytes | None, str]:
        """Return an object's content and tag; None and 'create' where there is none."""
        with self.explained():
            try:
                answer = obstore.get(self.objects, key)
                return bytes(answer.bytes()), str(answer.meta["e_tag"])
            except FileNotFoundError as error:
                if "NoSuchBucket" in str(error):
                    raise StoreError(
                        f"The store {self.url} cannot be used: there is no such bucket."
                    ) from None
                return None, "create"

    def put(self, key: str, content: bytes | Path, tag: str) -> bool:
        """Write if nothing is there (tag 'create') or if what is there has this tag.

        False if another was faster.
        """
        mode: Any = "create" if tag == "create" else {"e_tag": tag}
        with self.explained():
            try:
                obstore.put(self.objects, key, content, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True

    def upload(self, folder: Path, place: str, skip: tuple[str, ...] = ()) -> None:
        """Write the files of a folder, then the list of them."""
        contents = durable.digests(folder)
        for name in contents:
            if name not in skip:
                self.overwrite(f"{place}/{name}", folder / name)
        self.overwrite(f"{place}/{CONTENTS}", json.dumps(contents).encode())

    def overwrite(self, key: str, content: bytes | Path) -> None:
        """Write an object, whatever is there."""
        with self.explained():
            obstore.put(self.objects, key, content)

    def download(self, key: str, path: Path) -> None:
        """Write an object to a file; raises StoreError if it is missing."""
        with self.explained():
            try:
                with path.open("wb") as file:
                    for chunk in obstore.get(self.objects, key):
                        file.write(chunk)
            except FileNotFoundError:
                raise StoreError(f"{self.url}/{key} is missing.") from None

    def delete(self, key: str) -> None:
        """Delete an object, if it is there."""
        with self.explained(), contextlib.suppress(FileNotFoundError):
            obstore.delete(self.objects, key)

    def delete_folder(self, place: str) -> None:
        """Delete the objects of a folder; what a crash leaves of them is for `sweep`."""
        content, _ = self.get(f"{place}/{CONTENTS}")
        for name in self.parsed(f"{place}/{CONTENTS}", content) if content else ["manifest.json"]:
            self.delete(f"{place}/{name}")
        self.delete(f"{place}/{CONTENTS}")

    def listed(self) -> Iterator[tuple[str, float, int]]:
        """Yield key, time of the last change in seconds, and bytes of each object."""
        with self.explained():
            for page in obstore.list(self.objects):
                for entry in page:
                    yield entry["path"], entry["last_modified"].timestamp(), entry["size"]

    @contextlib.contextmanager
    def explained(self) -> Iterator[None]:
        """Yield errors of the endpoint as one sentence.

        Raises OutOfReach for those that may be over in a while, Denied for what is not allowed,
        StoreError for others.
        """
        try:
            yield
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            raise
        except BaseError as error:
            said = with_variable(first_line(error))
            denied = Denied if isinstance(error, PermissionDeniedError) else StoreError
            kind = OutOfReach if no_answer(error) else denied
            raise kind(f"The store {self.url} cannot be used: {said}.") from None


def wait(attempt: int) -> None:
    """Wait longer each time, up to a second, at random: who collided shall not do so again."""
    time.sleep(random.SystemRandom().uniform(0, min(0.05 * 1.5**attempt, 1.0)))
