"""Snapshot tables come back under their ids as exact as what they are stored as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch import nn

from ecdctr.errors import StoreError
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.files.rounding import Precision
from ecdctr.models.checkpoint import SIDES, align_snapshots, save_snapshot
from ecdctr.models.embeddings import FieldEmbeddings


class Tables(nn.Module):
    """The least that has a snapshot: vectors of four users and three items."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = FieldEmbeddings({"user_id": 5, "item_id": 4}, 6, seed=1)
        nn.init.normal_(self.embeddings.table.weight)


def saved(folder: Path, precision: Precision) -> np.ndarray:
    """Save a snapshot; returns the users' vectors [4, 6]."""
    ids = {"user_id": pa.array([40, 10, 30, 20]), "item_id": pa.array(["x", "z", "y"])}
    model = Tables()
    save_snapshot(model, {n: Vocabulary(one) for n, one in ids.items()}, folder, precision)
    return model.embeddings.field("user_id").detach()[1:].numpy()


@pytest.mark.parametrize(
    ("precision", "step"), [("float32", 0), ("float16", 2**-11), ("int8", 0.51 / 127)]
)
def test_a_snapshot_is_as_exact_as_the_precision_says(tmp_path, precision, step):
    vectors = saved(tmp_path, precision)
    asked = Vocabulary(pa.array([10, 99, 20]))
    (read,), (present,) = align_snapshots([tmp_path], "user", asked)
    assert present.tolist() == [False, True, False, True]
    assert read.numpy().dtype == np.float32
    expected = np.stack([np.zeros(6), vectors[1], np.zeros(6), vectors[3]])
    largest = np.abs(expected).max(axis=1, keepdims=True)
    assert (np.abs(read.numpy() - expected) <= step * largest).all()


@pytest.mark.parametrize(("precision", "bytes_"), [("float32", 24), ("float16", 12), ("int8", 8)])
def test_a_snapshot_takes_what_its_precision_says(tmp_path, precision, bytes_):
    saved(tmp_path, precision)
    schema = pq.read_schema(tmp_path / "snapshot" / "user.parquet")
    vector, width = schema.field("vector").type, schema.field("vector").type.list_size
    scale = 16 if "scale" in schema.names else 0
    assert vector.value_type.bit_width * width + scale == 8 * bytes_


@pytest.mark.parametrize("side", SIDES)
def test_int8_without_its_scales_is_refused(tmp_path, side):
    saved(tmp_path, "int8")
    path = tmp_path / "snapshot" / f"{side}.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["scale"]), path)
    with pytest.raises(StoreError, match="int8 lacks its column 'scale'"):
        align_snapshots([tmp_path], side, Vocabulary(pa.array([1])))
