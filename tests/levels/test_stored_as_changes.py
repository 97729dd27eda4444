"""What levels train on and publish does not depend on how versions lie in the store."""

from __future__ import annotations

import datetime as dt
import json
import shutil

import pytest

from ecdctr.config.store import Deltas
from ecdctr.errors import StoreError
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.serving.export import export_bundle
from ecdctr.store.manifest import Base
from ecdctr.store.retention import remove
from ecdctr.store.storage import open_storage
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed


def test_versions_as_changes_are_the_versions_and_score_the_same_to_the_bit(
    config, trained, tmp_path, monkeypatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained, tmp_path / "whole")
    whole, store = Store(tmp_path / "whole"), Store(tmp_path / "store")
    config = changed(config, "store", deltas=Deltas(levels=("tpm", "cpm", "actr")))
    tpms = [
        train_tpm(Request(config, store, DATE - dt.timedelta(days=days))).manifest.ref
        for days in (7, 0)
    ]
    cpm = train_cpm(Request(config, store, DATE)).manifest
    actr = train_actr(Request(config, store, DATE)).manifest
    for ref in (*tpms, cpm.ref, actr.ref):
        assert store.manifest(ref).files == whole.manifest(ref).files
        assert store.manifest(ref).fingerprint == whole.manifest(ref).fingerprint
        store.check(ref)
    against = store.changes(actr.ref)
    assert against is not None
    assert against.ref == cpm.ref
    assert "merged.safetensors" in against.files
    assert store.stored_bytes(actr.ref, actr) < actr.total_bytes
    day = DATE + dt.timedelta(days=1)
    scores = [evaluate(config, one, actr.ref, day).metrics for one in (store, whole)]
    assert scores[0] == scores[1]
    remove(store, 1, 0, "test")
    assert store.verify() == []


def test_a_bundle_of_changes_is_that_of_the_whole_and_none_is_made_on_a_damaged_base(
    trained, shipped, tmp_path, monkeypatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    shutil.copytree(trained, tmp_path / "store")
    store = Store(tmp_path / "store")
    whole = store.versions("production", "actr")[0]
    cpm = store.versions("production", "cpm")[0]
    with store.staging() as folder:
        shutil.copytree(store.path(whole), folder, dirs_exist_ok=True)
        for name in ("manifest.json", "manifest.sha256"):
            (folder / name).unlink()
        manifest = store.manifest(whole)
        changes = store.publish(folder, manifest, force=True, base=Base(cpm, 1)).ref
    assert store.changes(changes) is not None
    of_whole = json.loads((shipped / "bundle.json").read_text())["files"]
    bundles = [of_whole, export_bundle(store, changes, tmp_path / "bundle")["files"]]
    tables = [
        {name: one for name, one in files.items() if name.startswith("tables/")}
        for files in bundles
    ]
    assert tables[0] == tables[1] != {}
    shutil.rmtree(tmp_path / "cache")
    open_storage.cache_clear()
    damaged = store.path(cpm) / "merged.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"stored as changes against {cpm}, which cannot be used"):
        export_bundle(Store(tmp_path / "store"), changes, tmp_path / "none")
    assert not (tmp_path / "none").exists()
