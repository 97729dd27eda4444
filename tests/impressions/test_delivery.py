"""A day that is still being written is not read.

Markers, promised rows, and files that have settled.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk import serde

from ecdctr.airflow.awaited import Awaited, Patience
from ecdctr.airflow.triggers import DayTrigger
from ecdctr.config import Config
from ecdctr.errors import ContractError, OutOfReach
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.contract import validate
from ecdctr.impressions.delivery import Delivery
from tests.conftest import DATE
from tests.make import changed


@pytest.fixture(params=["folder", "url"])
def day(request: pytest.FixtureRequest, config: Config, tmp_path: Path) -> tuple[Config, Path]:
    """Return a log of one day of ads, in a folder or at a URL, and the day's folder."""
    folder = tmp_path / "data" / "domain=ads" / f"date={DATE}"
    shutil.copytree(Path(config.data.root) / "domain=ads" / f"date={DATE}", folder)
    root = tmp_path / "data"
    where = root if request.param == "folder" else root.as_uri()
    return changed(config, "data", root=where, prepared=tmp_path / "prepared"), folder


def lacks(config: Config, ready: str) -> str | None:
    return Delivery.of(changed(config, "data", ready=ready).data).lacks("ads", DATE)


def test_a_day_is_whole_when_what_was_agreed_is_there(day):
    config, folder = day
    rows = sum(pq.read_metadata(path).num_rows for path in folder.glob("*.parquet"))
    marker = folder / "_SUCCESS"
    assert lacks(config, "files") is None
    assert lacks(config, "marker") == lacks(config, "rows") == "the marker _SUCCESS is not there"
    marker.write_text("")
    assert lacks(config, "marker") is None
    assert "should hold the number of rows, found ''" in lacks(config, "rows")
    marker.write_text(f"{rows + 1}\n")
    assert (
        lacks(config, "rows") == f"the marker _SUCCESS says {rows + 1:,} rows, {rows:,} are there"
    )
    marker.write_text("9" * 2000)
    assert "should hold the number of rows, found 2,000 bytes" in lacks(config, "rows")
    marker.write_text(f" {rows}\n")
    assert lacks(config, "rows") is None
    pq.write_table(pa.table({"x": [1]}), folder / "late.parquet")
    assert "rows, " in lacks(config, "rows")
    (folder / "late.parquet").write_bytes(b"PAR1 half")
    assert lacks(config, "rows") == "a file cannot be read as Parquet"
    for path in folder.glob("*.parquet"):
        path.unlink()
    assert lacks(config, "marker") == lacks(config, "files") == "no .parquet file is there"


def test_validation_and_preparation_refuse_a_day_without_its_marker(day):
    config, folder = day
    strict = changed(config, "data", ready="marker")
    (report,) = validate(strict, ["ads"], [DATE])
    assert [violation.kind for violation in report.violations] == ["incomplete_day"]
    assert "the marker _SUCCESS is not there" in str(report.violations[0])
    assert str(DATE) in report.violations[0].where
    with pytest.raises(ContractError, match=r"_SUCCESS is not there \(data\.ready: marker\)"):
        prepare(strict, "ads", [DATE])
    (folder / "_SUCCESS").touch()
    assert validate(strict, ["ads"], [DATE])[0].violations == []
    prepare(strict, "ads", [DATE])


def test_a_marker_changes_nothing_that_is_prepared(day):
    config, folder = day
    (before,) = prepare(config, "ads", [DATE])
    (folder / "_SUCCESS").touch()
    (after,) = prepare(changed(config, "data", ready="marker"), "ads", [DATE])
    assert before == after


def trigger(config: Config, date: dt.date, seconds: float) -> DayTrigger:
    awaited = Awaited(str(config.data.root), "ads", settle_seconds=seconds)
    return DayTrigger(str(date), awaited, patience=Patience(1, 1))


def test_a_run_waits_until_no_file_has_come_or_grown_for_a_while(day):
    config, folder = day
    today = dt.datetime.now(dt.UTC).date()
    recent = folder.with_name(f"date={today}")
    shutil.copytree(folder, recent)
    waiting = trigger(config, today, 600)
    assert waiting.lacks(0.0) == "its files must not change for another 600 s"
    assert waiting.lacks(500.0) == "its files must not change for another 100 s"
    shutil.copy(next(folder.glob("*.parquet")), recent / "second.parquet")
    assert waiting.lacks(590.0) == "its files must not change for another 600 s"
    with open(recent / "second.parquet", "ab") as file:
        file.write(b"more")
    assert waiting.lacks(1100.0) == "its files must not change for another 600 s"
    assert waiting.lacks(1700.0) is None
    path, values = waiting.serialize()
    kept = json.dumps(serde.serialize(values))  # as Airflow's database has it
    again = DayTrigger(**serde.deserialize(json.loads(kept)))
    assert path.endswith("DayTrigger")
    assert (again.awaited, again.patience) == (waiting.awaited, waiting.patience)
    assert again.lacks(0.0) == "its files must not change for another 600 s"
    assert trigger(config, today, 0).lacks(0.0) is None


def test_a_place_that_does_not_answer_now_is_looked_at_again(config, monkeypatch):
    """A wait of two days does not end with the first minute without a network."""

    def out_of_reach(*_: object) -> None:
        raise OutOfReach("s3://bucket does not answer")

    waiting = trigger(config, DATE, 0)
    monkeypatch.setattr(Awaited, "lacks", out_of_reach)
    assert waiting.looked() == "waiting"
    monkeypatch.undo()
    assert waiting.looked() == "ready"


def test_days_of_long_ago_are_not_waited_for_to_settle(day):
    config, _ = day
    assert trigger(config, DATE, 600).lacks(0.0) is None


def test_without_a_date_validate_lets_as_many_days_be_missing_as_the_configuration(
    config, tmp_path
):
    source = Path(config.data.root) / "domain=ads"
    days = [DATE - dt.timedelta(days=back) for back in (4, 3, 1, 0)]
    for date in days:
        shutil.copytree(source / f"date={date}", tmp_path / "domain=ads" / f"date={date}")
    log = changed(config, "data", root=tmp_path)
    refused = [report for report in validate(log, ["ads"]) if report.violations]
    assert [str(report.date) for report in refused] == [str(DATE - dt.timedelta(days=2))]
    assert refused[0].violations[0].kind == "missing_day"
    tolerant = validate(changed(log, "data", allowed_missing_days=1), ["ads"])
    assert [report.date for report in tolerant] == days
    assert not any(report.violations for report in tolerant)
