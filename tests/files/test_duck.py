"""Where DuckDB goes on when memory is too small."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdctr.config import Config
from ecdctr.files.duck import spill_folder
from ecdctr.impressions import contract
from tests.make import changed

LARGE = "CREATE TEMP TABLE large AS SELECT md5(range::VARCHAR) AS text FROM range(1_500_000)"


def test_what_is_too_much_for_memory_lies_where_examples_are_prepared(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    prepared, here = tmp_path / "prepared", tmp_path / "here"
    prepared.mkdir()
    here.mkdir()
    monkeypatch.chdir(here)
    small = changed(config, "data", prepared=prepared, duckdb_memory="40MB", threads=1)
    with contract.connect(small) as connection:
        connection.execute(LARGE)
        assert list(spill_folder(prepared).iterdir())
        assert not list(here.iterdir())
    assert not list(prepared.iterdir())


def test_where_nothing_is_prepared_it_lies_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert spill_folder(tmp_path / "none").parent == tmp_path
