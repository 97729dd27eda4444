"""Small files of which each day leaves some: put together they say the same, and are few."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

import pytest

from ecdctr.errors import StoreError
from ecdctr.files import durable
from ecdctr.files.cache import Cache
from ecdctr.store import local
from ecdctr.store.aliases import Kind
from ecdctr.store.manifest import Ref
from ecdctr.store.places import place
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from tests.make import DAY, manifest

DAYS, KEPT = 12, 4


def publish(store: Store, date: dt.date) -> Ref:
    with store.staging() as folder:
        (folder / "weights").write_text("cpm")
        return store.publish(folder, manifest(date, f"of {date}")).ref


@pytest.fixture
def years(store: Store, monkeypatch) -> Store:
    """Versions of many days, each of which was the candidate; none of them is removed yet."""
    monkeypatch.setattr(local, "TRIES", KEPT)
    for number in range(DAYS):
        ref = publish(store, DAY + dt.timedelta(days=number))
        store.set_alias("candidate", ref, "trained", Kind.TRAIN)
    return store


def said(store: Store, dates: list[dt.date]) -> list[object]:
    """Return what a store says of its past."""
    listing = store.listing("production", "cpm")
    refs = [Ref("production", "cpm", date, "v0001") for date in dates]
    return [
        sorted(listing.removals(str(dates[0]), str(dates[-1]))),
        listing.removals(str(dates[3]), str(dates[3])),
        [store.storage.removed(*place(ref)) for ref in refs],
        store.alias_history("candidate", level="cpm"),
        store.alias("candidate", level="cpm"),
        store.versions("production", "cpm"),
    ]


def files(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.is_file()]


def test_what_each_day_leaves_is_put_together_and_says_the_same(years, monkeypatch):
    dates = [DAY + dt.timedelta(days=number) for number in range(DAYS)]
    with monkeypatch.context() as patch:
        patch.setattr(years.storage, "clean", lambda _: 0)
        remove(years, 2, 0, "test")
    before, many = said(years, dates), len(files(years))
    assert len(before[0]) == DAYS - 2
    remove(years, 2, 0, "again")
    assert said(years, dates) == before
    assert len(files(years)) < many - 2 * (DAYS - KEPT)
    assert {path.name for path in (years.root / "production" / "cpm").iterdir()} == {
        "removed.json",
        *map(str, dates[-2:]),
    }
    assert years.verify() == []
    assert publish(years, dates[0]).version == "v0002", "a number is not given again"
    years.set_alias("candidate", before[-2], "once more", Kind.TRAIN)
    records = years.alias_history("candidate", level="cpm")
    assert [record.number for record in records] == [*range(1, DAYS + 2)]
    remove(years, 3, 0, "and again")
    assert years.alias_history("candidate", level="cpm") == records


@pytest.mark.parametrize("step", range(0, 22, 3))
def test_a_crash_while_files_are_put_together_loses_nothing(years, monkeypatch, step):
    dates = [DAY + dt.timedelta(days=number) for number in range(DAYS)]
    with monkeypatch.context() as patch:
        patch.setattr(years.storage, "clean", lambda _: 0)
        remove(years, 2, 0, "test")
    before, calls = said(years, dates), [0]
    for owner, name in ((Path, "unlink"), (Path, "rmdir"), (durable.os, "replace")):
        monkeypatch.setattr(owner, name, dies_at(step, calls, getattr(owner, name)))
    with pytest.raises(KeyboardInterrupt):
        years.storage.clean(0)
    monkeypatch.undo()
    assert said(years, dates) == before
    years.storage.clean(0)
    assert said(years, dates) == before


def dies_at(step: int, calls: list[int], work):
    def dying(*given, **named):
        calls[0] += 1
        if calls[0] > step:
            raise KeyboardInterrupt
        return work(*given, **named)

    return dying


def test_a_damaged_note_on_a_removal_is_named_by_whoever_needs_it(years):
    date = DAY + dt.timedelta(days=DAYS)
    (years.root / "production" / "cpm" / str(date)).mkdir()
    note = years.root / "production" / "cpm" / str(date) / "v0001.removed"
    for damage in (b"[]", b"\xff\xfe"):
        note.write_bytes(damage)
        with pytest.raises(StoreError, match=r"note on the removal of .* is damaged .*from a copy"):
            years.resolve("cpm", date)
    remove(years, 2, 0, "test")  # it is put together with the others as it is
    with pytest.raises(StoreError, match=r"note on the removal of .* is damaged .*from a copy"):
        years.resolve("cpm", date)


def test_a_damaged_file_of_what_was_put_together_is_named(years):
    remove(years, 2, 0, "test")
    log = years.root / "production" / "aliases" / "cpm" / "candidate" / "older.json"
    for path in (years.root / "production" / "cpm" / "removed.json", log):
        path.write_text("{")
    with pytest.raises(StoreError, match=r"removed\.json, .* is damaged .* from a copy"):
        years.resolve("cpm", DAY + dt.timedelta(days=DAYS))
    with pytest.raises(StoreError, match=r"older\.json, .* is damaged .* from a copy"):
        years.alias_history("candidate", level="cpm")
    assert years.alias("candidate", level="cpm").date == DAY + dt.timedelta(days=DAYS - 1)


def test_what_the_cache_throws_out_leaves_no_lock_and_no_folder(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "file").write_bytes(bytes(100))

    for number in range(20):
        of_process = Cache(tmp_path, 250)  # as a process of its own that ends
        of_process.folder(f"whole/{number}/v0001", fill, lambda _: True)
        of_process.forget(f"whole/{number}/v0001")
    assert len(list((tmp_path / "locks").iterdir())) <= 2 * 3
    assert len(list((tmp_path / "folders" / "whole").iterdir())) <= 3


def test_whoever_waits_for_a_lock_that_is_taken_away_waits_for_the_next(tmp_path):
    path = tmp_path / "lock"
    with contextlib.ExitStack() as stack:
        stack.enter_context(durable.locked(path))
        path.unlink()
        stack.enter_context(durable.locked(path))  # another file, and another lock
        with pytest.raises(BlockingIOError):
            stack.enter_context(durable.locked(path, wait=False))
    assert path.exists()
