"""Which files a pattern finds, and what the folders above them say."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ConfigError
from ecdctr.impressions.log_files import folder_values, matches
from tests.impressions.imported import column, rows, run


def test_a_pattern_leaves_out_what_a_writer_hides_and_the_import_says_so(tmp_path):
    (tmp_path / "logs" / "_temporary").mkdir(parents=True)
    said: list[str] = []
    files = {"a.csv": rows(), "_temporary/b.csv": rows(("9",))}
    done = run(tmp_path, files, {"files": ["**/*.csv"]}, said.append)
    assert done.read == 40
    assert said[0].startswith("'**/*.csv' leaves out _temporary/b.csv, hidden by _; ")


@pytest.mark.parametrize("name", ["b.csv.inprogress", "b.csv.tmp", "b.csv._COPYING_", "b.csv.crc"])
def test_a_pattern_leaves_out_what_is_still_written(tmp_path, name):
    said: list[str] = []
    done = run(tmp_path, {"a.csv": rows(), name: "half"}, {"files": ["*"]}, said.append)
    assert done.read == 40
    assert f" leaves out {name}, which is no finished file's name; a pattern" in "".join(said)
    assert [path.name for path in matches([name], tmp_path / "logs")] == [name]


def test_a_pattern_with_a_hidden_name_finds_it(tmp_path):
    (tmp_path / "_logs").mkdir()
    (tmp_path / "_logs" / "a.csv").touch()
    assert matches(["_logs/*.csv"], tmp_path) == [tmp_path / "_logs" / "a.csv"]
    with pytest.raises(ConfigError, match=r"No file matches '\*/\*' .* but _logs/a\.csv, hidden"):
        matches(["*/*"], tmp_path)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_folders_of_hive_are_columns_of_text(tmp_path, kind):
    (tmp_path / "all.csv").write_text(rows())
    table = pc.read_csv(tmp_path / "all.csv")
    for domain in ("ads", "natural"):
        folder = tmp_path / f"logs/kind={domain}/shift=0{len(domain)}"
        folder.mkdir(parents=True)
        of_domain = table.filter(pa.compute.equal(table["kind"], domain)).drop(["kind"])
        write = pc.write_csv if kind == "csv" else pq.write_table
        write(of_domain, folder / f"a.{kind}")
    features = {"shift": "shift", "next": "shift::INT + 1"}
    done = run(tmp_path, {}, {"files": [f"**/*.{kind}"]}, features=features)
    assert (done.natural, done.ads) == (20, 20)
    assert sorted(set(column(tmp_path, "shift"))) == ["03", "07"]
    assert sorted(set(column(tmp_path, "next"))) == [4, 8]


@pytest.mark.parametrize("folder", ["kind=ads", "Kind=ads"])
def test_a_column_of_the_files_is_not_replaced_by_a_folder(tmp_path, folder):
    """DuckDB does so for CSV, of every folder of that form on the way."""
    (tmp_path / "clicked=0" / "logs" / folder).mkdir(parents=True)
    files = {f"{folder}/a.csv": rows()}
    done = run(tmp_path / "clicked=0", files, {"files": ["*/*.csv"]})
    assert sum(column(tmp_path / "clicked=0", "click")) == 14
    assert (done.natural, done.ads) == (20, 20)


def test_only_folders_below_the_source_speak():
    source = Path("/data/year=2026")
    path = source / "k%3D=a%2Fb" / "hour=__HIVE_DEFAULT_PARTITION__" / "x=1.csv"
    assert folder_values(source, path) == {"k=": "a/b", "hour": None}
    assert folder_values(source, Path("/data/kind=ads/a.csv")) == {}
