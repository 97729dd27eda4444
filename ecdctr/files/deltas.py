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
            planes = np.ascontiguousarray(chunk.reshape(-1, piece.width).T)
            packed = _codec().compress(planes.reshape(-1), asbytes=True)
            out.write(FRAME.pack(len(packed)) + packed)


def apply_delta(delta: Path, base: Path, target: Path) -> None:
    """Write the file that a delta was made of.

    Raises ValueError where the delta or the base is not what it was; whoever calls compares the
    digest of what comes out.
    """
    before = _bytes(base)
    with delta.open("rb") as source, target.open("wb") as out:
        pieces = _read_pieces(source)
        for _, piece, start, length in _chunks(pieces):
            planes = np.frombuffer(_unpacked(source, length), np.uint8)
            chunk = np.ascontiguousarray(planes.reshape(piece.width, -1).T).reshape(-1)
            if piece.base is not None:
                chunk = chunk ^ before[piece.base + start : piece.base + start + length]
            out.write(chunk.data)
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


def _unpacked(source: BinaryIO, length: int) -> bytes:
    """Return the next frame, unpacked to its length; raises ValueError where it cannot be."""
    try:
        packed = source.read(FRAME.unpack(source.read(FRAME.size))[0])
        return bytes(_codec().decompress(packed, length, asbytes=True))
    except (struct.error, pa.ArrowException, OSError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from None


def _codec() -> Any:
    return pa.Codec("zstd")


def _bytes(path: Path) -> NDArray[np.uint8]:
    """Return a file's bytes, mapped into memory."""
    return np.memmap(path, np.uint8, "r")
