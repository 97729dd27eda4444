"""A model on disk: safetensors for weights, Parquet for vocabularies and snapshot tables.

Nothing is unpickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ecdctr.errors import StoreError, first_line
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.files.rounding import Precision, quantized
from ecdctr.models.embeddings import tables_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

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
    """Save so that all may read it: safetensors makes files that only their owner may read.

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


def save_snapshot(
    model: nn.Module,
    vocabularies: dict[str, Vocabulary],
    folder: Path,
    precision: Precision = "float32",
) -> None:
    """Write TPM's user and item vectors keyed by raw id.

    The historical-embedding table handed to CPM and A-CTR.
    """
    embeddings = tables_of(model)
    (folder / "snapshot").mkdir()
    for side, name in SIDES.items():
        vectors = embeddings.field(name).detach()[1:].numpy()
        columns = {"id": vocabularies[name].values}
        if precision == "int8":
            vectors, scales = quantized(vectors)
            columns["scale"] = pa.array(scales)
        flat = pa.array(np.ascontiguousarray(vectors.astype(precision, copy=False)).ravel())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
        path = folder / "snapshot" / f"{side}.parquet"
        pq.write_table(pa.table(columns), path, compression="zstd")


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
    """Load snapshots as tensors over the rows of a vocabulary, float32 whatever they are stored as.

    Vectors [versions, rows, d] and presence [versions, rows].

    An id that a snapshot lacks has zeros and presence false; so has row 0.
    """
    layers, presence = [], []
    for folder in folders:
        table = pq.read_table(folder / "snapshot" / f"{side}.parquet")
        vectors = _vectors(table)
        ids = Vocabulary(table.column("id").combine_chunks())
        rows = np.concatenate([[0], ids.lookup(vocabulary.values)])
        padded = np.concatenate([np.zeros((1, vectors.shape[1]), np.float32), vectors])
        layers.append(torch.from_numpy(padded[rows]))
        presence.append(torch.from_numpy(rows > 0))
    return torch.stack(layers), torch.stack(presence)


def _vectors(table: pa.Table) -> NDArray[np.float32]:
    """Return the vectors of a snapshot [n, d]; raises StoreError for int8 without its scales."""
    stored = table.column("vector").combine_chunks().flatten().to_numpy()
    vectors: NDArray[np.float32] = stored.reshape(table.num_rows, -1).astype(np.float32, copy=False)
    if stored.dtype != np.int8:
        return vectors
    if "scale" not in table.column_names:
        raise StoreError(
            "A snapshot in int8 lacks its column 'scale'; train the TPM version again with --force."
        )
    vectors *= table.column("scale").to_numpy().astype(np.float32)[:, None]
    return vectors
