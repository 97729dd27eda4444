"""`store gc`: what may go, what must stay, and what a reader.

A rollback and the next number see afterwards.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecdctr.cli.base import app
from ecdctr.errors import ConfigError, StoreError
from ecdctr.evaluation.verdict import Outcome, Verdict
from ecdctr.levels.actr import Actr
from ecdctr.levels.cpm import Cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import Tpm
from ecdctr.store.manifest import Ref
from ecdctr.store.retention import forget_evaluations, outdated, removable, remove
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import DAY, manifest


def publish(
    store: Store,
    level: str,
    date: dt.date,
    parents: list[Ref] | None = None,
    experiment="production",
) -> Ref:
    made = manifest(date, f"{experiment}{level}{date}{parents}", experiment, level)
    named: dict[str, list[str]] = {}
    for parent in parents or []:
        named.setdefault(parent.level, []).append(str(parent))
    with store.staging() as folder:
        (folder / "weights").write_text(level * 10)
        return store.publish(folder, made.model_copy(update={"parents": named})).ref


def history(store: Store, days: int) -> list[Ref]:
    """Weekly TPM, daily CPM with the three newest TPMs that goes on from the day before.

    Daily A-CTR that serves.
    """
    tpms: list[Ref] = []
    cpm: list[Ref] = []
    serving = []
    for n in range(days):
        date = DAY + dt.timedelta(days=n)
        if n % 7 == 0:
            tpms.append(publish(store, "tpm", date, tpms[-1:]))
        cpm = [publish(store, "cpm", date, [*tpms[-3:], *cpm])]
        serving.append(publish(store, "actr", date, [*cpm, *tpms[-3:]]))
        store.set_alias("serving", serving[-1], "passed")
    return serving


@given(days=st.integers(2, 26), keep=st.integers(1, 9), back=st.integers(0, 3))
@settings(max_examples=15)
def test_after_removal_the_store_verifies_serves_rolls_back_and_resolves_as_before(
    days, keep, back
):
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        history(store, days)
        last = DAY + dt.timedelta(days=days - 1)
        span = 14
        asked = [
            (level, last + dt.timedelta(days=n))
            for level in ("tpm", "cpm", "actr")
            for n in range(3)
        ]
        asked += [("tpm", last - dt.timedelta(days=n)) for n in range(span + 1)]
        before = [store.resolve(level, date) for level, date in asked]
        sizes = removable(store, keep, span)
        assert remove(store, keep, span, "test") == (sizes, sum(one.bytes for one in sizes))
        assert store.verify() == []
        assert [store.resolve(level, date) for level, date in asked] == before
        assert store.alias("serving") is not None
        assert removable(store, keep, span) == []
        store.rollback()
        assert not list(store.root.glob(".trash/*"))


def test_old_versions_go_and_the_newest_stay(store):
    history(store, 30)
    gone = removable(store, keep=5, snapshot_days=7)
    levels = {
        level: [v.ref.date for v in gone if v.ref.level == level]
        for level in ("tpm", "cpm", "actr")
    }
    newest = DAY + dt.timedelta(days=29)
    assert max(levels["actr"]) == newest - dt.timedelta(days=5)
    assert max(levels["cpm"]) == newest - dt.timedelta(
        days=6
    )  # one more than A-CTR: the oldest goes on from it
    assert levels["tpm"] == []  # five there are
    assert remove(store, 5, 7, "test")[0] == gone
    assert store.verify() == []
    left = [
        ref for ref in store.lineage(store.versions("production", "cpm")[-1]) if ref.level == "cpm"
    ]
    assert len(left) == 6  # a chain ends where retention has cut it
    assert [ref.date for ref in store.versions("production", "actr")] == [
        newest - dt.timedelta(days=n) for n in (4, 3, 2, 1, 0)
    ]


def test_what_a_chain_of_one_level_has_in_it_keeps_what_another_level_needs(store):
    """CPM of day 1 is the day before of a kept CPM, and the parent of a serving A-CTR."""
    tpm = publish(store, "tpm", DAY)
    first = publish(store, "cpm", DAY, [tpm])
    actr = publish(store, "actr", DAY, [first])
    store.set_alias("serving", actr, "passed")
    publish(store, "tpm", DAY + dt.timedelta(days=1))
    publish(store, "cpm", DAY + dt.timedelta(days=1), [first])
    assert {version.ref for version in removable(store, 1, 0)} == set()


def test_a_removed_number_is_never_given_again(store):
    ref = publish(store, "cpm", DAY)
    publish(store, "cpm", DAY + dt.timedelta(days=1))
    remove(store, 1, 0, "test")
    with pytest.raises(StoreError, match="No version"):
        store.manifest(ref)
    assert publish(store, "cpm", DAY).version == "v0002"


def test_an_experiment_keeps_what_it_took_from_production(store):
    tpm, cpm = publish(store, "tpm", DAY), publish(store, "cpm", DAY)
    for n in range(1, 4):
        publish(store, "cpm", DAY + dt.timedelta(days=n))
    store.create_experiment("study")
    publish(store, "actr", DAY, [cpm, tpm], "study")
    gone = {version.ref for version in removable(store, 1, 0)}
    assert cpm not in gone
    assert len(gone) == 2


def test_what_killed_processes_left_behind_goes_too(store):
    ref = publish(store, "cpm", DAY)
    half_built = store.root / ".staging" / "abc"
    half_built.mkdir(parents=True)
    (half_built / "embeddings.safetensors").write_text("half")
    old, recent = store.progress("a" * 64), store.progress("b" * 64)
    for path in (old, recent):
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    os.utime(old, (0, 0))
    remove(store, 14, 0, "test")
    assert not half_built.exists()
    assert not old.exists()
    assert recent.exists()
    assert store.manifest(ref)


def test_nothing_is_removed_while_something_trains(store):
    publish(store, "cpm", DAY)
    publish(store, "cpm", DAY + dt.timedelta(days=1))
    with store.in_use(), store.in_use(), pytest.raises(StoreError, match="is running"):
        remove(store, 1, 0, "test")
    assert len(store.versions("production", "cpm")) == 2


def test_a_crash_during_removal_leaves_whole_versions_only(store, monkeypatch):
    history(store, 12)
    from ecdctr.files import durable

    calls = []
    rename = durable.rename_dir

    def dies(source: Path, target: Path) -> bool:
        calls.append(source)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return rename(source, target)

    monkeypatch.setattr(durable, "rename_dir", dies)
    with pytest.raises(KeyboardInterrupt):
        remove(store, 2, 0, "test")
    monkeypatch.undo()
    assert store.verify() == []
    remove(store, 2, 0, "again")
    assert store.verify() == []
    assert removable(store, 2, 0) == []


def test_an_alias_that_was_set_while_removal_waited_keeps_its_version(any_store, monkeypatch):
    """What may go is looked for when nobody else can set an alias any more, not before."""
    store = any_store
    old = publish(store, "cpm", DAY)
    publish(store, "cpm", DAY + dt.timedelta(days=1))
    exclusively = Store.exclusively

    def set_just_before(self: Store, what: str):
        self.set_alias("serving", old, "in between")
        return exclusively(self, what)

    monkeypatch.setattr(Store, "exclusively", set_just_before)
    assert remove(store, 1, 0, "test")[0] == []
    assert store.manifest(store.alias("serving", level="cpm")).ref == old


def test_what_writes_holds_a_lease_so_that_nothing_is_removed_meanwhile(any_store, monkeypatch):
    store = any_store
    ref = publish(store, "cpm", DAY)
    refused = []

    def look() -> None:
        with pytest.raises(StoreError, match="Cannot remove versions"):
            remove(store, 1, 0, "test")
        refused.append(True)

    manifest_of = Store.manifest

    def while_setting(self: Store, one: Ref):
        monkeypatch.setattr(Store, "manifest", manifest_of)
        look()
        return manifest_of(self, one)

    monkeypatch.setattr(Store, "manifest", while_setting)
    store.set_alias("serving", ref, "test")
    with store.staging() as folder:
        look()
        assert folder.is_dir()
    assert len(refused) == 2
    remove(store, 1, 0, "test")


def test_what_a_rollback_would_lead_to_stays(store):
    """After a rollback from C to B the next one leads to A."""
    a, b, c = (publish(store, "cpm", DAY + dt.timedelta(days=n)) for n in range(3))
    for ref in (a, b, c):
        store.set_alias("serving", ref, "promoted")
    store.rollback(level="cpm")
    remove(store, 1, 0, "test")
    assert store.rollback(level="cpm").ref == a


def test_half_built_versions_go_in_a_bucket_too(any_store):
    half_built = any_store.storage.local / ".staging" / "abc"
    half_built.mkdir(parents=True)
    remove(any_store, 1, 0, "test")
    assert not half_built.exists()


def test_what_was_known_then_and_is_removed_is_refused_and_not_replaced_by_an_older_one(any_store):
    store, dates = any_store, [DAY + dt.timedelta(days=n) for n in range(4)]
    first, second, _, newest = (publish(store, "cpm", date) for date in dates)
    store.set_alias("serving", first, "keeps it")
    remove(store, 1, 0, "store gc --keep 1")
    assert store.resolve("cpm", dates[0]) == first
    assert store.resolve("cpm", dates[3]) == newest
    store.create_experiment("study")
    for experiment in ("production", "study"):
        with pytest.raises(StoreError, match=f"is {second}, which was removed") as refused:
            store.resolve("cpm", dates[1], experiment)
        for words in ("store gc --keep 1", f"left before it is {first}", "--from-older"):
            assert words in str(refused.value)
        assert f"ecdctr train cpm --date {dates[1]} --experiment production" in str(refused.value)
        assert store.resolve("cpm", dates[1], experiment, from_older=True) == first
    with pytest.raises(StoreError, match="was removed"):
        store.newest_as_of("production", "cpm", dates[2])
    again = publish(store, "cpm", dates[1])
    assert again.version == "v0002"
    assert store.resolve("cpm", dates[1]) == again


def test_a_newer_version_of_one_date_that_is_removed_is_missed_too(any_store):
    store = any_store
    first = publish(store, "cpm", DAY)
    again = publish(store, "cpm", DAY, [publish(store, "tpm", DAY)])
    assert (first.version, again.version) == ("v0001", "v0002")
    store.set_alias("serving", first, "keeps it")
    publish(store, "cpm", DAY + dt.timedelta(days=1))
    remove(store, 1, 0, "test")
    with pytest.raises(StoreError, match=f"is {again}, which was removed"):
        store.resolve("cpm", DAY)


def test_a_removed_version_of_which_an_equal_one_is_left_is_no_loss(any_store):
    """Made again by --force: gc keeps the first, which has children, and removes the second."""
    store = any_store
    first = publish(store, "cpm", DAY)
    with store.staging() as folder:
        (folder / "weights").write_text("the same")
        again = store.publish(folder, store.manifest(first), force=True).ref
    assert (again.version, again.date) == ("v0002", DAY)
    publish(store, "actr", DAY, [first])
    publish(store, "cpm", DAY + dt.timedelta(days=7))
    gone = [one.ref for one in remove(store, 1, 0, "test")[0]]
    assert gone == [again]
    assert store.resolve("cpm", DAY) == first


def test_what_to_do_about_a_removed_version_helps_where_another_of_its_date_is_left(
    any_store, monkeypatch
):
    """Notes of older stores have no fingerprint: only --force makes a version that is newer."""
    store = any_store
    first = publish(store, "cpm", DAY)
    again = publish(store, "cpm", DAY, [publish(store, "tpm", DAY)])
    store.set_alias("serving", first, "keeps it")
    publish(store, "cpm", DAY + dt.timedelta(days=1))
    taken = store.storage.remove

    def of_old(group: str, name: str, note: bytes) -> bool:
        said = json.loads(note)
        said.pop("fingerprint", None)
        return taken(group, name, json.dumps(said).encode())

    monkeypatch.setattr(store.storage, "remove", of_old)
    remove(store, 1, 0, "test")
    with pytest.raises(StoreError, match=f"is {again}, which was removed") as refused:
        store.resolve("cpm", DAY)
    assert f"ecdctr train cpm --date {DAY} --experiment production --force)" in str(refused.value)


def test_no_level_plans_from_what_is_left_unless_it_is_told_to(store, config):
    """TPM, CPM and A-CTR, anew and in chains; what is planned reads no data."""
    dates = [DATE - dt.timedelta(days=n) for n in (6, 5, 2, 0)]
    for level in ("tpm", "cpm", "actr"):
        refs = [publish(store, level, date) for date in dates]
        store.set_alias("serving", refs[0], "keeps it")
    remove(store, 1, 0, "test")
    then = DATE - dt.timedelta(days=4)
    anew, chained = config.with_variant("window"), config.with_variant("continue")
    asked = [(Tpm, config), (Cpm, config), (Cpm, anew), (Actr, config), (Actr, chained)]
    for steps, settings_ in asked:
        with pytest.raises(StoreError, match=f"{dates[1]}/v0001, which was removed"):
            steps(Request(settings_, store, then)).plan()
    older = Request(config, store, then, from_older=True)
    (parent,) = Tpm(older).plan().parents["tpm"]
    assert parent.date == dates[0]


def test_what_waits_for_the_gate_stays(store):
    dates = [DAY + dt.timedelta(days=n) for n in range(4)]
    old, serves, waits, _ = (publish(store, "actr", date) for date in dates)
    store.set_alias("serving", serves, "test")
    for ref in (old, waits):
        store.add_verdict(ref, {"date": DAY} | Verdict(Outcome.WAITING, "", None, {})._asdict())
    assert {one.ref for one in removable(store, 1, 0)} == {old}


def judged(store: Store, ref: Ref, date: dt.date) -> None:
    """Keep an evaluation and a verdict of a version on a day."""
    with store.staging() as folder:
        (folder / "evaluation.json").write_text(json.dumps({"of": f"{ref} on {date}"}))
        store.save_evaluation(folder, ref, date)
    store.add_verdict(ref, {"date": date} | Verdict(Outcome.PASSED, "", None, {})._asdict())


def test_evaluations_of_old_days_go_with_the_verdicts_on_versions_that_are_gone(any_store):
    days = [DAY + dt.timedelta(days=n) for n in range(6)]
    served, *others = (publish(any_store, "actr", day) for day in days)
    apart = publish(any_store, "actr", days[0], experiment="apart")
    any_store.set_alias("serving", served, "test")
    for ref in (served, *others, apart):
        judged(any_store, ref, ref.date + dt.timedelta(days=1))
    remove(any_store, 2, 0, "test")
    gone, kept = others[:-2], others[-2:]
    assert all(any_store.verdicts(ref) for ref in others)

    named = [(ref, ref.date + dt.timedelta(days=1)) for ref in reversed(others[:-3])]
    assert outdated(any_store, 3) == named
    assert forget_evaluations(any_store, 3) == named
    assert outdated(any_store, 3) == []
    assert [ref for _, ref in any_store.evaluated("production")] == [*reversed(others[-3:]), served]
    assert [ref for _, ref in any_store.evaluated("apart")] == [apart], "by its own newest day"
    assert any_store.load_evaluation(*named[0]) is None
    assert not any(any_store.verdicts(ref) for ref, _ in named)
    assert all(any_store.verdicts(ref) for ref in (served, *others[-3:], apart))
    forget_evaluations(any_store, 1)
    assert not any_store.verdicts(gone[-1])
    assert all(any_store.verdicts(ref) for ref in kept), "a version that is there has its verdicts"


def test_what_is_kept_of_an_evaluation_that_was_forgotten_is_nothing(store):
    refs = [publish(store, "actr", DAY + dt.timedelta(days=n)) for n in range(2)]
    for ref in refs:
        judged(store, ref, ref.date)
    forget_evaluations(store, 1)
    remove(store, 5, 0, "test")
    left = {str(path.relative_to(store.root)) for path in store.root.rglob("evaluation.json")}
    days = store.root / "production/evaluations/actr"
    of_newest = (days / f"{refs[1].date}").rglob("evaluation.json")
    assert left == {str(path.relative_to(store.root)) for path in of_newest}
    assert [path.name for path in days.iterdir()] == [str(refs[1].date)]
    judged(store, refs[0], refs[0].date)
    assert store.load_evaluation(refs[0], refs[0].date), "a day can be judged again"


def test_a_verdict_goes_with_the_last_of_its_version(store):
    refs = [publish(store, "actr", DAY + dt.timedelta(days=n)) for n in range(3)]
    for ref in refs:
        judged(store, ref, ref.date)
    forget_evaluations(store, 1)
    assert all(store.verdicts(ref) for ref in refs)
    store.set_alias("candidate", refs[-1], "trained")
    remove(store, 1, 0, "test")
    assert [bool(store.verdicts(ref)) for ref in refs] == [False, False, True]


def test_evaluations_that_the_gate_may_look_at_are_not_removed(tmp_path):
    asked = ["--store", str(tmp_path), "store", "gc", "--evaluations", "6", "--delete"]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, ConfigError)
    assert "up to 7 days (evaluation.gate_days)" in str(done.exception)


def test_of_a_copy_without_aliases_nothing_goes_since_nothing_says_what_serves(store):
    history(store, 3)
    shutil.rmtree(store.root / "production" / "aliases")
    with pytest.raises(StoreError, match=r"production/aliases holds no record of actr.*promote"):
        remove(store, 1, 7, "test")
    assert len(store.versions("production", "actr")) == 3
    store.set_alias("serving", store.versions("production", "actr")[0], "by hand")
    remove(store, 1, 7, "test")
    assert len(store.versions("production", "actr")) == 2


@pytest.mark.parametrize("lost", ["links as text", "links as folders"])
def test_of_a_copy_without_links_no_evaluation_is_taken_away(store, lost):
    ref = history(store, 1)[0]
    for said in ("first", "second"):
        with store.staging() as folder:
            (folder / "evaluation.json").write_text(said)
            store.save_evaluation(folder, ref, DAY)
    link = store.root / "production/evaluations/actr" / f"{DAY}/{ref.date}.{ref.version}"
    hidden = link.parent / os.readlink(link)
    link.unlink()
    if lost == "links as text":
        link.write_text(hidden.name)
    if lost == "links as folders":
        shutil.copytree(hidden, link)
    remove(store, 1, 7, "test")
    left = link if lost == "links as folders" else hidden
    assert (left / "evaluation.json").read_text() == "second"
    assert store.alias("serving") == ref
