"""Tensors on disk that no process has to hold whole: safetensors, written and read in pieces."""

from __future__ import annotations

import contextlib
import json
import math
import struct
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import torch
from safetensors import safe_open

from ecdctr.models.share import ALL, Share

if TYPE_CHECKING:
    from types import EllipsisType

KINDS = {torch.int64: "I64", torch.float32: "F32", torch.int32: "I32"}  # in the order of a file


class Stored:
    """A tensor in a file, of which is read what is asked for, when it is asked for."""

    def __init__(self, path: Path, name: str, rows: int) -> None:
        self.path, self.name, self._rows = path, name, rows

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, index: torch.Tensor | slice | int | EllipsisType) -> torch.Tensor:
        """Return rows as a tensor of their own: pages of the file are let go of."""
        with safe_open(self.path, framework="pt") as file:
            taken: torch.Tensor = file.get_tensor(self.name)[index]
            return taken if isinstance(index, torch.Tensor) else taken.clone()


def stored(path: Path) -> dict[str, Stored]:
    """Return the tensors of a file by name.

    Raises SafetensorError or FileNotFoundError where there is no such file.
    """
    with safe_open(path, framework="pt") as file:
        names = file.keys()  # no dictionary: it has no iterator
        shapes = {name: file.get_slice(name).get_shape() for name in names}
    return {name: Stored(path, name, shape[0] if shape else 1) for name, shape in shapes.items()}


def write(
    path: Path,
    tensors: dict[str, torch.Tensor],
    dealt: Collection[str] = (),
    share: Share = ALL,
    metadata: dict[str, str] | None = None,
) -> None:
    """Write the file that safetensors would write of the whole tensors, byte for byte.

    Of those named in `dealt` each process has its rows. All processes call it, the first writes.
    """
    order = sorted(tensors, key=lambda name: (list(KINDS).index(tensors[name].dtype), name))
    shapes = {
        name: [share.total(len(tensors[name])), *tensors[name].shape[1:]]
        if name in dealt
        else list(tensors[name].shape)
        for name in order
    }
    with path.open("wb") if share.first else contextlib.nullcontext() as file:
        if file:
            file.write(
                _header({name: (tensors[name].dtype, shapes[name]) for name in order}, metadata)
            )
        for name in order:
            if name in dealt:
                for piece in share.pieces(tensors[name]):
                    _append(file, piece)
            else:
                _append(file, tensors[name])


def _header(
    arrays: dict[str, tuple[torch.dtype, list[int]]], metadata: dict[str, str] | None
) -> bytes:
    """Return the head of a file of arrays that follow one another."""
    head: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, (kind, shape) in arrays.items():
        end = place + math.prod(shape) * kind.itemsize
        head[name] = {"dtype": KINDS[kind], "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _append(file: BinaryIO | None, piece: torch.Tensor) -> None:
    if file:
        file.write(piece.detach().cpu().contiguous().numpy().data)
