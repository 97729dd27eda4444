"""A model on disk: safetensors for weights, Parquet for vocabularies and snapshot tables.

Nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ecdctr.errors import StoreError, first_line
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models.embeddings import tables_of

SIDES = {"user": "user_id", "item": "item_id"}


class Checkpoint(NamedTuple):
    """What a version holds.

    Vocabularies, one embedding table per field, dense tensors, merged snapshot tables.
    """

    vocabularies: dict[str, Vocabulary]
    tables: dict[str, torch.Tensor]
    dense: dict[str, torch.Tensor]
    merged: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]


def save(
    model: nn.Module,
    vocabularies: dict[str, Vocabulary],
    folder: Path,
    optimizer: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model, its vocabularies and, if given, its optimizer's state into an empty folder."""
    embeddings = tables_of(model)
    (folder / "vocabulary").mkdir()
    for name, vocabulary in vocabularies.items():
        vocabulary.save(folder / "vocabulary" / f"{name}.parquet")
    tables = {
        name: embeddings.field(name).detach().contiguous().clone() for name in embeddings.rows
    }
    _save_tensors(tables, folder / "embeddings.safetensors")
    elsewhere = (
        "embeddings.",
        "source.",
    )  # tables have their own file, a helping network its own version
    dense = {
        k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith(elsewhere)
    }
    _save_tensors(dense, folder / "dense.safetensors")
    merged = {}
    for side in SIDES:
        snapshots = getattr(model, "snapshots", None)
        if snapshots is not None and side in snapshots and snapshots[side].merged is not None:
            merged[side] = snapshots[side].merged[0].contiguous()
    if merged:
        _save_tensors(merged, folder / "merged.safetensors")
    if optimizer:
        _save_tensors(optimizer, folder / "optimizer.safetensors")


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Safetensors makes files that only their owner may read.

    Let those read it who may read the folder.
    """
    save_file(tensors, path)
    path.chmod(path.parent.stat().st_mode & 0o666)


def load(folder: Path) -> Checkpoint:
    """Read what save wrote; raises StoreError for files that are not what they should be."""
    try:
        return _load(folder)
    except (SafetensorError, pa.ArrowException, OSError, KeyError, ValueError) as error:
        reason = first_line(error)
        raise StoreError(
            f"{folder} cannot be read: {reason}; train the version again with --force."
        ) from None


def _load(folder: Path) -> Checkpoint:
    names = [path.stem for path in (folder / "vocabulary").glob("*.parquet")]
    merged, optimizer = folder / "merged.safetensors", folder / "optimizer.safetensors"
    return Checkpoint(
        {name: Vocabulary.load(folder / "vocabulary" / f"{name}.parquet") for name in names},
        load_file(folder / "embeddings.safetensors"),
        load_file(folder / "dense.safetensors"),
        load_file(merged) if merged.exists() else {},
        load_file(optimizer) if optimizer.exists() else {},
    )


def save_snapshot(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
    """Write TPM's user and item vectors keyed by raw id.

    The historical-embedding table handed to CPM and A-CTR.
    """
    embeddings = tables_of(model)
    (folder / "snapshot").mkdir()
    for side, name in SIDES.items():
        vectors = embeddings.field(name).detach()[1:].numpy()
        flat = pa.array(np.ascontiguousarray(vectors).ravel())
        column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        table = pa.table({"id": vocabularies[name].values, "vector": column})
        pq.write_table(table, folder / "snapshot" / f"{side}.parquet", compression="zstd")


def snapshot_ids(folder: Path, side: str) -> pa.Array:
    """Return the raw ids that a snapshot knows."""
    return (
        pq.read_table(folder / "snapshot" / f"{side}.parquet", columns=["id"])
        .column("id")
        .combine_chunks()
    )


def align_snapshots(
    folders: list[Path], side: str, vocabulary: Vocabulary
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load snapshots as tensors over the rows of a vocabulary.

    Vectors [versions, rows, d] and presence [versions, rows].

    An id that a snapshot lacks has zeros and presence false; so has row 0.
    """
    layers, presence = [], []
    for folder in folders:
        table = pq.read_table(folder / "snapshot" / f"{side}.parquet")
        column = table.column("vector").combine_chunks()
        vectors = column.flatten().to_numpy().reshape(table.num_rows, -1)
        ids = Vocabulary(table.column("id").combine_chunks())
        rows = np.concatenate([[0], ids.lookup(vocabulary.values)])
        padded = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
        layers.append(torch.from_numpy(padded[rows]))
        presence.append(torch.from_numpy(rows > 0))
    return torch.stack(layers), torch.stack(presence)
