"""What a bundle knows of each id: vectors beside the graph, mapped into memory. Needs numpy alone.

Per vocabulary a few arrays. The ids lie in sorted order; the vectors of the id at place p are in
row p + 1, those of unknown ids in row 0. Text is found by a hash of 64 bits and then compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ecdctr.files.mapped import Ordered, mapped, write_ordered
from ecdctr.files.rounding import quantized

if TYPE_CHECKING:
    from ecdctr.files.rounding import Precision
    from ecdctr.serving.rules import Kind

Rows = Callable[[NDArray[np.int64]], list[NDArray[np.float32]]]  # rows [n] → parts, [n, w] each
CHUNK = 1 << 20  # rows written at a time
FEW = 4096  # look-ups for which taking a row twice costs less than finding the distinct ones


class Ids:
    """The ids of one vocabulary and the row of each."""

    def __init__(self, folder: Path, name: str, kind: Kind) -> None:
        """Map the files; raises OSError or ValueError when one is missing or damaged."""
        self.kind, text = kind, kind == "string"
        self.ordered = Ordered(folder, f"{name}.keys")
        self.keys = self.ordered.keys
        self.text = mapped(folder / file_name(name, "text"), 1) if text else None
        self.ends = mapped(folder / file_name(name, "ends"), 1) if text else None
        if self.text is not None and self.ends is not None:
            expected = int(self.ends[-1]) if len(self.ends) else 0
            if len(self.ends) != len(self.keys) or expected != len(self.text):
                raise ValueError(
                    f"{name}: expected {len(self.keys):,} ids of {expected:,} bytes, found "
                    f"{len(self.ends):,} of {len(self.text):,}"
                )

    def __len__(self) -> int:
        return len(self.keys)

    def lookup(self, ids: Sequence[Any]) -> NDArray[np.int32]:
        """Return rows of ids of the vocabulary's kind [n] → [n]; 0 for unknown and None."""
        rows = np.zeros(len(ids), np.int32)
        if not len(self.keys):
            return rows
        if self.text is not None:
            return self._lookup_text(ids, rows)
        if None not in ids:
            return self.lookup_numbers(np.array(ids, np.int64))
        present = [i for i, one in enumerate(ids) if one is not None]
        rows[present] = self.lookup_numbers(np.array([ids[i] for i in present], np.int64))
        return rows

    def lookup_numbers(self, ids: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return rows of integers [n] → [n]; 0 for unknown ones."""
        if not len(self.keys):
            return np.zeros(len(ids), np.int32)
        place = np.minimum(self.ordered.places(ids), len(self.keys) - 1)
        return np.where(self.keys[place] == ids, place + 1, 0).astype(np.int32)

    def id_of(self, row: int) -> Any:
        """Return the id of a row."""
        if self.text is not None:
            return self._text(row - 1).decode()
        number = int(self.keys[row - 1])
        return bool(number) if self.kind == "boolean" else number

    def _lookup_text(self, ids: Sequence[Any], rows: NDArray[np.int32]) -> NDArray[np.int32]:
        present = [i for i, one in enumerate(ids) if one is not None]
        texts = [ids[i].encode("utf-8", "surrogatepass") for i in present]
        places = self.ordered.places(np.array([hashed(text) for text in texts], np.int64))
        for i, text, place in zip(present, texts, places.tolist(), strict=True):
            rows[i] = self._row_of(text, place)
        return rows

    def _row_of(self, text: bytes, place: int) -> int:
        key = hashed(text)
        while place < len(self.keys) and self.keys[place] == key:  # several texts of one hash
            if self._text(place) == text:
                return place + 1
            place += 1
        return 0

    def _text(self, place: int) -> bytes:
        assert self.text is not None and self.ends is not None  # noqa: S101  # ids are text
        start = int(self.ends[place - 1]) if place else 0
        return self.text[start : int(self.ends[place])].tobytes()


class Vectors:
    """The vectors of one vocabulary's rows, as float32 whatever they are stored as."""

    def __init__(self, folder: Path, name: str, parts: Sequence[int], precision: Precision) -> None:
        """Open the files; `parts` are widths.

        Raises OSError or ValueError when a file is missing or damaged.
        """
        self.stored = mapped(folder / file_name(name, "vectors"), 2)
        self.width = self.stored.shape[1]
        if self.stored.dtype != np.dtype(precision):
            raise ValueError(f"{name}: expected {precision}, found {self.stored.dtype}")
        self.scales = None
        if precision == "int8":
            self.scales = mapped(folder / file_name(name, "scales"), 2)
            self.widths = _prefix(parts, self.width)
            if self.scales.shape != (len(self.stored), len(self.widths)):
                raise ValueError(
                    f"{name}: expected scales for {len(self.stored):,} rows of {len(self.widths)} "
                    f"parts, found {self.scales.shape}"
                )

    def take(self, rows: NDArray[np.int32], target: NDArray[np.float32]) -> None:
        """Write the vectors of rows [n] into target [n, width or more]."""
        if self.scales is None:
            target[:, : self.width] = self.stored[rows]
            return
        scales = np.repeat(self.scales[rows].astype(np.float32), self.widths, axis=1)
        np.multiply(self.stored[rows], scales, out=target[:, : self.width])


class Table:
    """One vocabulary: which ids it has, and their vectors."""

    def __init__(
        self, folder: Path, name: str, kind: Kind, parts: Sequence[int], precision: Precision
    ) -> None:
        self.ids = Ids(folder, name, kind)
        self.vectors = Vectors(folder, name, parts, precision)
        if len(self.vectors.stored) != len(self.ids) + 1:
            raise ValueError(
                f"{name}: expected vectors of {len(self.ids) + 1:,} rows, found "
                f"{len(self.vectors.stored):,}"
            )


def file_name(name: str, part: str) -> str:
    """Return the file of one array of a vocabulary."""
    return f"{name}.{part}.npy"


def hashed(text: bytes) -> int:
    """Hash a text to 64 bits, as a signed integer."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little", signed=True)


def write_ids(folder: Path, name: str, ids: NDArray[np.int64] | list[str]) -> NDArray[np.int64]:
    """Write the ids of a vocabulary in the order of its rows [n]; returns the row of each place."""
    if not isinstance(ids, list):
        order = np.argsort(ids, kind="stable")
        write_ordered(folder, f"{name}.keys", ids[order])
        return order + 1
    texts = [one.encode("utf-8", "surrogatepass") for one in ids]
    keys = np.fromiter((hashed(text) for text in texts), np.int64, len(texts))
    order = np.argsort(keys, kind="stable")
    ordered = [texts[i] for i in order]
    ends = np.cumsum([len(text) for text in ordered], dtype=np.int64)
    bytes_ = np.frombuffer(b"".join(ordered), np.uint8)
    write_ordered(folder, f"{name}.keys", keys[order])
    for part, array in (("ends", ends), ("text", bytes_)):
        np.save(folder / file_name(name, part), array, allow_pickle=False)
    return order + 1


def write_vectors(
    folder: Path, name: str, order: NDArray[np.int64], rows: Rows, precision: Precision
) -> None:
    """Write the parts of row 0 and then of the rows in `order` [n], a chunk at a time."""
    widths = [part.shape[1] for part in rows(np.zeros(1, np.int64))]
    shape = (len(order) + 1, sum(widths))
    stored = _created(folder / file_name(name, "vectors"), precision, shape)
    scales = None
    if precision == "int8":
        scales = _created(folder / file_name(name, "scales"), "float16", (shape[0], len(widths)))
    for start in range(0, shape[0], CHUNK):
        chunk = order[max(start - 1, 0) : start + CHUNK - 1]
        parts = rows(np.concatenate([[0], chunk]) if start == 0 else chunk)
        end = start + len(parts[0])
        if scales is None:
            stored[start:end] = np.concatenate(parts, axis=1)
            continue
        numbers, factors = zip(*(quantized(part) for part in parts), strict=True)
        stored[start:end] = np.concatenate(numbers, axis=1)
        scales[start:end] = np.stack(factors, axis=1)
    for array in (stored, scales):
        if array is not None:
            array.flush()


class Layout(NamedTuple):
    """What a network reads of ids."""

    fields: Sequence[str]
    multi: Sequence[tuple[str, int]]
    clicked: Sequence[str]  # fields of a click of the history, the item first
    width: int  # numbers of an id

    @classmethod
    def of(cls, description: dict[str, Any]) -> Layout:
        """Return what bundle.json says of it."""
        clicked = ("item_id", *description["history_features"])
        width = sum(description["tables"]["parts"])
        return cls(description["fields"], description["multi"], clicked, width)


def compact(
    arrays: dict[str, NDArray[Any]], tables: dict[str, Table], layout: Layout
) -> dict[str, NDArray[Any]]:
    """Turn rows of tables into rows of one small table that goes with the batch.

    `arrays` are those of Scorer.encode; ids, multi and history come back as places in `rows`
    [U, width], which holds what the network reads of each id. Row 0 is nobody: what pads. Of a
    click the item pads, while a feature may be unknown.
    """
    fields, multi, clicked, width = layout
    padding = {"item_id", *(name for name, _ in multi)}
    taken: list[tuple[Table | None, NDArray[np.int32]]] = [(None, np.zeros(1, np.int32))]
    ids, padded = np.empty_like(arrays["ids"]), np.zeros_like(arrays["multi"])
    start = 1
    for column, name in enumerate(fields):
        rows, places = _distinct(arrays["ids"][:, column])
        ids[:, column] = places + start
        taken.append((tables[name], rows))
        start += len(rows)
    lists: list[tuple[str, NDArray[np.int32], NDArray[np.int32]]] = []
    first = 0
    for name, count in multi:
        part = slice(first, first + count)
        lists.append((name, arrays["multi"][:, part], padded[:, part]))
        first += count
    history, length = np.zeros_like(arrays["history"]), arrays["gaps"].shape[1]
    for n, name in enumerate(clicked):
        part = slice(n * length, (n + 1) * length)
        lists.append((name, arrays["history"][:, part], history[:, part]))
    for name, given, target in lists:
        rows, places = _distinct_of_lists(given)
        pads = given == 0 if name in padding else False
        target[...] = np.where(pads, 0, places + start)
        taken.append((tables[name], rows))
        start += len(rows)
    return arrays | {
        "ids": ids,
        "multi": padded,
        "history": history,
        "rows": _gathered(taken, start, width),
    }


def _gathered(
    taken: Iterable[tuple[Table | None, NDArray[np.int32]]], count: int, width: int
) -> NDArray[np.float32]:
    vectors = np.zeros((count, width), np.float32)
    start = 0
    for table, rows in taken:
        if table is not None:
            table.vectors.take(rows, vectors[start : start + len(rows)])
        start += len(rows)
    return vectors


def _distinct(rows: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return rows to take, and the place of each of `rows` [n] among them."""
    if len(rows) and (rows == rows[0]).all():
        return rows[:1], np.zeros(len(rows), np.int32)
    if len(rows) <= FEW:
        return rows, np.arange(len(rows), dtype=np.int32)
    distinct, places = np.unique(rows, return_inverse=True)
    return distinct, places.astype(np.int32)


def _distinct_of_lists(
    lists: NDArray[np.int32],
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the same of lists [n, width]; those of one request's candidates are all the same."""
    if len(lists) and (lists == lists[0]).all():
        places = np.arange(lists.shape[1], dtype=np.int32)
        return lists[0], np.broadcast_to(places, lists.shape)
    rows, places = _distinct(lists.reshape(-1))
    return rows, places.reshape(lists.shape)


def _created(path: Path, dtype: str, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(path, "w+", np.dtype(dtype), shape)


def _prefix(parts: Sequence[int], width: int) -> list[int]:
    """Return the first parts that fill a width; raises ValueError when none do."""
    sums = np.cumsum(parts).tolist()
    if width not in sums:
        raise ValueError(
            f"expected vectors of {' or '.join(map(str, sums))} numbers, found {width}"
        )
    return list(parts[: sums.index(width) + 1])
