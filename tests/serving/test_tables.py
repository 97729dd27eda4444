"""Tables beside the graph: exact look-ups, bounded rounding, rows that go with a batch."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.files.mapped import write_ordered
from ecdctr.files.rounding import Precision, quantized
from ecdctr.serving import tables
from ecdctr.serving.rules import Kind
from ecdctr.serving.tables import Ids, Layout, Table, compact, write_ids, write_vectors

PARTS = [3, 2]
TEXT = st.text(max_size=4) | st.sampled_from(["a\0", "a", "\0", "", "é\0\0"])
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)


def written(ids: Any, kind: Kind) -> tuple[Ids, list[int]]:
    """Return ids as a bundle has them, and the row of the vocabulary at each place."""
    with tempfile.TemporaryDirectory() as folder:
        given_ids = ids if kind == "string" else np.array(ids, np.int64)
        order = write_ids(Path(folder), "x", given_ids)
        return Ids(Path(folder), "x", kind), order.tolist()


@given(st.lists(TEXT, unique=True))
def test_a_vocabulary_of_text_is_exact_also_where_ids_end_in_nul(ids):
    vocabulary, order = written(ids, "string")
    rows = vocabulary.lookup([*ids, "a\0\0\0", None]).tolist()
    assert [order[row - 1] if row else 0 for row in rows] == [
        *range(1, len(ids) + 1),
        ids.index("a\0\0\0") + 1 if "a\0\0\0" in ids else 0,
        0,
    ]
    assert [vocabulary.id_of(row) for row in rows[: len(ids)]] == ids


@given(st.lists(NUMBERS, unique=True, max_size=20))
def test_a_vocabulary_of_numbers_is_exact(ids):
    vocabulary, order = written(ids, "integer")
    rows = vocabulary.lookup([*ids, None, 4]).tolist()
    expected = [*range(1, len(ids) + 1), 0, ids.index(4) + 1 if 4 in ids else 0]
    assert [order[row - 1] if row else 0 for row in rows] == expected
    assert [vocabulary.id_of(row) for row in rows[: len(ids)]] == ids


def test_a_vocabulary_of_truth_values():
    vocabulary, order = written([1, 0], "boolean")
    rows = vocabulary.lookup([False, True, None]).tolist()
    assert [order[row - 1] if row else 0 for row in rows] == [2, 1, 0]
    assert vocabulary.id_of(rows[1]) is True


def test_texts_of_one_hash_are_told_apart(monkeypatch):
    monkeypatch.setattr(tables, "hashed", lambda text: len(text) % 2)
    ids = ["a", "bb", "c", "dd", "", "eee"]
    vocabulary, order = written(ids, "string")
    rows = vocabulary.lookup([*ids, "f", "gg"]).tolist()
    assert [order[row - 1] if row else 0 for row in rows] == [1, 2, 3, 4, 5, 6, 0, 0]


def table(folder: Path, vectors: np.ndarray, precision: Precision) -> Table:
    """Return ids 10, 20, …, the last one first, with their vectors [n + 1, 5].

    Row 0 is of unknown ids.
    """
    ids = np.arange(len(vectors) - 1, 0, -1, dtype=np.int64) * 10
    order = write_ids(folder, "x", ids)
    split = np.cumsum(PARTS)[:-1]
    write_vectors(folder, "x", order, lambda rows: np.split(vectors[rows], split, 1), precision)
    return Table(folder, "x", "integer", PARTS, precision)


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("float32", 0), ("float16", 1e-3), ("int8", 1 / 120)]
)
def test_vectors_come_back_under_their_ids_as_exact_as_the_precision_says(
    tmp_path, monkeypatch, precision, tolerance, chunk
):
    monkeypatch.setattr(tables, "CHUNK", chunk)
    rng = np.random.default_rng(1)
    vectors = (rng.normal(size=(8, 5)) * [[1, 1, 1, 100, 100]]).astype(np.float32)
    made = table(tmp_path, vectors, precision)
    target = np.zeros((8, 6), np.float32)
    made.vectors.take(made.ids.lookup([70, 60, 50, 40, 30, 20, 10, 5]), target)
    expected = vectors[[1, 2, 3, 4, 5, 6, 7, 0]]
    for part in (slice(0, 3), slice(3, 5)):
        largest = np.abs(expected[:, part]).max(axis=1, keepdims=True)
        assert (np.abs(target[:, part] - expected[:, part]) <= tolerance * largest + 1e-12).all()
    assert not target[:, 5].any()


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8))
def test_int8_is_wrong_by_no_more_than_half_a_step(values):
    vectors = np.array([values], np.float32)
    numbers, scales = quantized(vectors)
    step = float(scales[0])
    assert step <= np.abs(vectors).max() / 127 * 1.002 + 2e-7
    assert np.abs(numbers * np.float32(step) - vectors).max() <= step * 0.5001 + 1e-30


def batch(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {
        "ids": rng.integers(0, 8, (rows, 2)).astype(np.int32),
        "multi": rng.integers(0, 8, (rows, 2)).astype(np.int32),
        "history": rng.integers(0, 8, (rows, 8)).astype(np.int32),  # items, and a feature of them
        "gaps": np.zeros((rows, 4), np.uint8),
        "numeric": np.zeros((rows, 1), np.float32),
    }


@pytest.mark.parametrize("few", [0, 1_000_000])
@pytest.mark.parametrize("same", [False, True])
def test_what_goes_with_a_batch_are_the_vectors_of_its_rows(tmp_path, monkeypatch, few, same):
    monkeypatch.setattr(tables, "FEW", few)
    vectors = np.random.default_rng(2).normal(size=(8, 5)).astype(np.float32)
    made = table(tmp_path, vectors, "float32")
    by_name = dict.fromkeys(["user_id", "item_id", "tags", "category"], made)
    arrays = batch(np.random.default_rng(3), 50)
    if same:
        arrays = {name: np.repeat(array[:1], 50, 0) for name, array in arrays.items()}
    layout = Layout(["user_id", "item_id"], [("tags", 2)], ["item_id", "category"], 6)
    compacted = compact(arrays, by_name, layout)
    ordered = np.zeros((8, 6), np.float32)
    made.vectors.take(np.arange(8, dtype=np.int32), ordered)
    assert (compacted["rows"][compacted["ids"]] == ordered[arrays["ids"]]).all()
    for name, length in (("multi", 2), ("history", 4)):  # 0 pads
        given, places = arrays[name][:, :length], compacted[name][:, :length]
        assert ((places > 0) == (given > 0)).all()
        padded = np.where((given > 0)[..., None], ordered[given], 0)
        assert (compacted["rows"][places] == padded).all()
    categories = compacted["rows"][compacted["history"][:, 4:]]  # 0 is one that is unknown
    assert (categories == ordered[arrays["history"][:, 4:]]).all()


def test_a_table_without_its_scales_or_of_another_size_is_refused(tmp_path):
    vectors = np.ones((8, 5), np.float32)
    table(tmp_path, vectors, "int8")
    (tmp_path / "x.scales.npy").rename(tmp_path / "away")
    with pytest.raises(FileNotFoundError):
        Table(tmp_path, "x", "integer", PARTS, "int8")
    np.save(tmp_path / "x.scales.npy", np.ones((8, 1), np.float16))
    with pytest.raises(ValueError, match="expected scales for 8 rows of 2 parts, found"):
        Table(tmp_path, "x", "integer", PARTS, "int8")
    with pytest.raises(ValueError, match="expected float32, found int8"):
        Table(tmp_path, "x", "integer", PARTS, "float32")
    np.save(tmp_path / "x.scales.npy", np.ones((8, 2), np.float16))
    write_ordered(tmp_path, "x.keys", np.arange(3))
    with pytest.raises(ValueError, match="expected vectors of 4 rows, found 8"):
        Table(tmp_path, "x", "integer", PARTS, "int8")
