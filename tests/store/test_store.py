"""The store: atomic publish, resolution as of a date, aliases, verification."""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecdctr.cli.base import app
from ecdctr.errors import StoreError, TryAgain
from ecdctr.evaluation.verdict import Outcome, Verdict
from ecdctr.files import durable
from ecdctr.store.aliases import Kind
from ecdctr.store.manifest import Ref
from ecdctr.store.places import place
from ecdctr.store.soundness import DIFFERS
from ecdctr.store.storage import absolute
from ecdctr.store.store import Store
from tests.make import DAY, manifest, publish


@pytest.fixture
def store(any_store: Store) -> Store:
    """Return what a store promises holds in a folder and on object storage."""
    return any_store


class Crash(BaseException):
    """A process that dies: nothing after it runs, not even clean-up of the store."""


def test_a_manifest_that_others_wrote_is_told_by_key_and_what_to_do(store, tmp_path):
    ref = publish(store, DAY, "a").ref
    published = json.loads(store.storage.file(*place(ref), "manifest.json"))
    for other, words in (
        ({"data_date": "yesterday"}, "cannot be read: data_date: .*; put it back from a copy"),
        ({"schema_version": 2, "new": 1}, "is not of the format 1 .*; use the release that wrote"),
    ):
        (tmp_path / "manifest.json").write_text(json.dumps(published | other), "utf-8")
        store.storage.amend(*place(ref), tmp_path, ["manifest.json"], [])
        with pytest.raises(StoreError, match=f"manifest.json {words}"):
            store.manifest(ref)


def test_versions_are_listed_beside_one_that_cannot_be_read(store, tmp_path):
    """One that a newer release wrote ended the list of all."""
    refs = [publish(store, DAY + dt.timedelta(days=day), "a").ref for day in (0, 1)]
    written = json.loads(store.storage.file(*place(refs[0]), "manifest.json"))
    (tmp_path / "manifest.json").write_text(json.dumps(written | {"schema_version": 2}), "utf-8")
    store.storage.amend(*place(refs[0]), tmp_path, ["manifest.json"], [])
    done = CliRunner().invoke(app, ["--store", str(store.root), "--json", "store", "list"])
    assert done.exit_code == 1
    listed = json.loads(done.stdout)
    assert [each["version"] for each in listed["versions"]] == [str(refs[1])]
    assert [str(refs[0]) in sentence for sentence in listed["unreadable"]] == [True]


def test_a_store_that_is_not_there_is_told_as_that_where_a_version_is_asked_for(tmp_path):
    store = Store(tmp_path / "mistyped")
    with pytest.raises(StoreError, match=r"mistyped, a folder that is not there\); make one"):
        store.require("cpm", DAY)
    publish(store, DAY, "a")
    with pytest.raises(StoreError, match=r"mistyped\); make one with: ecdctr train tpm"):
        store.require("tpm", DAY)


def test_versions_are_listed_where_an_alias_cannot_be_read(tmp_path):
    store = Store(tmp_path / "store")
    ref = publish(store, DAY, "a").ref
    store.set_alias("candidate", ref, "test")
    store.set_alias("serving", ref, "test")
    (record,) = (store.root / "production/aliases/cpm/candidate").glob("*")
    record.write_text("{")
    done = CliRunner().invoke(app, ["--store", str(store.root), "--json", "store", "list"])
    assert done.exit_code == 1
    listed = json.loads(done.stdout)
    assert [(one["version"], one["aliases"]) for one in listed["versions"]] == [
        (str(ref), "serving")
    ]
    assert ["aliases/cpm/candidate" in sentence for sentence in listed["unreadable"]] == [True]


def test_an_ancestor_that_is_lost_is_named_with_its_child_and_what_to_do(store):
    parent = publish(store, DAY, "parent").ref
    with store.staging() as folder:
        child = manifest(DAY, "child", level="actr")
        child = child.model_copy(update={"parents": {"cpm": [str(parent)]}})
        ref = store.publish(folder, child).ref
    assert list(store.lineage(ref)) == [ref, parent]
    store.storage.remove(*place(parent), None)
    with pytest.raises(StoreError, match=rf"^{ref}: its parent {parent} is missing; put it back"):
        store.lineage(ref)


def test_resolve_takes_the_newest_version_that_ends_on_or_before_the_date(store):
    for back in (9, 5, 0):
        publish(store, DAY - dt.timedelta(days=back), f"f{back}")
    assert store.require("cpm", DAY - dt.timedelta(days=1)).date == DAY - dt.timedelta(days=5)
    assert store.resolve("cpm", DAY - dt.timedelta(days=10)) is None


def test_resolve_falls_back_to_the_parent_experiment(store):
    publish(store, DAY, "production")
    store.create_experiment("study")
    assert store.require("cpm", DAY, "study").experiment == "production"
    publish(store, DAY - dt.timedelta(days=3), "own", "study")
    assert store.require("cpm", DAY, "study").experiment == "study"


def test_same_fingerprint_is_reused_and_force_makes_a_new_version(store):
    assert publish(store, DAY, "f").version == "v0001"
    assert publish(store, DAY, "f").version == "v0001"
    assert publish(store, DAY, "f", force=True).version == "v0002"
    assert store.require("cpm", DAY).version == "v0002"


def test_missing_version_says_how_to_make_it(store):
    with pytest.raises(StoreError, match="ecdctr train cpm --date 2026-01-10"):
        store.require("cpm", DAY)


def test_rollback_walks_back_through_what_served(store):
    refs = [publish(store, DAY + dt.timedelta(days=i), f"f{i}").ref for i in range(3)]
    for ref in refs:
        store.set_alias("serving", ref, "gate")
    store.rollback(level="cpm")
    assert store.alias("serving", level="cpm") == refs[1]
    store.rollback(level="cpm")
    assert store.alias("serving", level="cpm") == refs[0]
    with pytest.raises(StoreError, match="roll back"):
        store.rollback(level="cpm")


@pytest.mark.parametrize("damage", ["changed", "missing", "removed"])
def test_a_damaged_version_serves_neither_by_hand_nor_by_a_rollback(tmp_path, damage):
    store = Store(tmp_path)
    before, now = (publish(store, DAY + dt.timedelta(days=i), f"f{i}").ref for i in range(2))
    for ref in (before, now):
        store.set_alias("serving", ref, "gate", Kind.GATE)
    match damage:
        case "changed":
            (store.path(before) / "a").write_text("g")
        case "missing":
            (store.path(before) / "b").unlink()
        case "removed":
            shutil.rmtree(store.path(before))
    with pytest.raises(StoreError, match=f"{before}.* train "):
        store.set_alias("serving", before, "by hand")
    with pytest.raises(StoreError, match=f"stays at {now}.*{before}.*store promote VERSION"):
        store.rollback(level="cpm")
    assert store.alias("serving", level="cpm") == now


@pytest.mark.parametrize("locks", [True, False], ids=["in use before", "never in use"])
def test_who_only_reads_needs_no_right_to_write(tmp_path, monkeypatch, locks):
    """A store mounted read-only, or of another user, can be exported and served from."""

    def denied(path: Path, mode: str = "r", *more: Any) -> Any:
        if "r" not in mode:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return opened(path, mode, *more)

    store = Store(tmp_path)
    if locks:
        with store.in_use():
            pass
    opened = Path.open
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(OSError, match="Read-only"), store.in_use():
        pass
    with store.in_use(reads_only=True):
        monkeypatch.undo()
        removing = pytest.raises(StoreError, match="running") if locks else contextlib.nullcontext()
        with removing, store.exclusively("remove"):
            pass


@pytest.mark.parametrize("reason", ["rollback by hand", "rollback from yesterday", "rollback"])
def test_what_a_reason_says_is_for_people_and_moves_no_rollback(store, reason):
    refs = [publish(store, DAY + dt.timedelta(days=i), f"f{i}").ref for i in range(3)]
    for ref in refs:
        store.set_alias("serving", ref, reason)
    assert store.rollback(level="cpm").ref == refs[1]
    assert store.rollback(level="cpm").ref == refs[0]


def test_records_of_older_stores_without_a_kind_are_read(store):
    refs = [publish(store, DAY + dt.timedelta(days=i), f"f{i}").ref for i in range(3)]
    for ref, reason in zip(
        [*refs, refs[1]],
        ["rollback by hand", "gate", "gate", f"rollback from {refs[2]}"],
        strict=True,
    ):
        old = json.dumps({"ref": str(ref), "at": "2026-01-01T00:00:00+00:00", "reason": reason})
        store.storage.append("production/aliases/cpm/serving", old.encode())
    assert [r.kind for r in store.alias_history("serving", level="cpm")] == [
        Kind.PROMOTE, Kind.PROMOTE, Kind.PROMOTE, Kind.ROLLBACK,
    ]  # fmt: skip
    assert store.rollback(level="cpm").ref == refs[0]


def test_two_rollbacks_at_once_go_one_step_back(store, monkeypatch):
    refs = [publish(store, DAY + dt.timedelta(days=i), f"f{i}").ref for i in range(3)]
    for ref in refs:
        store.set_alias("serving", ref, "gate", Kind.GATE)
    history = store.alias_history("serving", level="cpm")
    store.rollback(level="cpm")
    with monkeypatch.context() as patch:
        answers = [history, store.alias_history("serving", level="cpm")]
        patch.setattr(Store, "alias_history", lambda *_, **__: answers.pop(0))
        with pytest.raises(TryAgain, match="was set to"):
            store.rollback(level="cpm")
    assert store.alias("serving", level="cpm") == refs[1]
    assert store.rollback(level="cpm").ref == refs[0]


def test_a_record_that_is_there_is_not_written_again_and_an_older_state_is_not_built_on(store):
    log = store.storage
    assert log.append("production/log", b"one") == 1
    assert log.append("production/log", b"one") == 1
    assert log.append("production/log", b"two", after=0) is None
    assert log.append("production/log", b"two", after=1) == 2
    assert log.records("production/log") == [(1, b"one"), (2, b"two")]


@pytest.mark.parametrize("plain", [False, True])
def test_a_crash_while_a_folder_is_replaced_leaves_the_old_one_or_the_new_one(tmp_path, plain):
    """`plain`: from a store that has no links yet.

    Where the one moment of the change is left out.
    """
    for crash_at in range(40):
        store = Store(tmp_path / f"{plain}{crash_at}")
        if plain:
            (store.root / ".studies" / "s").mkdir(parents=True)
            (store.root / ".studies" / "s" / "n").write_text("old")
        else:
            save(store, "old")
        taken_over = []
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Crash):
            left = [crash_at]
            for module, name in (
                (os, "rename"),
                (os, "replace"),
                (os, "symlink"),
                (shutil, "rmtree"),
            ):
                patch.setattr(module, name, _crashing(getattr(module, name), left))
            save(store, "new")
            taken_over.append(True)
        link = store.root / ".studies" / "s"
        if plain and not link.exists():
            continue
        assert store.studies() == ["s"]
        assert (store.study("s") / "n").read_text() in ({"new"} if taken_over else {"old", "new"})
        save(store, "next")
        assert (store.study("s") / "n").read_text() == "next"
        assert len(list((store.root / ".studies").iterdir())) <= 3, "what was before, not more"
        if taken_over:
            return
    pytest.fail("never got through")


def save(store: Store, text: str) -> None:
    with store.staging() as folder:
        (folder / "n").write_text(text)
        store.save_study(folder, "s")


def test_a_study_whose_name_begins_like_another_is_left_alone(store):
    for name in ("a", "a.b", "a", "a.b", "a"):
        with store.staging() as folder:
            (folder / "name").write_text(name)
            store.save_study(folder, name)
    assert {(store.study(name) / "name").read_text() for name in store.studies()} == {"a", "a.b"}


def test_verify_looks_through_experiments_too(tmp_path):
    store = Store(tmp_path)
    store.create_experiment("study")
    ref = publish(store, DAY, "f", "study").ref
    assert store.verify() == []
    (store.path(ref) / "a").write_text("g")
    assert len(store.verify()) == 1


def test_verify_finds_a_flipped_byte_and_a_missing_file(tmp_path):
    store = Store(tmp_path)
    ref = publish(store, dt.date(2026, 3, 1), "f").ref
    assert store.verify() == []
    (store.path(ref) / "a").write_text("g")
    (store.path(ref) / "b").unlink()
    assert [problem.split(": ")[1].split(";")[0] for problem in store.verify()] == [
        "file a differs from its manifest",
        "file b is missing",
    ]
    (store.path(ref) / "b").mkdir()
    assert len(store.verify()) == 2


def test_a_manifest_whose_digest_is_no_text_any_more_is_named_like_any_other_damage(tmp_path):
    store = Store(tmp_path)
    ref = publish(store, dt.date(2026, 3, 1), "f").ref
    (store.path(ref) / "manifest.sha256").write_bytes(b"\x00\xff\xfe")
    (problem,) = store.verify()
    assert problem.startswith(f"{ref}: {DIFFERS}; train it again")


@pytest.mark.parametrize(
    "damage", [
        b"", b"\xff\xfe{", b'{"ref": "produ', b"[]", b"{}",
        b'{"ref": 5, "at": "", "reason": ""}',
        b'{"ref": "a/b/2026-01-01/v1", "at": "", "reason": 0}',
        b'{"ref": "a/b/2026-01-01/v1", "at": "", "reason": "", "kind": 5}',
    ],
)  # fmt: skip
def test_a_damaged_alias_is_named_by_whoever_reads_it_and_can_be_set_anew(tmp_path, damage):
    store = Store(tmp_path)
    ref = publish(store, dt.date(2026, 3, 1), "f").ref
    store.set_alias("serving", ref, "first")
    (record,) = tmp_path.glob("production/aliases/cpm/serving/*.json")
    record.write_bytes(damage)
    words = r"Record 1 of .*/production/aliases/cpm/serving is damaged \(.*\); put it back"
    for read in (store.alias_record, store.alias_history):
        with pytest.raises(StoreError, match=words):
            read("serving", level="cpm")
    assert [problem.partition(" is damaged")[0] for problem in store.verify()] == [
        f"Record 1 of {tmp_path}/production/aliases/cpm/serving"
    ]
    store.set_alias("serving", ref, "anew")
    assert store.alias("serving", level="cpm") == ref


@pytest.mark.parametrize("damage", [b"", b"[]", b"{}", b'{"date": "2026-01-10"}'])
def test_a_damaged_verdict_is_named_by_whoever_reads_it(tmp_path, damage):
    store = Store(tmp_path)
    ref = publish(store, dt.date(2026, 3, 1), "f").ref
    store.add_verdict(ref, {"date": DAY} | Verdict(Outcome.PASSED, "", None, {})._asdict())
    with store.staging() as folder:
        (folder / "evaluation.json").write_text("{}")
        store.save_evaluation(folder, ref, DAY)
    (record,) = tmp_path.glob("production/verdicts/cpm/*/*.json")
    record.write_bytes(damage)
    words = r"Record 1 of .*/production/verdicts/cpm/.* is damaged \(.*\); put it back"
    for read in (store.verdicts, lambda ref: store.load_evaluation(ref, DAY)):
        with pytest.raises(StoreError, match=words):
            read(ref)


@pytest.mark.parametrize("name", ["", "../x", "A", ".hidden", "a/b", "a\n"])
def test_experiment_names_cannot_leave_the_store(store, name):
    with pytest.raises(StoreError):
        publish(store, DAY, "f", name)


STEPS = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from("abc"),
        st.sampled_from(["production", "x"]),
        st.integers(0, 14),
    ),
    max_size=8,
)


FOLDER = [(durable, name) for name in ("make_dir", "write_bytes", "sync", "rename_dir")]
BUCKET = [(obstore, name) for name in ("put", "get", "delete")]


@settings(max_examples=60)
@given(STEPS)
def test_no_crash_between_two_file_operations_shows_a_partial_or_future_version(steps):
    with tempfile.TemporaryDirectory() as root:
        _crash_and_look(Store(root), steps, FOLDER)


@settings(max_examples=20)
@given(STEPS)
def test_no_crash_between_two_requests_shows_a_partial_or_future_version(s3, steps):
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECDCTR_CACHE", cache)
        _crash_and_look(Store(s3.new_url()), steps, BUCKET)


def _crash_and_look(
    store: Store, steps: list[tuple[int, str, str, int]], operations: list[tuple[Any, str]]
) -> None:
    """Publish again and again, each time dying before some operation.

    Whatever is there then must be whole.
    """
    for offset, fingerprint, experiment, crash_at in steps:
        with pytest.MonkeyPatch.context() as patch:
            left = [crash_at]
            for module, name in operations:
                patch.setattr(module, name, _crashing(getattr(module, name), left))
            with contextlib.suppress(Crash):
                publish(store, DAY + dt.timedelta(days=offset), fingerprint, experiment)
        assert store.verify() == []
        for as_of in (DAY - dt.timedelta(days=1), DAY, DAY + dt.timedelta(days=2)):
            resolved = store.resolve("cpm", as_of, "x")
            if resolved:
                assert resolved.date <= as_of
                assert (store.path(resolved) / "b").read_text() == store.manifest(
                    resolved
                ).fingerprint * 2


def _crashing(function: Callable, left: list[int]) -> Callable:
    def wrapped(*arguments, **named):
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return function(*arguments, **named)

    return wrapped


def test_ref_text_round_trip_and_refusal():
    ref = Ref("production", "cpm", DAY, "v0001")
    assert Ref.parse(str(ref)) == ref
    with pytest.raises(StoreError, match="expected experiment/level"):
        Ref.parse("nonsense")


def test_an_alias_advances_only_and_whoever_comes_between_is_seen(any_store, monkeypatch):
    """Two trainings end together: the older one looks, the newer one sets, the older one writes."""
    store = any_store
    older, newer = (publish(store, dt.date(2026, 3, day), f"f{day}").ref for day in (1, 2))
    look, calls = store.alias_record, [0]

    def looked(*given):
        record = look(*given)
        calls[0] += 1
        if calls[0] == 1:
            store.set_alias("candidate", newer, "newest", Kind.TRAIN)
        return record

    monkeypatch.setattr(store, "alias_record", looked)
    store.advance("candidate", older, "newest", Kind.TRAIN)
    monkeypatch.undo()
    assert store.alias("candidate", older.experiment, older.level) == newer
    store.advance("candidate", newer, "again", Kind.TRAIN)
    assert len(store.alias_history("candidate", newer.experiment, newer.level)) == 1


def test_a_reason_that_no_page_could_show_is_refused(store):
    """As a terminal of another encoding gives it; kept, it would end every later report."""
    ref = publish(store, dt.date(2026, 3, 1), "f").ref
    with pytest.raises(StoreError, match=r"The reason 'caf\\udce9' is no UTF-8"):
        store.set_alias("serving", ref, "caf\udce9")
    assert store.alias_history("serving", ref.experiment, ref.level) == []


def test_an_alias_that_others_set_all_the_time_ends_in_a_sentence(store, monkeypatch):
    older, newer = (publish(store, dt.date(2026, 3, day), f"f{day}").ref for day in (1, 2))
    set_alias = store.set_alias

    def interrupted(alias, ref, reason, kind, after=None):
        set_alias(alias, older, "again", Kind.TRAIN)
        return set_alias(alias, ref, reason, kind, after)

    monkeypatch.setattr(store, "set_alias", interrupted)
    with pytest.raises(TryAgain, match="was set to"):
        store.advance("candidate", newer, "newest", Kind.TRAIN)


def test_a_store_at_a_link_that_points_to_itself_is_refused(tmp_path):
    (tmp_path / "store").symlink_to("store")
    with pytest.raises(StoreError, match="a link on the way points to itself"):
        absolute(tmp_path / "store")


def test_a_version_whose_manifest_is_gone_is_no_version_that_never_was(store):
    """`store list`, to which that sentence leads, would say the same again."""
    ref = publish(store, dt.date(2026, 3, 1), "f").ref
    store.storage.discard(f"{ref}/manifest.json")
    with pytest.raises(StoreError, match=r"manifest.json is missing from a version that is there"):
        store.manifest(ref)
    with pytest.raises(StoreError, match=r"No version .* \(see: ecdctr store list\)"):
        store.manifest(ref._replace(version="v0009"))
