"""A file of arrays as what changed against another file of the same kind; put together, exact.

Each array is XORed with the one of its name, row by row as far as both go: a row that nobody
touched is zeros, and of a number that moved a little the sign, the exponent and the first digits
are. Bytes of the same place in a number lie together (as in Parquet's BYTE_STREAM_SPLIT), and zstd
packs them. What the base has not, new rows and other arrays, is packed as it is.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from numpy.typing import NDArray

CHUNK = 4 * 2**20  # bytes XORed and packed at a time; whole numbers, whatever their width
FRAME = struct.Struct("<I")  # the packed bytes that follow


class Piece(NamedTuple):
    """Consecutive bytes of a file."""

    length: int
    base: int | None  # where the bytes that they are XORed with begin, None for none
    width: int  # bytes of a number


def write_delta(file: Path, base: Path, target: Path) -> None:
    """Write what changed in a .safetensors file against another one."""
    pieces = list(_pieces(_header(file), _header(base)))
    changed, before = _bytes(file), _bytes(base)
    with target.open("wb") as out:
        out.write(json.dumps({"pieces": pieces}).encode() + b"\n")
        for place, piece, start, length in _chunks(pieces):
            chunk = changed[place : place + length]
            if piece.base is not None:
                chunk = chunk ^ before[piece.base + start : piece.base + start + length]
            _pack(chunk, piece.width, out)


def apply_delta(delta: Path, base: Path, target: Path) -> None:
    """Write the file that a delta was made of.

    Raises ValueError where the delta or the base is not what it was; whoever calls compares the
    digest of what comes out.
    """
    before = _bytes(base)
    with delta.open("rb") as source, target.open("wb") as out:
        pieces = _read_pieces(source)
        for _, piece, start, length in _chunks(pieces):
            chunk = _unpack(source, length, piece.width)
            if piece.base is not None:
                chunk = chunk ^ before[piece.base + start : piece.base + start + length]
            out.write(chunk.data)
        if source.read(1):
            raise ValueError("it goes on after its end")


def write_row_delta(file: Path, base: Path, rows: NDArray[np.int64], target: Path) -> None:
    """Write what changed in the rows of a .npy file [n, d] against rows of another one [m, d].

    rows: [n], where each row was in the base, -1 for a new one. Raises ValueError where rows of one
    are no rows of the other.
    """
    changed, before = np.load(file, mmap_mode="r"), np.load(base, mmap_mode="r")
    _check_rows(changed.shape[1:], changed.dtype, before)
    with file.open("rb") as whole:
        head = whole.read(file.stat().st_size - changed.nbytes)
    with target.open("wb") as out:
        out.write(
            json.dumps({"head": head.decode("latin-1"), "shape": changed.shape}).encode() + b"\n"
        )
        for part in _row_chunks(len(changed), changed[:1].nbytes):
            _pack(_raw(changed[part]) ^ _gathered(before, rows[part]), changed.itemsize, out)


def apply_row_delta(delta: Path, base: Path, rows: NDArray[np.int64], target: Path) -> None:
    """Write the .npy file [n, d] that a delta was made of, by its base, a .npy file [m, d].

    rows: [n], as in write_row_delta. Raises ValueError as apply_delta does.
    """
    before = np.load(base, mmap_mode="r")
    with delta.open("rb") as source, target.open("wb") as out:
        try:
            first = json.loads(source.readline())
            head, (count, width) = first["head"].encode("latin-1"), first["shape"]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its first line is no head of an array ({error})") from None
        _check_rows((width,), before.dtype, before)
        if len(rows) != count:
            raise ValueError(f"it is of {count:,} rows, found {len(rows):,}")
        out.write(head)
        size = width * before.itemsize
        for part in _row_chunks(count, size):
            length = (part.stop - part.start) * size
            chunk = _unpack(source, length, before.itemsize)
            out.write((chunk ^ _gathered(before, rows[part])).data)
        if source.read(1):
            raise ValueError("it goes on after its end")


def _pieces(header: dict[str, Any], base: dict[str, Any]) -> Iterator[Piece]:
    """Yield the pieces of a file: its header, then of each array the rows that the base has too."""
    yield Piece(header["data"], None, 1)
    arrays = sorted(header["arrays"].items(), key=lambda one: one[1]["data_offsets"])
    for name, array in arrays:
        length = _length(array)
        width = length // max(math.prod(array["shape"]), 1) or 1
        same = base["arrays"].get(name)
        shared = 0
        if same and _row(same) == _row(array):
            shared = min(length, _length(same))
            yield Piece(shared, base["data"] + same["data_offsets"][0], width)
        yield Piece(length - shared, None, width)


def _row(array: dict[str, Any]) -> tuple[str, tuple[int, ...], bool]:
    """Return what must be the same for rows to be compared."""
    return array["dtype"], tuple(array["shape"][1:]), bool(array["shape"])


def _length(array: dict[str, Any]) -> int:
    first, end = array["data_offsets"]
    return int(end - first)


def _header(path: Path) -> dict[str, Any]:
    """Return the arrays of a .safetensors file, and where its data begins."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        arrays = json.loads(file.read(length))
    arrays.pop("__metadata__", None)
    return {"arrays": arrays, "data": 8 + length}


def _chunks(pieces: list[Piece]) -> Iterator[tuple[int, Piece, int, int]]:
    """Yield place in the file, piece, start in the piece and length of what is packed together."""
    place = 0
    for piece in pieces:
        for start in range(0, piece.length, CHUNK):
            yield place + start, piece, start, min(CHUNK, piece.length - start)
        place += piece.length


def _read_pieces(source: BinaryIO) -> list[Piece]:
    try:
        return [Piece(*one) for one in json.loads(source.readline())["pieces"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"its first line is no list of pieces ({error})") from None


def _pack(chunk: NDArray[np.uint8], width: int, out: BinaryIO) -> None:
    """Write bytes of numbers of a width as a frame."""
    planes = np.ascontiguousarray(chunk.reshape(-1, width).T)
    packed = _codec().compress(planes.reshape(-1), asbytes=True)
    out.write(FRAME.pack(len(packed)) + packed)


def _unpack(source: BinaryIO, length: int, width: int) -> NDArray[np.uint8]:
    """Read the next frame, of so many bytes once unpacked; raises ValueError if it is damaged."""
    try:
        packed = source.read(FRAME.unpack(source.read(FRAME.size))[0])
        unpacked = _codec().decompress(packed, length, asbytes=True)
    except (struct.error, pa.ArrowException, OSError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from None
    planes = np.frombuffer(unpacked, np.uint8)
    return np.ascontiguousarray(planes.reshape(width, -1).T).reshape(-1)


def _check_rows(shape: tuple[int, ...], dtype: np.dtype[Any], base: NDArray[Any]) -> None:
    if base.ndim != 2 or base.shape[1:] != shape or base.dtype != dtype:
        raise ValueError(f"rows of {shape} {dtype} are no rows of {base.shape} {base.dtype}")


def _row_chunks(count: int, size: int) -> Iterator[slice]:
    """Yield the rows, of `size` bytes each, that are packed together."""
    step = max(CHUNK // max(size, 1), 1)
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


def _gathered(base: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the bytes of rows of the base, zeros for those that it has not."""
    taken = np.array(base[np.maximum(rows, 0)])
    taken[rows < 0] = 0
    return _raw(taken)


def _raw(rows: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(rows).reshape(-1).view(np.uint8)


def _codec() -> Any:
    return pa.Codec("zstd")


def _bytes(path: Path) -> NDArray[np.uint8]:
    """Return a file's bytes, mapped into memory."""
    return np.memmap(path, np.uint8, "r")
