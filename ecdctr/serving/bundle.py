"""The files of an exported bundle: what they hold, each read once; one that is damaged is named.

Needs numpy alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdctr.errors import EcdctrError, first_line
from ecdctr.files import durable
from ecdctr.files.mapped import HeldFiles
from ecdctr.serving.tables import Table

if TYPE_CHECKING:
    from ecdctr.serving.rules import Kind

SCHEMA_VERSION = 6  # also of what a request means: 6 reads a left-out count as unknown
DESCRIPTION = "bundle.json"
LONGEST = 10_000  # lists and histories, as the configuration bounds them
HASHED_ON_LOADING = 64 * 2**20  # bytes; of larger files the size, unless all is to be verified


def checksums(folder: Path) -> dict[str, dict[str, Any]]:
    """Return size and SHA-256 of a bundle's files, which bundle.json says beside its own digest.

    Those that no scorer reads, too: whoever reads them trusts the same copy.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _checksum(path) for name, path in names.items() if name != DESCRIPTION}


def sealed(description: dict[str, Any]) -> bytes:
    """Return the content of bundle.json: a description with its own digest."""
    return json.dumps({**description, "digest": _digest(description)}, indent=1).encode()


def unsealed(description: dict[str, Any]) -> dict[str, Any]:
    """Return a description without its digest; raises ValueError where that is another one's."""
    without = {key: value for key, value in description.items() if key != "digest"}
    if description.get("digest") != _digest(without):
        raise ValueError("it was changed since it was exported")
    return without


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _checksum(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


class Bundle:
    """A bundle's folder; raises EcdctrError that names the file where one is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with self.damage(DESCRIPTION):
            description = json.loads(self.content(DESCRIPTION))
            if not isinstance(description, dict):
                raise ValueError("expected an object")
        if description.get("schema_version") != SCHEMA_VERSION:
            raise EcdctrError(
                f"{folder}: expected a bundle of schema {SCHEMA_VERSION}, found "
                f"{description.get('schema_version')}; export it again with this release."
            )
        with self.damage(DESCRIPTION):
            self.description = unsealed(description)

    @property
    def kinds(self) -> dict[str, Kind]:
        """What the ids of each vocabulary are."""
        return dict(self.description["kinds"])

    def check_lengths(self) -> None:
        """Raise ValueError for a list or history of a length that no configuration allows."""
        lengths = dict(self.description["multi"])
        lengths["history_length"] = self.description["history_length"]
        for name, length in lengths.items():
            if not 1 <= length <= LONGEST:  # a request would take all memory there is
                raise ValueError(f"{name}: expected a length of 1 to {LONGEST:,}, found {length}")

    def check(self, whole: bool) -> None:
        """Compare every file with what the export wrote.

        Raises EcdctrError that names a damaged one. Large files are compared by their size alone,
        unless `whole`.
        """
        for name, expected in self.description["files"].items():
            with self.damage(name):
                if durable.leads_out(name):
                    raise ValueError("it would lie outside the bundle")
                size = (self.folder / name).stat().st_size
                if size != expected["bytes"]:
                    raise ValueError(f"expected {expected['bytes']:,} bytes, found {size:,}")
                if not whole and size > HASHED_ON_LOADING:
                    continue
                digest = _checksum(self.folder / name)["sha256"]
                if digest != expected["sha256"]:
                    raise ValueError(
                        f"expected the SHA-256 {expected['sha256'][:12]}…, found {digest[:12]}… of "
                        f"{size:,} bytes"
                    )

    def held(self) -> HeldFiles:
        """Return the files that are mapped while a scorer lives; raises EcdctrError as check."""
        names = [name for name in self.description["files"] if name.endswith(".npy")]
        for name in names:
            with self.damage(name):
                (self.folder / name).stat()
        return HeldFiles(self.folder / name for name in names)

    def content(self, name: str) -> bytes:
        """Return a file's bytes."""
        path = self.folder / name
        with self.damage(name):
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise ValueError("expected a file, found something else")
            return path.read_bytes()

    def tables(self) -> dict[str, Table]:
        """Return every vocabulary with its vectors, mapped into memory."""
        described, tables = self.description["tables"], {}
        for name, kind in self.kinds.items():
            with self.damage(f"tables/{name}"):
                tables[name] = Table(
                    self.folder / "tables",
                    name,
                    kind,
                    described["parts"],
                    described["precision"],
                )
        return tables

    def self_test(self) -> list[dict[str, Any]]:
        """Return requests with the probabilities that they must have.

        Raises EcdctrError when the file is damaged.
        """
        content = self.content("selftest.json")
        with self.damage("selftest.json"):
            cases = json.loads(content)
            if not cases or not all(
                {"request", "user_row", "probabilities"} <= set(c) for c in cases
            ):
                raise ValueError("expected a list of requests with their probabilities")
        return list(cases)

    @contextmanager
    def as_described(self) -> Iterator[None]:
        """Say that bundle.json is damaged where it describes what cannot be loaded.

        Its digest may fit all the same: whoever edits a bundle by a script makes a new one. What
        the machine lacks (memory, a disk) is no damage.
        """
        try:
            yield
        except (EcdctrError, MemoryError, OSError):
            raise
        except Exception as error:
            with self.damage(DESCRIPTION):
                raise ValueError(
                    f"it describes another bundle: {type(error).__name__}: {first_line(error)}"
                ) from None

    @contextmanager
    def damage(self, name: str) -> Iterator[None]:
        """Name the file in whatever goes wrong with it.

        What the system does not let this user read is no damage; it names the file, too.
        """
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            if not self.folder.is_dir():
                raise EcdctrError(
                    f"{self.folder} is no bundle; name a folder that 'ecdctr export' made."
                ) from None
            raise EcdctrError(f"{self.folder} is no whole bundle: {name} is missing.") from None
        except (EcdctrError, MemoryError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno is not None:
                error.filename = error.filename or str(self.folder / name)
                raise
            raise EcdctrError(
                f"The bundle {self.folder} is damaged: {name} cannot be used "
                f"({first_line(error)}). Copy it again, or export it again."
            ) from None
