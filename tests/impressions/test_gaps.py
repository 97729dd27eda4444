"""A day that one domain has and the other lacks: histories and counts of both would be wrong."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ecdctr.airflow.awaited import Awaited, Patience
from ecdctr.airflow.triggers import DayTrigger
from ecdctr.cli import app
from ecdctr.config import Config
from ecdctr.errors import ContractError
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import Gap, gaps, whole_days
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.manifest import Manifest
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed, write_config

DAY = dt.timedelta(days=1)
NEXT = DATE + DAY


def folder(config: Config, domain: str, date: dt.date) -> Path:
    return Path(config.data.root) / f"domain={domain}" / f"date={date}"


def take_away(config: Config, domain: str, *dates: dt.date) -> None:
    for date in dates:
        shutil.rmtree(folder(config, domain, date))


@pytest.fixture
def log(config: Config, tmp_path: Path) -> Config:
    """Return a log of both domains with five days up to NEXT, each with its marker."""
    root = tmp_path / "data"
    for domain in ("natural", "ads"):
        for back in range(5):
            source = folder(config, domain, NEXT - back * DAY)
            shutil.copytree(source, root / source.parent.name / source.name)
            (root / source.parent.name / source.name / "_SUCCESS").touch()
    return changed(config, "data", root=root, prepared=tmp_path / "prepared", ready="marker")


@pytest.mark.parametrize("lacking", [NEXT, DATE - DAY], ids=["the day", "before it"])
@pytest.mark.parametrize(("domain", "other"), [("ads", "natural"), ("natural", "ads")])
def test_examples_are_refused_where_the_other_domain_lacks_a_day(log, domain, other, lacking):
    take_away(log, other, lacking)
    with pytest.raises(ContractError, match=rf"lacks what the other has: {other} of {lacking}\."):
        prepare(log, domain, [NEXT])
    assert not list(log.data.prepared.rglob("*.parquet"))
    if domain == "natural":
        prepare(log, domain, [NEXT], basic=True)  # TPM reads natural impressions alone
    (tolerated,) = prepare(changed(log, "data", allowed_missing_days=1), domain, [NEXT])
    with pytest.raises(ContractError, match="now 0"):  # also when they are prepared already
        prepare(log, domain, [NEXT])
    assert tolerated.path.exists()


def test_a_day_before_a_domains_first_one_and_a_day_that_both_lack_are_no_gap(log):
    take_away(log, "natural", NEXT - 4 * DAY, NEXT - 3 * DAY)
    take_away(log, "ads", NEXT - 4 * DAY, DATE - DAY)
    take_away(log, "natural", DATE - DAY)
    assert gaps(log, [NEXT], 4) == []
    prepare(log, "ads", [NEXT])
    take_away(log, "ads", DATE)
    assert gaps(log, [NEXT], 4) == [Gap("ads", DATE)]


def test_a_domain_without_a_day_has_not_begun(log):
    shutil.rmtree(Path(log.data.root) / "domain=ads")
    assert gaps(log, [NEXT], 4) == []
    prepare(log, "natural", [NEXT])


def test_a_day_is_whole_when_the_other_domain_has_it_whole(log):
    since = DATE - 2 * DAY
    every = [DATE - DAY, DATE, NEXT]
    assert whole_days(log, "ads", since, NEXT, 9) == every
    (folder(log, "natural", DATE) / "_SUCCESS").unlink()
    take_away(log, "natural", NEXT)
    assert whole_days(log, "ads", since, NEXT, 9) == [DATE - DAY]
    assert whole_days(log, "ads", since, NEXT, 9, alone=True) == every
    take_away(log, "natural", *(NEXT - n * DAY for n in (4, 3, 2)))
    assert whole_days(log, "ads", since, NEXT, 9) == [DATE - DAY], "natural begins later"


@pytest.mark.parametrize("how", ["gone", "half"])
def test_a_run_waits_for_the_day_of_the_other_domain(log, how):
    there = folder(log, "natural", NEXT)
    (there / "_SUCCESS").unlink()
    if how == "gone":
        shutil.rmtree(there)

    def trigger(both: bool) -> DayTrigger:
        awaited = Awaited(str(log.data.root), "ads", "marker", both=both)
        return DayTrigger(str(NEXT), awaited, patience=Patience(1, 1))

    lacking = trigger(both=True).lacks(0.0)
    assert lacking is not None
    assert lacking.startswith("its examples look at natural, of which ")
    assert trigger(both=False).lacks(0.0) is None
    _, values = trigger(both=True).serialize()
    assert DayTrigger(**values).lacks(0.0) == lacking


def test_validation_names_the_gap(log, tmp_path):
    take_away(log, "natural", NEXT)
    path = write_config(tmp_path / "c.yaml", Path(log.data.root))
    arguments = ["--config", str(path), "--store", str(tmp_path / "s"), "validate"]
    asked = CliRunner().invoke(app, [*arguments, "--date", str(NEXT), "--domain", "ads"])
    assert asked.exit_code == 0, asked.output
    assert f"natural of {NEXT}: not there, but the other domain has that day" in asked.stderr
    raw = yaml.safe_load(path.read_text())
    assert raw["data"].get("allowed_missing_days", 0) == 0
    prepared = CliRunner().invoke(app, [*arguments[:-1], "prepare", "--date", str(NEXT)])
    assert prepared.exit_code == 1


def test_a_gap_that_is_tolerated_stands_in_the_manifest(log, tmp_path):
    store = Store(tmp_path / "store")
    take_away(log, "ads", DATE - DAY)
    tolerant = changed(log, "data", allowed_missing_days=1)
    train_tpm(Request(tolerant, store, DATE - 2 * DAY))
    short = changed(tolerant, "cpm", window_days=2)
    manifest = train_cpm(Request(short, store, DATE)).manifest
    said = [line for line in manifest.quality if line.startswith(f"ads of {DATE - DAY}: expected")]
    assert len(said) == 1


def told(manifest: Manifest) -> list[str]:
    return [line.split(" (")[0] for line in manifest.quality if "data.allowed_missing_days" in line]


def test_every_tolerated_day_of_a_window_and_of_what_it_looks_back_on_is_told(log, tmp_path):
    """Also a day that both domains lack, and one that only the window's first day looks at."""
    store = Store(tmp_path / "store")
    tolerant = changed(log, "data", allowed_missing_days=1, lookback_days=1)
    tolerant = changed(changed(tolerant, "cpm", window_days=3), "snapshots", count=0)
    assert told(train_cpm(Request(tolerant, store, NEXT)).manifest) == []
    take_away(log, "natural", DATE)
    take_away(log, "ads", DATE)
    lines = told(train_cpm(Request(tolerant, store, NEXT)).manifest)
    assert lines == [f"natural of {DATE}: expected in the window, found none"]
    assert told(train_tpm(Request(tolerant, store, NEXT)).manifest) == lines
    take_away(log, "ads", DATE - 2 * DAY)
    assert told(train_cpm(Request(tolerant, store, NEXT)).manifest) == [
        f"ads of {DATE - 2 * DAY}: expected, since natural has that day, found none", *lines,
    ]  # fmt: skip


def test_validation_names_the_gaps_that_memory_alone_looks_at(log, tmp_path):
    take_away(log, "natural", NEXT - 3 * DAY)
    path = write_config(tmp_path / "c.yaml", Path(log.data.root))
    raw = yaml.safe_load(path.read_text())
    raw["data"]["lookback_days"] = 1
    raw["memory"] = {"enabled": True, "windows": [3]}
    path.write_text(yaml.safe_dump(raw))
    arguments = ["--config", str(path), "--store", str(tmp_path / "s"), "validate"]
    asked = CliRunner().invoke(app, [*arguments, "--date", str(NEXT)])
    assert f"natural of {NEXT - 3 * DAY}: not there, but the other domain has" in asked.stderr


def test_memory_is_not_made_of_days_that_lack_one_domain(log, tmp_path):
    remembering = log.with_overlay({"memory": {"enabled": True, "windows": [3]}}, "test")
    take_away(log, "ads", DATE - DAY)
    with pytest.raises(ContractError, match=f"ads of {DATE - DAY}"):
        train_tpm(Request(remembering, Store(tmp_path / "store"), DATE))


def test_thousands_of_missing_days_are_not_named_one_by_one(log, tmp_path):
    """As behind a row whose time was read as one of years ago."""
    for domain in ("natural", "ads"):
        stray = folder(log, domain, dt.date(2020, 1, 1))
        shutil.copytree(folder(log, domain, NEXT), stray)
    path = write_config(tmp_path / "c.yaml", Path(log.data.root))
    done = CliRunner().invoke(app, ["--config", str(path), "validate"])
    assert done.exit_code == 1
    before = NEXT - 5 * DAY
    more = (before - dt.date(2020, 1, 1)).days - 10
    assert f"{more:,} more days without a *.parquet file, 2020-01-12 to {before}" in done.output
    assert done.output.count("expected at least one .parquet file") <= 2 * 10 + 1
