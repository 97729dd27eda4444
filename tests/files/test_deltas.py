"""A file of arrays as changes: put together it is the file, whatever its arrays are."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ecdctr.files import deltas
from ecdctr.files.deltas import apply_delta, write_delta

TYPES = st.sampled_from(["float32", "float16", "int64", "int8", "bool"])
SHAPES = st.sampled_from([(), (0,), (1,), (7,), (40, 3), (41, 3), (40, 4), (3, 2, 2)])
FILES = st.dictionaries(st.sampled_from("abcd"), st.tuples(TYPES, SHAPES), max_size=4)


def arrays(described: dict[str, tuple[str, tuple[int, ...]]], seed: int) -> dict[str, np.ndarray]:
    drawn = np.random.default_rng(seed)
    return {
        name: np.asarray(drawn.normal(size=shape) * 9).astype(dtype)
        for name, (dtype, shape) in described.items()
    }


@given(before=FILES, after=FILES, chunk=st.sampled_from([8, 64, deltas.CHUNK]))
def test_any_file_comes_back_from_its_changes_against_any_other(before, after, chunk):
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setattr(deltas, "CHUNK", chunk)
        base, file, delta, again = (
            Path(name) / part for part in ("base", "file", "delta", "again")
        )
        save_file(arrays(before, 1), base)
        save_file(arrays(after, 2), file, {"of": "the file alone"})
        write_delta(file, base, delta)
        apply_delta(delta, base, again)
        assert again.read_bytes() == file.read_bytes()


def test_rows_that_nobody_touched_cost_nearly_nothing_wherever_they_lie(tmp_path):
    table = np.random.default_rng(1).normal(size=(20_000, 16)).astype(np.float32)
    save_file({"user_id": table}, tmp_path / "base")
    changed = np.concatenate([table, table[:100] * 2])
    touched = np.random.default_rng(2).choice(len(table), 200, replace=False)
    changed[touched] += 0.1
    save_file({"user_id": changed}, tmp_path / "file")
    write_delta(tmp_path / "file", tmp_path / "base", tmp_path / "delta")
    rows = (len(touched) + 100) * 16 * 4
    assert (tmp_path / "delta").stat().st_size < 2 * rows < changed.nbytes / 30


@pytest.mark.parametrize("damage", ["cut", "longer", "first line", "flipped", "empty"])
def test_a_damaged_delta_is_noticed_or_gives_other_bytes(tmp_path, damage):
    table = np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32)
    save_file({"a": table}, tmp_path / "base")
    save_file({"a": table + 1}, tmp_path / "file")
    delta = tmp_path / "delta"
    write_delta(tmp_path / "file", tmp_path / "base", delta)
    content = delta.read_bytes()
    flipped = content[:-20] + bytes([content[-20] ^ 255]) + content[-19:]
    delta.write_bytes(
        {
            "cut": content[:-1],
            "longer": content + b"x",
            "first line": b"{}\n",
            "flipped": flipped,
            "empty": b"",
        }[damage]
    )
    try:
        apply_delta(delta, tmp_path / "base", tmp_path / "again")
    except ValueError:
        return
    assert (tmp_path / "again").read_bytes() != (tmp_path / "file").read_bytes()
