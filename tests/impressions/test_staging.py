"""An import that is killed: what it leaves is never read as data, and goes with the next one."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from ecdctr.errors import ConfigError, ContractError
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import WRITTEN
from tests.impressions.imported import column, rows, run

LEFT = "_import-working-" + "0123456789abcdef" * 2


def test_what_a_killed_import_left_goes_with_the_next_one(tmp_path):
    left = tmp_path / "data" / LEFT / "raw-0" / "_domain=ads" / "_date=2026-01-01"
    left.mkdir(parents=True)
    (left / "part-0.parquet").write_text("half")
    (tmp_path / "data" / "_import-lock").touch()
    (tmp_path / "data" / "_import-notes").mkdir()  # of somebody else
    assert open_impressions(tmp_path / "data").dates("ads") == []
    assert run(tmp_path, {"a.csv": rows()}).read == 40
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["_import-notes", "domain=ads", "domain=natural"]


def test_while_an_import_works_no_other_one_writes_into_its_folder(tmp_path):
    root = tmp_path / "data"
    working = root / LEFT
    working.mkdir(parents=True)
    with (root / "_import-lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=f"Another import writes into {root}"):
            run(tmp_path, {"a.csv": rows()})
        assert working.is_dir()
    assert run(tmp_path, {"a.csv": rows()}).read == 40
    assert not working.exists()


class Killed(BaseException):
    """The end of the process."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_an_import_that_is_killed_between_two_domains_is_no_data_until_it_is_finished(
    tmp_path, monkeypatch, renames
):
    left = [renames]
    rename = Path.rename

    def until(path: Path, target: Path) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        rename(path, target)

    root = tmp_path / "data"
    monkeypatch.setattr(Path, "rename", until)
    with pytest.raises(Killed):
        run(tmp_path, {"a.csv": rows()})
    monkeypatch.undo()
    if not renames:
        assert os.listdir(root) == []
        return
    assert (root / WRITTEN).exists()
    for ask in (
        open_impressions(root).dates,
        lambda domain: open_impressions(root).files(domain, None),
    ):
        with pytest.raises(ContractError, match="Run the import again, which finishes that"):
            ask("ads")
    with pytest.raises(ConfigError, match="already holds domain=ads, domain=natural"):
        run(tmp_path, {"a.csv": rows()})
    assert [len(open_impressions(root).dates(domain)) for domain in ("natural", "ads")] == [1, 1]
    assert len(column(tmp_path, "click")) == 40


@pytest.mark.parametrize("name", ["_import-archived", "_import-ab_12cd9"])
def test_a_folder_of_somebody_else_stays_whatever_its_name_is(tmp_path, name):
    (tmp_path / "data" / name).mkdir(parents=True)
    (tmp_path / "data" / name / "kept").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / LEFT).symlink_to(tmp_path / "elsewhere")
    assert run(tmp_path, {"a.csv": rows()}).read == 40
    assert (tmp_path / "data" / name / "kept").exists()
    assert (tmp_path / "data" / LEFT).is_symlink()


IN_THE_WAY = {
    "a folder as the lock": (lambda root: (root / "_import-lock").mkdir(),
                             "_import-lock: expected the lock"),
    "a pipe as the lock": (lambda root: os.mkfifo(root / "_import-lock"),
                           "_import-lock: expected the lock"),
    "a file of what is written": (lambda root: (root / WRITTEN).touch(),
                                  f"{WRITTEN}: expected a folder of an import"),
    "something beside domains": (lambda root: (root / WRITTEN / ".DS_Store").mkdir(parents=True),
                                 ".DS_Store: expected domains"),
    "a domain twice": (lambda root: [(root / WRITTEN / "domain=ads").mkdir(parents=True),
                                     (root / "domain=ads" / "x").mkdir(parents=True)],
                       "domain=ads are both there; move one of them away"),
}  # fmt: skip


@pytest.mark.parametrize("what", IN_THE_WAY)
def test_what_stands_in_an_imports_way_is_named(tmp_path, what):
    make, words = IN_THE_WAY[what]
    (tmp_path / "data").mkdir()
    make(tmp_path / "data")
    before = sorted((tmp_path / "data").rglob("*"))
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, {"a.csv": rows()})
    assert sorted((tmp_path / "data").rglob("*")) == before


def test_a_link_to_nothing_is_no_folder_to_import_into(tmp_path):
    (tmp_path / "data").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="data: expected a folder or nothing"):
        run(tmp_path, {"a.csv": rows()})


def test_a_folder_whose_name_duckdb_writes_elsewhere_is_refused(tmp_path):
    """It takes a backslash for a slash where it writes by day."""
    with pytest.raises(
        ConfigError, match=r"a\\b/data: a backslash, which DuckDB takes for a slash"
    ):
        run(tmp_path / "a\\b", {"a.csv": rows()})
    assert [path.name for path in tmp_path.iterdir()] == ["a\\b"]
    assert not (tmp_path / "a\\b" / "data").exists()
