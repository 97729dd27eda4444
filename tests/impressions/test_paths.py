"""Paths are names: what DuckDB.

Spark and fsspec take for patterns or addresses is read as it stands.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from typer.testing import CliRunner

from ecdctr import doctor
from ecdctr.cli import app
from ecdctr.errors import ContractError, OutOfReach
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.contract import connect, validate, validate_day
from ecdctr.impressions.days import present_days
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import date_of, day_folder, is_part
from ecdctr.impressions.statistics import measure
from tests.impressions.logs import FIRST, LAST, config_of, day_table, write_day, write_log

NAMES = (
    "data[1]",
    "a*b",
    "what?",
    "{x,y}",
    "sp ace",
    "#1",
    "50%20",
    "a+b=c&d",
    "[!a]",
    "~x",
    "ünï",
    "se;mi'co",
    "a::b",
)
OTHERS = (
    "date=2026-01-02.bak",
    "date=__HIVE_DEFAULT_PARTITION__",
    "date=20260102",
    "date=2026-1-2",
    "date=2026-02-30",
    "2026-01-02",
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log, its last day as prepared, and another log; whoever changes one takes a copy."""
    folder = tmp_path_factory.mktemp("plain")
    write_log(folder / "log")
    write_log(folder / "other", change=lambda t, *_: t.slice(0, 5))
    (day,) = prepare(config_of(folder / "log", folder / "prepared"), "ads", [LAST])
    shutil.copy(day.path, folder / "expected")
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_read_and_written(plain, tmp_path, monkeypatch, name):
    """Beside it lies what it would match as a pattern, with another content."""
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    root = tmp_path / name / name
    shutil.copytree(plain / "log", root)
    for twin in ("data1", "aXb", "whatX", "x", "b"):
        shutil.copytree(plain / "other", tmp_path / twin / twin)
    for address in (root, f"file://{root}") if "::" not in name else (root,):
        kind = type(address).__name__
        config = config_of(address, tmp_path / name / f"prepared {kind}")
        (day,) = prepare(config, "ads", [LAST])
        assert day.path.read_bytes() == (plain / "expected").read_bytes()
        assert open_impressions(address).dates("ads") == [
            FIRST + dt.timedelta(days=n) for n in range(3)
        ]


@pytest.mark.parametrize("at", ["", "file://"])
@pytest.mark.parametrize(
    "day",
    ["DOMAIN=ads/date=2025-12-31", "domain=Ads/date=2025-12-31", "domain=ads/Date=2025-12-31"],
)
def test_a_folder_in_another_case_is_refused_and_not_left_out(tmp_path, monkeypatch, at, day):
    """Spark and Hive read such folders as the ones beside them."""
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    write_log(tmp_path / "data")
    shutil.copytree(tmp_path / f"data/domain=ads/date={FIRST}", tmp_path / "data" / day)
    root = f"{at}{tmp_path}/data" if at else tmp_path / "data"
    with pytest.raises(ContractError, match=r"expected d.*=.*found a name in another case"):
        prepare(config_of(root, tmp_path / "prepared"), "ads", [LAST])


def test_files_of_any_name_are_read_and_hidden_ones_are_not(tmp_path):
    write_log(tmp_path / "data", days=2)
    table = day_table("ads", 2)
    for n, name in enumerate(("a[0-9]*", "b?", "{c}")):
        write_day(tmp_path / "data", "ads", 2, table.slice(20 * n, 20), name)
    for name in ("._a", ".part-0", "_temporary"):
        write_day(tmp_path / "data", "ads", 2, table, name)
    folder = day_folder(tmp_path / "data", "ads", LAST)
    (folder / "_SUCCESS").touch()
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    with connect(config) as db:
        report = validate_day(db, config, "ads", LAST)
    assert (report.rows, report.violations) == (60, [])
    (folder / "more.parquet").mkdir()
    with connect(config) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert (
        str(violation)
        == f"{folder / 'more.parquet'}: expected a Parquet file, found a folder; move its files up"
    )


def test_folders_that_are_no_day_are_left_out_and_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_airflow", list)
    write_log(tmp_path / "data")
    expected = prepare(config_of(tmp_path / "data", tmp_path / "a"), "ads", [LAST])[0]
    for other in OTHERS:
        shutil.copytree(
            day_folder(tmp_path / "data", "ads", FIRST), tmp_path / "data" / "domain=ads" / other
        )
    (tmp_path / "data" / "domain=ads" / "_SUCCESS").touch()
    assert (
        prepare(config_of(tmp_path / "data", tmp_path / "b"), "ads", [LAST])[0].fingerprint
        == expected.fingerprint
    )
    local, remote = open_impressions(tmp_path / "data"), open_impressions(f"file://{tmp_path}/data")
    assert local.other_folders("ads") == remote.other_folders("ads") == sorted(OTHERS)
    assert len(local.dates("ads")) == len(remote.dates("ads")) == 3
    path = tmp_path / "c.yaml"
    names = [f.model_dump(mode="json") for f in config_of(tmp_path, tmp_path).features]
    path.write_text(json.dumps({"data": {"root": "data", "lookback_days": 2}, "features": names}))
    done = CliRunner().invoke(
        app, ["--config", str(path), "--store", f"{tmp_path}/store", "validate"]
    )
    assert done.exit_code == 0, done.stderr
    assert all(f"domain=ads/{other}" in done.stderr for other in OTHERS)
    assert any(
        finding.fine and "ads: 3 days" in finding.text
        for finding in doctor.examine(path, tmp_path / "store")
    )


@pytest.mark.parametrize("below", ["", "date=2026-01-01"])
def test_a_remote_folder_that_cannot_be_listed_is_no_missing_day(tmp_path, monkeypatch, below):
    write_day(tmp_path / "data", "ads", 0, day_table("ads", 0))
    listed = LocalFileSystem.ls

    def ls(self, path, **options):
        if path.endswith(f"domain=ads/{below}".rstrip("/")):
            raise ConnectionResetError("the other side hung up")
        return listed(self, path, **options)

    impressions = open_impressions(f"file://{tmp_path}/data")
    assert impressions.dates("ads") == [FIRST]
    assert impressions.dates("natural") == []
    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    with pytest.raises(OutOfReach, match="cannot be read: the other side hung up"):
        impressions.dates("ads")


UNREAD = (
    "part-1.PARQUET",
    "000000_0",
    "hour=01/part-0.parquet",
    "part-1.parquet.tmp",
    "part-1.csv",
)


@pytest.mark.parametrize("name", UNREAD)
def test_what_is_not_read_of_a_day_is_never_dropped_in_silence(tmp_path, monkeypatch, name):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    write_log(tmp_path / "data")
    part = day_folder(tmp_path / "data", "ads", LAST) / "part-0.parquet"
    other = part.parent / name
    other.parent.mkdir(exist_ok=True)
    shutil.copy(part, other)
    for root in (tmp_path / "data", f"file://{tmp_path}/data"):
        config = config_of(root, tmp_path / "prepared")
        first = name.split("/")[0]
        words = rf"date=2026-01-03: expected \*\.parquet files alone, found {first}; give it"
        with pytest.raises(ContractError, match=words):
            prepare(config, "ads", [LAST])
        assert open_impressions(root).files("ads", LAST)[0].name == "part-0.parquet"
    part.unlink()
    for root in (tmp_path / "data", f"file://{tmp_path}/data"):
        config = config_of(root, tmp_path / "prepared")
        assert open_impressions(root).other_folders("ads") == ["date=2026-01-03"]
        assert not any(map(is_part, open_impressions(root).entries("ads", LAST)))
        with pytest.raises(
            ContractError, match=rf"2026-01-03 \(no \*\.parquet file, but {name.split('/')[0]}"
        ):
            present_days(config, "ads", [FIRST, LAST])


@pytest.mark.parametrize("name", ["date=20260102", "dt=2026-01-02", "date=2026-01-02 00:00:00"])
def test_a_missing_day_is_told_with_the_folder_that_is_named_otherwise(tmp_path, name):
    write_log(tmp_path / "data")
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    day = dt.date(2026, 1, 2)
    folder = day_folder(tmp_path / "data", "ads", day)
    folder.rename(folder.with_name(name))
    words = re.escape(f"2026-01-02 (expected a folder date=2026-01-02, found {name})")
    with pytest.raises(ContractError, match=words):
        present_days(config, "ads", [FIRST, day])


def test_a_log_of_other_folders_alone_is_refused_with_one_of_them(tmp_path):
    write_log(tmp_path / "data", days=1)
    day = day_folder(tmp_path / "data", "ads", FIRST)
    (day / "hour=01").mkdir()
    (day / "part-0.parquet").rename(day / "hour=01" / "part-0.parquet")
    words = r"no day of impressions found; expected .*, found date=2026-01-01, in which itself none"
    with pytest.raises(ContractError, match=words):
        validate(config_of(tmp_path / "data", tmp_path / "prepared"), ["ads"])


def test_the_marker_may_have_any_name(tmp_path):
    write_log(tmp_path / "data")
    for date in (FIRST, FIRST + dt.timedelta(days=1), LAST):
        for domain in ("natural", "ads"):
            (day_folder(tmp_path / "data", domain, date) / "done.txt").touch()
    config = config_of(tmp_path / "data", tmp_path / "prepared", ready="marker", marker="done.txt")
    assert prepare(config, "ads", [LAST])


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("date=2026-01-06", dt.date(2026, 1, 6)),
        ("date=2026-01-06 ", None),
        ("date=2026-01-06/x", None),
        ("Date=2026-01-06", None),
        ("date=٢٠٢٦-٠١-٠٦", None),
        ("date=2026-W02-2", None),
        ("date=0000-01-01", None),
    ],
)
def test_a_day_has_one_name(name, date):
    assert date_of(name) == date


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("a.parquet", True),
        ("a.snappy.parquet", True),
        (".a.parquet", False),
        ("_a.parquet", False),
        ("a.parquet.crc", False),
        ("a.csv", False),
    ],
)
def test_a_part_has_a_name_that_is_not_hidden(name, good):
    assert is_part(name) is good


def _changed_root(root: Path, change: str) -> None:
    if change == "gone":
        shutil.rmtree(root)
    elif change == "a file":
        shutil.rmtree(root)
        root.touch()
    else:
        (root / "domain=ads").rename(root / change)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("gone", "data: expected a folder, found nothing of that name; look at data.root"),
        ("a file", "expected a folder, found a file"),
        ("domain=Ads", "domain=Ads: expected domain=ads, found a name in another case"),
        ("domain%3Dads", "found 'domain%3Dads'"),
        ("other", "expected a folder domain=ads)"),
    ],
)
def test_days_are_not_called_missing_where_the_folder_above_them_is(tmp_path, change, words):
    write_log(tmp_path / "data")
    _changed_root(tmp_path / "data", change)
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    with pytest.raises(ContractError, match=re.escape(words)):
        present_days(config, "ads", [FIRST, LAST])
    with pytest.raises(ContractError, match=re.escape(words)):
        validate(config, ["ads"])


def test_a_dangling_link_is_named(tmp_path):
    write_log(tmp_path / "data")
    link = day_folder(tmp_path / "data", "ads", LAST) / "part-1.parquet"
    link.symlink_to(Path("gone"))
    with connect(config := config_of(tmp_path / "data", tmp_path / "prepared")) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert str(link) in str(violation)


@pytest.mark.parametrize("at", ["", "file://"])
@pytest.mark.parametrize(
    "place",
    [
        "_delta_log",
        ".hoodie",
        "_spark_metadata",
        "../metadata",
        "metadata",
        "domain=ads/metadata",
        "domain=ads/_delta_log",
        f"domain=ads/date={LAST}/_delta_log",
    ],
)
def test_the_files_of_a_table_format_are_not_read_past_it(tmp_path, place, at):
    """Rows that Delta Lake, Hudi or Iceberg count as removed still lie there."""
    root = tmp_path / "data"
    write_log(root)
    config = config_of(f"{at}{root}" if at else root, tmp_path / "prepared")
    assert open_impressions(config.data.root).table("ads", LAST) is None
    (root / place).mkdir()
    (root / place / "v1.metadata.json").touch()
    with pytest.raises(
        ContractError, match=r"expected folders of Parquet files alone, found those of a table of"
    ):
        prepare(config, "ads", [LAST])


@pytest.mark.parametrize("at", ["", "file://"])
def test_a_table_of_paimon_is_told_by_the_folders_that_it_keeps_together(tmp_path, at):
    root = tmp_path / "data"
    write_log(root)
    config = config_of(f"{at}{root}" if at else root, tmp_path / "prepared")
    for name in ("manifest", "schema"):
        (root / name).mkdir()
        (root / name / "a").touch()
    assert open_impressions(config.data.root).table("ads", LAST) is None
    (root / "snapshot").mkdir()
    (root / "snapshot" / "LATEST").touch()
    with pytest.raises(ContractError, match="those of a table of Paimon"):
        prepare(config, "ads", [LAST])


@pytest.mark.parametrize("at", ["", "file://"])
@pytest.mark.parametrize(
    ("name", "table"),
    [
        (f"domain=ads/date={LAST}/.hoodie_partition_metadata", "Hudi"),
        ("metadata/v1.metadata.json.gz", "Iceberg"),
        ("metadata/snap-7-1-ab.avro", "Iceberg"),
    ],
)
def test_a_table_is_told_by_a_file_that_only_it_has(tmp_path, name, table, at):
    """Of a table's days somebody copies some, without its list of files."""
    root = tmp_path / "data"
    write_log(root)
    config = config_of(f"{at}{root}" if at else root, tmp_path / "prepared")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).touch()
    with pytest.raises(ContractError, match=f"those of a table of {table}"):
        prepare(config, "ads", [LAST])


def test_a_folder_inside_of_a_table_belongs_to_it(tmp_path):
    root = tmp_path / "region=eu" / "data"
    write_log(root)
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(ContractError, match=r"a table of Delta Lake \(_delta_log\)"):
        prepare(config_of(root, tmp_path / "prepared"), "ads", [LAST])


def test_a_root_at_a_url_where_nothing_is_found_is_said_with_the_missing_days(tmp_path):
    config = config_of(f"file://{tmp_path}/nothing", tmp_path / "prepared")
    with pytest.raises(ContractError, match=r"no day of ads was found under .*; look at data.root"):
        present_days(config, "ads", [FIRST, LAST])


@pytest.mark.parametrize("at", ["", "file://"])
def test_a_days_files_under_both_domains_are_refused(tmp_path, monkeypatch, at):
    """Somebody copied them into the wrong folder: a model of it would say nothing of ads."""
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    write_log(tmp_path / "data")
    day = f"date={LAST}/part-0.parquet"
    shutil.copy(tmp_path / "data/domain=natural" / day, tmp_path / "data/domain=ads" / day)
    root = f"{at}{tmp_path}/data" if at else tmp_path / "data"
    with pytest.raises(ContractError, match="found the same files under the other, too"):
        prepare(config_of(root, tmp_path / "prepared"), "ads", [LAST])


NO_FILES = {
    "a folder": lambda part: part.mkdir(),
    "a link to nothing": lambda part: part.symlink_to("nowhere"),
    "a link to itself": lambda part: part.symlink_to(part),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_a_part_that_is_no_file_is_named_by_whatever_reads_it(tmp_path, kind):
    """It never comes right by itself, so no retry is due."""
    write_log(tmp_path / "data")
    part = tmp_path / f"data/domain=ads/date={LAST}/part-1.parquet"
    NO_FILES[kind](part)
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    instead = {"a link to itself": "a link to nothing", "a pipe": "a pipe or a device"}.get(
        kind, kind
    )
    words = re.escape(f"{part}: expected a Parquet file, found {instead}")
    with pytest.raises(ContractError, match=words):
        prepare(config, "ads", [LAST])
    with connect(config) as db:
        assert re.match(words, str(validate_day(db, config, "ads", LAST).violations[0]))
    with pytest.raises(ContractError, match=words):
        measure(config)


def test_a_folder_with_the_name_of_a_part_is_told_where_no_file_is(tmp_path):
    write_log(tmp_path / "data")
    part = tmp_path / f"data/domain=ads/date={LAST}/part-0.parquet"
    part.unlink()
    part.mkdir()
    with connect(config := config_of(tmp_path / "data", tmp_path / "prepared")) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert "no .parquet file is there, but a folder or a link" in str(violation)
