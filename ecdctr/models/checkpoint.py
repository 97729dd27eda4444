"""A model on disk: safetensors for weights, Parquet for vocabularies and snapshot tables.

Nothing is unpickled.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecdctr.errors import StoreError, first_line
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.files.rounding import Precision, quantized
from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.share import ALL, AT_ONCE, Share
from ecdctr.models.tensors import Stored, stored, write

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIDES = {"user": "user_id", "item": "item_id"}
ROW_GROUP = 1 << 20  # rows of a snapshot that are written at once: Parquet's own
READ_AT_ONCE = 1 << 20  # bytes of a column


class Checkpoint(NamedTuple):
    """What a version holds.

    Vocabularies, one embedding table per field, dense tensors, merged snapshot tables. Of tables
    and moments is read what is asked for.
    """

    vocabularies: dict[str, Vocabulary]
    tables: dict[str, Stored]
    dense: dict[str, torch.Tensor]
    merged: dict[str, torch.Tensor]
    optimizer: dict[str, Stored]


class Moments(NamedTuple):
    """An optimizer's state that was saved, and for each row held of a field whose row it takes."""

    saved: dict[str, Stored]
    rows: dict[str, NDArray[np.int32]]  # as embeddings.carry reads them


def save(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
    """Write a model and its vocabularies into a folder.

    Where each process holds a share of the tables all of them call it, and the first writes.
    """
    embeddings = FieldEmbeddings.of(model)
    if embeddings.share.first:
        _save_shared(model, vocabularies, folder)
    tables = {name: embeddings.field(name) for name in embeddings.rows}
    _save_dealt(tables, folder / "embeddings.safetensors", tables, embeddings.share)
    merged = {}
    for side in SIDES:
        snapshots = getattr(model, "snapshots", None)
        if snapshots is not None and side in snapshots and snapshots[side].merged is not None:
            merged[side] = snapshots[side].merged[0]
    if merged:
        _save_dealt(merged, folder / "merged.safetensors", merged, embeddings.share)


def save_optimizer(optimizer: dict[str, torch.Tensor], share: Share, folder: Path) -> None:
    """Write an optimizer's state, as `save` does.

    Tensors of tables are [r, …] over the rows that this process holds.
    """
    dealt = [name for name in optimizer if of_tables(name)]
    _save_dealt(optimizer, folder / "optimizer.safetensors", dealt, share)


def of_tables(name: str) -> bool:
    """Tell whether an optimizer's tensor of this name has a row for each of a table's."""
    return name.startswith("tables/") and name != "tables/step"


def _save_shared(model: nn.Module, vocabularies: dict[str, Vocabulary], folder: Path) -> None:
    """Write what all processes have: vocabularies and dense layers."""
    (folder / "vocabulary").mkdir()
    for name, vocabulary in vocabularies.items():
        vocabulary.save(folder / "vocabulary" / f"{name}.parquet")
    elsewhere = (
        "embeddings.",
        "source.",
    )  # tables have their own file, a helping network its own version
    dense = {
        k: v.contiguous() for k, v in model.state_dict().items() if not k.startswith(elsewhere)
    }
    _save_dealt(dense, folder / "dense.safetensors", (), ALL)


def _save_dealt(
    tensors: dict[str, torch.Tensor], path: Path, dealt: Collection[str], share: Share
) -> None:
    """Write a file that those may read who may read the folder."""
    write(path, tensors, dealt, share)
    if share.first:
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
    ids = {name: Vocabulary.load(folder / "vocabulary" / f"{name}.parquet") for name in names}
    pa.default_memory_pool().release_unused()  # what Parquet was read with
    return Checkpoint(
        ids,
        stored(folder / "embeddings.safetensors"),
        load_file(folder / "dense.safetensors"),
        load_file(merged) if merged.exists() else {},
        stored(optimizer) if optimizer.exists() else {},
    )


def save_snapshot(
    model: nn.Module,
    vocabularies: dict[str, Vocabulary],
    folder: Path,
    precision: Precision = "float32",
) -> None:
    """Write TPM's user and item vectors keyed by raw id.

    The historical-embedding table handed to CPM and A-CTR. All processes call it, as `save`.
    """
    embeddings = FieldEmbeddings.of(model)
    (folder / "snapshot").mkdir()
    for side, name in SIDES.items():
        held = embeddings.field(name).detach()
        of_ids = held[1:] if 0 in embeddings.held_of(name) else held  # row 0 is nobody's
        pieces = embeddings.share.pieces(of_ids, ROW_GROUP)
        path, ids = folder / "snapshot" / f"{side}.parquet", vocabularies[name].values
        writer: pq.ParquetWriter | None = None
        place = 0
        for piece in pieces:
            table = _snapshot(ids[place : place + len(piece)], piece.numpy(), precision)
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            place += len(piece)
        if writer:
            writer.close()


def _snapshot(ids: pa.Array, vectors: NDArray[np.float32], precision: Precision) -> pa.Table:
    columns = {"id": ids}
    rounded: NDArray[np.float32] | NDArray[np.int8] = vectors
    if precision == "int8":
        rounded, scales = quantized(vectors)
        columns["scale"] = pa.array(scales)
    flat = pa.array(np.ascontiguousarray(rounded.astype(precision, copy=False)).ravel())
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    return pa.table(columns)


def snapshot_ids(folder: Path, side: str) -> pa.Array:
    """Return the raw ids [n] that a snapshot knows, in the order of its vectors."""
    return (
        pq.read_table(folder / "snapshot" / f"{side}.parquet", columns=["id"])
        .column("id")
        .combine_chunks()
    )


def align_snapshots(
    folders: list[Path], side: str, vocabulary: Vocabulary, share: Share = ALL
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load snapshots as tensors over the rows of a vocabulary, float32 whatever they are stored as.

    Vectors [versions, rows, d] and presence [versions, rows], of a share's rows.

    An id that a snapshot lacks has zeros and presence false; so has row 0.
    """
    held = share.rows(vocabulary.rows)
    paths = [folder / "snapshot" / f"{side}.parquet" for folder in folders]
    dim = pq.read_schema(paths[0]).field("vector").type.list_size
    layers = torch.zeros(len(paths), len(held), dim)
    presence = torch.zeros(len(paths), len(held), dtype=torch.bool)
    for number, path in enumerate(paths):
        with pq.ParquetFile(path, buffer_size=READ_AT_ONCE, pre_buffer=False) as file:
            _refuse_unscaled(file.schema_arrow)
            rows = vocabulary.rows_of_each(file.read(["id"])["id"])
            place = 0
            for batch in file.iter_batches(AT_ONCE, columns=file.schema_arrow.names[1:]):
                row = rows[place : place + batch.num_rows]
                mine = np.flatnonzero((row > 0) & (row >= held.start) & (row < held.stop))
                targets = torch.from_numpy(row[mine] - held.start).long()
                vectors = _vectors(pa.Table.from_batches([batch]))[mine]
                layers[number].index_copy_(0, targets, torch.from_numpy(vectors))
                presence[number].index_fill_(0, targets, True)
                place += batch.num_rows
    pa.default_memory_pool().release_unused()
    return layers, presence


def _vectors(table: pa.Table) -> NDArray[np.float32]:
    """Return the vectors of a snapshot [n, d]."""
    flat = table.column("vector").combine_chunks().flatten().to_numpy()
    vectors: NDArray[np.float32] = flat.reshape(table.num_rows, -1).astype(np.float32, copy=False)
    if flat.dtype == np.int8:
        vectors *= table.column("scale").to_numpy().astype(np.float32)[:, None]
    return vectors


def _refuse_unscaled(schema: pa.Schema) -> None:
    """Raise StoreError for a snapshot in int8 without its scales."""
    if schema.field("vector").type.value_type == pa.int8() and "scale" not in schema.names:
        raise StoreError(
            "A snapshot in int8 lacks its column 'scale'; train the TPM version again with --force."
        )
