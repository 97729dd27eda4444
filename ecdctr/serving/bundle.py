"""The files of an exported bundle: what they hold, each read once; one that is damaged is named. Needs numpy alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.errors import EcdctrError, first_line
from ecdctr.serving.rules import Kind

SCHEMA_VERSION = 4
READ = ("model.onnx", "vocabularies.npz", "selftest.json")  # by the scorer, beside bundle.json


class Table(NamedTuple):
    """Rows of one vocabulary's ids: sorted integers beside their rows, or text by id."""

    numbers: NDArray[np.int64]
    rows: NDArray[np.int32]
    texts: dict[str, int]

    def lookup(self, ids: list[Any]) -> NDArray[np.int32]:
        """Rows of ids of the vocabulary's kind [n] → [n]; 0 for unknown and None."""
        if self.texts:
            get = self.texts.get
            return np.fromiter((get(one, 0) for one in ids), np.int32, len(ids))
        if not len(self.numbers):
            return np.zeros(len(ids), np.int32)
        if None in ids:
            rows = np.zeros(len(ids), np.int32)
            present = [i for i, one in enumerate(ids) if one is not None]
            rows[present] = self.lookup([ids[i] for i in present])
            return rows
        return self.lookup_numbers(np.array(ids, np.int64))

    def lookup_numbers(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Rows of integers [n] → [n]; 0 for unknown ones."""
        if not len(self.numbers):
            return np.zeros(len(ids), np.int32)
        place = np.minimum(np.searchsorted(self.numbers, ids), len(self.numbers) - 1)
        return np.where(self.numbers[place] == ids, self.rows[place], 0).astype(np.int32)

    def ids_by_row(self, wanted: set[int]) -> dict[int, Any]:
        """The ids of some rows."""
        if self.texts:
            return {row: text for text, row in self.texts.items() if row in wanted}
        chosen = np.isin(self.rows, list(wanted))
        pairs = zip(self.rows[chosen].tolist(), self.numbers[chosen].tolist(), strict=True)
        return dict(pairs)


def packed(name: str, ids: list[Any]) -> dict[str, NDArray[Any]]:
    """The arrays of vocabularies.npz for ids in the order of their rows, which begin with 1."""
    if ids and isinstance(ids[0], str):
        parts = [text.encode() for text in ids]
        text = np.frombuffer(b"".join(parts), np.uint8)
        return {
            f"{name}.text": text,
            f"{name}.bytes": np.array([len(part) for part in parts], np.int64),
        }
    numbers = np.array(ids, np.int64)
    order = np.argsort(numbers, kind="stable")
    return {f"{name}.ids": numbers[order], f"{name}.rows": (order + 1).astype(np.int32)}


def unpacked(arrays: Any, name: str) -> Table:
    """Undo `packed`."""
    if f"{name}.text" not in arrays:
        return Table(arrays[f"{name}.ids"], arrays[f"{name}.rows"], {})
    text, ends = arrays[f"{name}.text"].tobytes(), np.cumsum(arrays[f"{name}.bytes"]).tolist()
    if ends[-1] != len(text):
        raise ValueError(f"the ids of {name} are {len(text)} bytes instead of {ends[-1]}")
    parts = zip([0, *ends[:-1]], ends, strict=True)
    texts = {text[begin:end].decode(): row for row, (begin, end) in enumerate(parts, 1)}
    return Table(np.zeros(0, np.int64), np.zeros(0, np.int32), texts)


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that a scorer reads, the arrays of a memory among them, for bundle.json."""
    arrays = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("*/*.npy"))]
    return {name: _sha256(folder / name) for name in (*READ, *arrays)}


def sealed(description: dict[str, Any]) -> bytes:
    """The content of bundle.json: a description with its own digest."""
    return json.dumps({**description, "digest": _digest(description)}, indent=1).encode()


def _digest(description: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Bundle:
    """A bundle's folder; raises EcdctrError that names the file where one is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with self._damage("bundle.json"):
            description = json.loads((folder / "bundle.json").read_bytes())
            if not isinstance(description, dict):
                raise ValueError("expected an object")
        if description.get("schema_version") != SCHEMA_VERSION:
            raise EcdctrError(
                f"{folder}: expected a bundle of schema {SCHEMA_VERSION}, found "
                f"{description.get('schema_version')}; export it again with this release."
            )
        with self._damage("bundle.json"):
            if description.pop("digest", None) != _digest(description):
                raise ValueError("it was changed since it was exported")
        self.description: dict[str, Any] = description

    @property
    def kinds(self) -> dict[str, Kind]:
        """What the ids of each vocabulary are."""
        return dict(self.description["kinds"])

    def content(self, name: str) -> bytes:
        """A file's bytes, compared with what the export wrote."""
        self.check(name)
        with self._damage(name):
            return (self.folder / name).read_bytes()

    def check(self, name: str) -> None:
        """Compare a file with what the export wrote; reads it piece by piece."""
        with self._damage(name):
            expected, found = (
                self.description.get("files", {}).get(name),
                _sha256(self.folder / name),
            )
            if expected not in (None, found):
                size = (self.folder / name).stat().st_size
                raise ValueError(
                    f"expected the SHA-256 {expected[:12]}…, found {found[:12]}… of {size:,} bytes"
                )

    def check_folder(self, name: str) -> None:
        """Compare the files of a subfolder, such as the arrays of a memory, with what the export wrote."""
        for file in sorted(self.description.get("files", {})):
            if file.startswith(f"{name}/"):
                self.check(file)

    def tables(self) -> dict[str, Table]:
        """Every vocabulary."""
        self.content("vocabularies.npz")
        with (
            self._damage("vocabularies.npz"),
            np.load(self.folder / "vocabularies.npz", allow_pickle=False) as arrays,
        ):
            return {name: unpacked(arrays, name) for name in self.kinds}

    def self_test(self) -> list[dict[str, Any]]:
        """Requests with the probabilities that they must have."""
        content = self.content("selftest.json")
        with self._damage("selftest.json"):
            cases = json.loads(content)
            if not cases or not all(
                {"request", "user_row", "probabilities"} <= set(c) for c in cases
            ):
                raise ValueError("expected a list of requests with their probabilities")
        return list(cases)

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        """Whatever goes wrong with a file, the sentence names it."""
        try:
            yield
        except FileNotFoundError:
            if not self.folder.is_dir():
                raise EcdctrError(
                    f"{self.folder} is no bundle; name a folder that 'ecdctr export' made."
                ) from None
            raise EcdctrError(f"{self.folder} is no whole bundle: {name} is missing.") from None
        except EcdctrError:
            raise
        except Exception as error:
            raise EcdctrError(
                f"The bundle {self.folder} is damaged: {name} cannot be used ({first_line(error)}). "
                "Copy it again, or export it again."
            ) from None
