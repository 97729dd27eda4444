"""A day that is delivered again while it is read.

What is kept under a name is what the name says, in a folder and at URLs.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecdctr.config import Config
from ecdctr.errors import ContractError
from ecdctr.examples import clean
from ecdctr.examples.prepare import prepare
from ecdctr.impressions import contract, quality
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.quality import check_day
from ecdctr.impressions.reading import ATTEMPTS, DeliveredAnew, one_reading
from tests.conftest import DATE
from tests.impressions.logs import FIRST, config_of, write_log
from tests.make import changed
from tests.store.s3 import S3Server, upload

NEXT = DATE + dt.timedelta(days=1)
MEMORY = {"enabled": True, "windows": [3, 10]}


class Log:
    """Ads of two days at some place, delivered as often as asked for.

    Each time with the other labels, so that every second delivery is the same again.
    """

    def __init__(
        self, config: Config, place: str, folder: Path, send: Callable[[Path], str | Path]
    ) -> None:
        self.place, self.folder, self.send = place, folder, send
        for date in (DATE, NEXT):
            source = Path(config.data.root) / "domain=ads" / f"date={date}"
            shutil.copytree(source, folder / "domain=ads" / source.name)
        self.config = changed(config, "data", root=send(folder))

    def deliver(self, date: dt.date) -> None:
        for path in (self.folder / "domain=ads" / f"date={date}").glob("*.parquet"):
            table = pq.read_table(path, partitioning=None)
            place = table.column_names.index("click")
            flipped = pc.cast(pc.subtract(1, table["click"]), table.schema.field("click").type)
            pq.write_table(table.set_column(place, "click", flipped), path.with_suffix(".new"))
            path.with_suffix(".new").replace(path)
        self.send(self.folder)

    def kept(self, prepared: Path) -> dict[str, bytes]:
        """Return all that preparation keeps of the days as they are now."""
        config = changed(self.config, "data", prepared=prepared)
        for basic in (False, True):
            prepare(config, "ads", [NEXT], basic)
        return files(prepared)


def files(prepared: Path) -> dict[str, bytes]:
    return {
        path.relative_to(prepared).as_posix(): path.read_bytes()
        for path in prepared.rglob("*")
        if path.is_file()
    }


KEPT: dict[tuple[str, dt.date, bool, str], dict[str, bytes]] = {}


def kept_of_both(log: Log, again: dt.date, memory: bool, folder: Path) -> dict[str, bytes]:
    """Deliver a day twice; return all that preparation keeps then, made once for a place."""
    kept: dict[str, bytes] = {}
    for delivery in ("one", "other"):
        log.deliver(again)
        key = (log.place, again, memory, delivery)
        if key not in KEPT:
            KEPT[key] = log.kept(folder / delivery)
        kept |= KEPT[key]
    return kept


@pytest.fixture(params=["folder", "file", "s3"])
def log(
    request: pytest.FixtureRequest, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Log:
    folder = tmp_path / "data"
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    if request.param == "folder":
        return Log(config, request.param, folder, lambda path: path)
    if request.param == "file":
        return Log(config, request.param, folder, lambda path: path.as_uri())
    server: S3Server = request.getfixturevalue("s3")
    url = server.new_url()

    def send(path: Path) -> str:
        upload(server, path, url)
        return url

    return Log(config, request.param, folder, send)


def before_look(
    monkeypatch: pytest.MonkeyPatch, number: int, deliver: Callable[[], None]
) -> Callable[[], bool]:
    """Deliver just before preparation's look at a day with that number.

    Says whether there were so many looks.
    """
    looks, look = [0], contract.validate_day

    def looked(*given: Any) -> contract.DayReport:
        looks[0] += 1
        if looks[0] == number:
            deliver()
        return look(*given)

    monkeypatch.setattr(clean, "validate_day", looked)
    return lambda: looks[0] >= number


@pytest.mark.parametrize("what", ["examples", "basic", "memory"])
@pytest.mark.parametrize("again", [DATE, NEXT])
def test_examples_of_a_day_delivered_again_meanwhile_are_those_that_their_name_says(
    log, tmp_path, monkeypatch, what, again
):
    if what == "memory":
        log.config = log.config.with_overlay({"memory": MEMORY}, "test")
    expected = kept_of_both(log, again, what == "memory", tmp_path)
    for number in range(1, 20):
        there = changed(log.config, "data", prepared=tmp_path / f"during{number}")
        with monkeypatch.context() as patch:
            reached = before_look(patch, number, lambda: log.deliver(again))
            prepared = prepare(there, "ads", [NEXT], what == "basic")
        assert files(there.data.prepared).items() <= expected.items(), number
        if isinstance(there.data.root, Path):  # what was copied before is of one moment, too
            assert prepared == prepare(there, "ads", [NEXT], what == "basic"), "the newest delivery"
        if not reached():
            break
    assert number == {"basic": 2, "examples": 4, "memory": 5}[what], "each look was tried"


def test_a_day_that_never_stops_coming_ends_in_a_sentence_and_nothing_is_kept(
    log, tmp_path, monkeypatch
):
    if not isinstance(log.config.data.root, Path):
        pytest.skip("a copy ends it")
    there = changed(log.config, "data", prepared=tmp_path / "prepared")
    look = contract.validate_day

    def looked(*given: Any) -> contract.DayReport:
        log.deliver(NEXT)
        return look(*given)

    monkeypatch.setattr(clean, "validate_day", looked)
    with pytest.raises(DeliveredAnew, match=r"date=.* was delivered again while it was read"):
        prepare(there, "ads", [NEXT], basic=True)
    assert files(there.data.prepared) == {}
    assert ATTEMPTS > 1


def test_a_day_that_is_taken_away_meanwhile_is_told_as_missing_and_not_as_damaged(
    log, tmp_path, monkeypatch
):
    if not isinstance(log.config.data.root, Path):
        pytest.skip("what was copied stays")
    there = changed(log.config, "data", prepared=tmp_path / "prepared")
    look = contract.validate_day

    def looked(*given: Any) -> contract.DayReport:
        report = look(*given)
        shutil.rmtree(log.folder / "domain=ads" / f"date={NEXT}", ignore_errors=True)
        return report

    monkeypatch.setattr(clean, "validate_day", looked)
    with pytest.raises(ContractError, match=r"days are missing"):
        prepare(there, "ads", [NEXT], basic=True)


@pytest.mark.parametrize("seen", ["half a file", "no file", "each row twice"])
def test_a_day_that_is_replaced_while_it_is_checked_is_not_told_as_broken(
    tmp_path, monkeypatch, seen
):
    write_log(tmp_path / "data", 1)
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    (path,) = (tmp_path / "data" / "domain=ads" / f"date={FIRST}").iterdir()
    whole, read = path.read_bytes(), contract.read_schema

    def during(files: list[Path], features: Any) -> Any:
        if seen == "half a file":
            path.write_bytes(whole[: len(whole) // 2])
        elif seen == "no file":
            path.unlink()
        else:
            path.with_name("again.parquet").write_bytes(whole)
            files = [path, path.with_name("again.parquet")]
        return read(files, features)

    with contract.connect(config) as db:
        with monkeypatch.context() as patch:
            patch.setattr(contract, "read_schema", during)
            with pytest.raises(DeliveredAnew, match=r"date=.* was delivered again while"):
                contract.validate_day(db, config, "ads", FIRST)
        for one in path.parent.iterdir():
            one.unlink()
        path.write_bytes(whole)
        assert contract.validate_day(db, config, "ads", FIRST).violations == []
        path.write_bytes(whole[: len(whole) // 2])
        (violation,) = contract.validate_day(db, config, "ads", FIRST).violations
    assert violation.kind == "unreadable"


def test_a_profile_is_of_the_day_that_its_name_says(log, tmp_path, monkeypatch):
    """The day's file is replaced between the digest and the reading."""
    there = changed(log.config, "data", prepared=tmp_path / "prepared")
    measure, calls = quality.measure, [0]

    def measured(*given: Any) -> quality.Profile:
        calls[0] += 1
        if calls[0] == 1:
            log.deliver(NEXT)
        return measure(*given)

    monkeypatch.setattr(quality, "measure", measured)
    monkeypatch.setattr(quality, "FEWEST_DAYS", 1)
    check_day(there, "ads", NEXT)
    again = changed(log.config, "data", prepared=tmp_path / "again")
    check_day(again, "ads", NEXT)
    now, fresh = files(there.data.prepared), files(again.data.prepared)
    assert {name: now[name] for name in now if name in fresh} == {
        n: fresh[n] for n in now if n in fresh
    }


def test_copies_are_of_what_was_listed(log):
    if isinstance(log.config.data.root, Path):
        pytest.skip("no copies")
    impressions = open_impressions(log.config.data.root)
    with one_reading():
        assert impressions.has("ads", NEXT)
        log.deliver(NEXT)
        with pytest.raises(DeliveredAnew):
            impressions.files("ads", NEXT)
