"""Versions stored as changes: read as they were published, and gc leaves none without its base."""

from __future__ import annotations

import datetime as dt
import json
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ecdctr.errors import StoreError
from ecdctr.files import durable
from ecdctr.store import bucket, deltas
from ecdctr.store.local import LocalStorage
from ecdctr.store.manifest import Base, Ref
from ecdctr.store.objects import ObjectStorage
from ecdctr.store.retention import remove
from ecdctr.store.storage import Storage, open_storage
from ecdctr.store.store import Store
from tests.make import DAY, manifest

ROWS, NAMES = 300, ("embeddings.safetensors", "dense.safetensors")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def store(any_store: Store) -> Store:
    return any_store


def fresh(store: Store) -> Store:
    """As another process sees it, with nothing in its cache."""
    open_storage.cache_clear()
    other = Store(store.root)
    shutil.rmtree(other.storage.cache.root, ignore_errors=True)
    return other


def table(seed: int, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float32)


def publish(
    store: Store, days: int, values: np.ndarray, base: Ref | None = None, max_links: int = 6
) -> Ref:
    """Publish a version that has a table, dense weights that always change, and a small text."""
    date = DAY + dt.timedelta(days=days)
    made = manifest(date, f"f{days}").model_copy(
        update={"parents": {"cpm": [str(base)]} if base else {}}
    )
    with store.staging() as folder:
        save_file({"user_id": values}, folder / NAMES[0])
        save_file({"w": table(days, 20)}, folder / NAMES[1])
        (folder / "vocabulary").mkdir()
        (folder / "vocabulary" / "user_id.parquet").write_text(f"ids {days}")
        return store.publish(folder, made, base=Base(base, max_links) if base else None).ref


def chain(store: Store, count: int, max_links: int = 6) -> list[Ref]:
    """Publish versions of which each touches ten rows of the one before."""
    values, refs = table(0), list[Ref]()
    for days in range(count):
        values = values.copy()
        values[days * 10 : days * 10 + 10] += 1
        refs.append(publish(store, days, values, refs[-1] if refs else None, max_links))
    return refs


def content(store: Store, ref: Ref) -> dict[str, bytes]:
    folder = store.path(ref)
    return {name: (folder / name).read_bytes() for name in store.manifest(ref).files}


def expected(days: int) -> bytes:
    values = table(0)
    for day in range(days + 1):
        values[day * 10 : day * 10 + 10] += 1
    with tempfile.TemporaryDirectory() as name:
        save_file({"user_id": values}, Path(name) / "file")
        return (Path(name) / "file").read_bytes()


def test_a_version_that_is_stored_as_changes_is_read_as_it_was_published(store):
    refs = chain(store, 4)
    changes = store.changes(refs[3])
    assert changes is not None
    assert (changes.links, changes.ref) == (3, refs[2])
    assert set(changes.files) == {NAMES[0]}, "what changed everywhere is stored whole"
    other = fresh(store)
    for days, ref in enumerate(refs):
        assert content(other, ref)[NAMES[0]] == expected(days)
        assert (other.path(ref) / "vocabulary" / "user_id.parquet").read_text() == f"ids {days}"
        other.check(ref)
    assert fresh(store).verify() == []
    whole, smaller = (store.stored_bytes(ref, store.manifest(ref)) for ref in refs[:2])
    assert smaller < whole / 2
    assert store.manifest(refs[1]).total_bytes == whole, "the manifest is that of the whole files"


def test_without_a_base_nothing_is_written_but_the_files(store, tmp_path):
    ref = publish(store, 0, table(0))
    folder = store.storage.folder("production/cpm", f"{ref.date}/{ref.version}")
    assert set(durable.digests(folder)) == {
        *NAMES, "vocabulary/user_id.parquet", "manifest.json", "manifest.sha256"
    }  # fmt: skip
    assert store.path(ref) == folder
    assert not list(tmp_path.glob("cache/*/folders/whole"))


def test_a_chain_is_never_longer_than_its_bound(store):
    links = [store.changes(ref) for ref in chain(store, 8, max_links=3)]
    assert [one.links if one else 0 for one in links] == [0, 1, 2, 3, 0, 1, 2, 3]


def test_gc_stores_whole_what_stays_before_its_base_goes(store):
    refs = chain(store, 6)
    gone = [one.ref for one in remove(store, 1, 0, "test")[0]]
    assert gone == refs[:4], "the newest, and the one before it that its chain goes on from"
    against = [one and one.ref for one in map(store.changes, refs[4:])]
    assert against == [None, refs[4]]
    other = fresh(store)
    for days in (4, 5):
        assert content(other, refs[days])[NAMES[0]] == expected(days)
    assert other.verify() == []
    assert publish(other, 6, table(9), refs[5]) in other.versions("production", "cpm")


def test_gc_that_dies_in_between_leaves_versions_that_can_be_read(store, monkeypatch):
    refs = chain(store, 5)

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("discarded", "removed"):
        with monkeypatch.context() as patch:
            if step == "removed":
                patch.setattr(store.storage, "remove", dies)
            else:
                patch.setattr(bucket.Bucket, "delete", dies)
                patch.setattr(Path, "unlink", dies)
            with pytest.raises(KeyboardInterrupt):
                remove(store, 1, 0, "test")
        other = fresh(store)
        for days in range(5):
            assert content(other, refs[days])[NAMES[0]] == expected(days)
    remove(store, 1, 0, "test")
    assert fresh(store).verify() == []


def stored(store: Store, ref: Ref) -> Path:
    assert isinstance(store.root, Path)
    return store.root / str(ref)


def test_a_base_that_is_gone_is_one_sentence_and_nothing_is_published_on_it(tmp_path):
    store = Store(tmp_path / "store")
    refs = chain(store, 3)
    shutil.rmtree(stored(store, refs[0]))
    other = fresh(store)
    said = f"{refs[1]} is stored as changes against {refs[0]}, which cannot be used: No version"
    with pytest.raises(StoreError, match=re.escape(said)):
        other.path(refs[1])
    with pytest.raises(StoreError, match=f"is stored as changes against {refs[1]}") as refused:
        other.check(refs[2])
    assert "ecdctr train cpm" in str(refused.value)
    with pytest.raises(StoreError, match="is stored as changes against"):
        publish(other, 3, table(3), refs[2])
    assert other.versions("production", "cpm") == refs[1:]
    assert len(other.verify()) >= 2


@pytest.mark.parametrize("damage", ["base", "delta", "says", "no json", "circle", "whole file"])
def test_damage_is_named_and_nothing_is_read(tmp_path, damage):
    store = Store(tmp_path / "store")
    refs = chain(store, 2)
    folder, base = stored(store, refs[1]), stored(store, refs[0]) / NAMES[0]
    delta, says = folder / f"{NAMES[0]}{deltas.DELTA}", folder / deltas.NAME
    path = {"base": base, "delta": delta, "whole file": folder / NAMES[1]}.get(damage, says)
    text = says.read_text()
    if damage == "says":
        path.write_text(text.replace(NAMES[0], "../../outside"))
    elif damage == "no json":
        path.write_text(text[:-5])
    elif damage == "circle":
        path.write_text(json.dumps(json.loads(text) | {"base": str(refs[1])}))
    else:
        body = path.read_bytes()
        path.write_bytes(body[:-30] + bytes([body[-30] ^ 1]) + body[-29:])
    other = fresh(store)
    with pytest.raises(StoreError) as refused:
        other.check(refs[1])
    assert str(refs[0 if damage == "base" else 1]) in str(refused.value)
    assert [problem for problem in other.verify() if str(refs[1]) in problem]


def test_damage_of_what_is_stored_is_found_though_a_whole_copy_lies_in_the_cache(tmp_path):
    store = Store(tmp_path / "store")
    refs = chain(store, 2)
    store.check(refs[1])
    (stored(store, refs[1]) / f"{NAMES[0]}{deltas.DELTA}").write_bytes(b"")
    with pytest.raises(StoreError, match=r"embeddings.safetensors.delta differ"):
        store.check(refs[1])


def test_a_damaged_copy_in_the_cache_is_made_again(tmp_path):
    store = Store(tmp_path / "store")
    ref = chain(store, 2)[1]
    copy = store.path(ref) / NAMES[0]
    copy.write_bytes(b"damaged")
    open_storage.cache_clear()
    assert (Store(store.root).path(ref) / NAMES[0]).read_bytes() == expected(1)


STEP = st.tuples(
    st.integers(0, 40), st.integers(0, 20), st.integers(0, 4), st.booleans(), st.booleans()
)  # rows touched, rows added, which version it grows from, whether gc follows, a row is re-used


def interleave(
    as_changes: Store, whole: Store, steps: list[tuple[int, int, int, bool, bool]]
) -> None:
    tables: dict[Ref, np.ndarray] = {}
    for days, (touched, added, back, collect, reused) in enumerate(steps):
        drawn = np.random.default_rng(days)
        refs = as_changes.versions("production", "cpm")
        base = refs[-min(back, len(refs))] if back and refs else None
        values = tables[base].copy() if base else table(days)
        values[drawn.choice(len(values), min(touched, len(values)), replace=False)] += 0.01
        if reused:
            values[5] = table(days, 1)[0]
        values = np.concatenate([values, table(days, added)])
        ref = publish(as_changes, days, values, base, max_links=2)
        assert publish(whole, days, values, base, max_links=0) == ref
        tables[ref] = values
        if collect:
            for store in (as_changes, whole):
                remove(store, 2, 0, "test")
        assert as_changes.versions("production", "cpm") == whole.versions("production", "cpm")
        for one in whole.versions("production", "cpm"):
            assert content(as_changes, one) == content(whole, one)
            changes = as_changes.changes(one)
            assert changes is None or changes.links <= 2
    assert as_changes.verify() == whole.verify() == []


def on(storage: Storage) -> Store:
    made = Store.__new__(Store)
    made.storage = storage
    return made


MANY = settings(max_examples=15)


@MANY
@given(st.lists(STEP, min_size=2, max_size=6))
@pytest.mark.parametrize("place", ["folder", "bucket"])
def test_any_chain_of_tables_reads_the_same_bytes_as_whole_versions(place, monkeypatch, steps):
    monkeypatch.setattr(durable, "sync", lambda _: None)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECDCTR_CACHE", f"{name}/cache")
        stores = []
        for part in ("changes", "whole"):
            if place == "folder":
                stores.append(on(LocalStorage(Path(name) / part)))
                continue
            objects = obstore.store.MemoryStore()
            patch.setattr(bucket, "from_url", lambda *_, objects=objects, **__: objects)
            stores.append(on(ObjectStorage(f"s3://bucket/{part}")))
        interleave(*stores, steps)
