"""The long part of memory in the store.

Made with TPM's versions, verified and removed like them.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.config import Config
from ecdctr.impressions.reading import DeliveredAnew
from ecdctr.levels.remembering import save_memory
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed, write_config

WEEK = dt.timedelta(days=7)


@pytest.fixture
def remembering(config: Config) -> Config:
    overlay = {"memory": {"enabled": True, "windows": [3, 10], "max_pairs": 5}}
    return config.with_overlay(overlay, "test")


def test_each_version_of_tpm_holds_the_newest_weekly_table(remembering: Config, store: Store):
    assert DATE.weekday() == remembering.memory.weekday
    two_days_on = DATE + dt.timedelta(days=2)
    first, second = (
        train_tpm(Request(remembering, store, date)).manifest for date in (DATE, two_days_on)
    )
    tables = [
        pq.read_table(store.path(m.ref) / "memory" / "item_id.parquet") for m in (first, second)
    ]
    assert tables[0].equals(tables[1]), "the newest Sunday is the same"
    assert max(tables[0]["place"].to_pylist()) == 5
    newest = max(tables[0]["natural_last"].drop_null().to_pylist())
    assert DATE - dt.timedelta(days=10) < newest <= DATE
    assert "memory/category.parquet" in first.files


def test_memory_of_another_delivery_than_the_version_is_named_by_is_not_published(
    remembering: Config, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A day is delivered again while TPM trains, before its tables are written."""
    root = tmp_path / "data"
    for domain in ("natural", "ads"):
        for back in range(4):
            day = f"domain={domain}/date={DATE - dt.timedelta(days=back)}"
            shutil.copytree(Path(remembering.data.root) / day, root / day)
    moved = changed(remembering, "data", root=root, prepared=tmp_path / "prepared")

    def delivered(request: Request, folder: Path) -> None:
        (path,) = (root / "domain=ads" / f"date={DATE}").glob("*.parquet")
        pq.write_table(pq.read_table(path, partitioning=None).slice(1), path)
        save_memory(request, folder)

    with monkeypatch.context() as patch:
        patch.setattr("ecdctr.levels.run.save_memory", delivered)
        with pytest.raises(DeliveredAnew, match=r"What tpm .* remembers was delivered again"):
            train_tpm(Request(moved, store, DATE))
    assert store.versions("production", "tpm") == []
    assert train_tpm(Request(moved, store, DATE)).manifest.files


def test_a_damaged_table_is_told_and_gc_takes_it_with_its_version(
    remembering: Config, store: Store
):
    dates = [DATE - dt.timedelta(days=n) for n in (6, 4, 2, 0)]
    manifests = [train_tpm(Request(remembering, store, date)).manifest for date in dates]
    path = store.path(manifests[1].ref) / "memory" / "item_id.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    (problem,) = store.verify()
    assert "file memory/item_id.parquet differs from its manifest" in problem
    path.write_bytes(whole)
    old = store.path(manifests[0].ref)
    remove(store, 1, 0, "test")
    assert not old.exists()
    assert store.path(manifests[-1].ref).exists()


def test_another_memory_is_another_version_and_none_leaves_the_fingerprint(
    config: Config, remembering: Config, store: Store
):
    def trained(settings: Config) -> str:
        return train_tpm(Request(settings, store, DATE)).manifest.fingerprint

    other = remembering.with_overlay({"memory": {"windows": [4]}}, "test")
    assert len({trained(one) for one in (config, remembering, other)}) == 3
    windows_alone = config.with_overlay({"memory": {"windows": [4]}}, "test")
    assert trained(windows_alone) == trained(config), "not enabled, it changes nothing"


def test_a_window_longer_than_the_log_is_told_by_validate(world: Path, tmp_path: Path):
    path = write_config(tmp_path / "config.yaml", world)
    raw = yaml.safe_load(path.read_text()) | {"memory": {"enabled": True}}
    path.write_text(yaml.safe_dump(raw))
    arguments = ["--config", str(path), "--json", "validate", "--domain", "ads"]
    done = CliRunner().invoke(app, [*arguments, "--date", str(DATE)])
    assert done.exit_code == 0, done.output
    warnings = json.loads(done.stdout.splitlines()[-1])["warnings"]
    assert any("memory.windows: 336 days, but the ads log has" in one for one in warnings)


def test_days_that_memory_reads_and_the_log_has_lost_are_told(
    remembering: Config, store: Store, tmp_path: Path
):
    root = tmp_path / "data"
    days = [DATE - dt.timedelta(days=back) for back in range(17)]
    for domain in ("natural", "ads"):
        for day in days:
            name = f"domain={domain}/date={day}"
            shutil.copytree(Path(remembering.data.root) / name, root / name)
    moved = changed(remembering, "data", root=root, prepared=tmp_path / "prepared")
    before = train_tpm(Request(moved, store, DATE - WEEK)).manifest
    assert before.log_start == days[-1]
    assert train_tpm(Request(moved, store, DATE)).manifest.quality == []
    reads, begins = DATE - dt.timedelta(days=9), DATE - dt.timedelta(days=8)
    for folder in root.glob("domain=*/date=*"):
        if folder.name < f"date={reads}":
            shutil.rmtree(folder)
    beyond = train_tpm(Request(moved, store, DATE, force=True)).manifest
    assert beyond.quality == [], "what no window reaches may go"
    for folder in root.glob(f"domain=*/date={reads}"):
        shutil.rmtree(folder)
    (told,) = train_tpm(Request(moved, store, DATE)).manifest.quality
    assert f"memory reads days from {reads} on, and the log begins on {begins}" in told
    assert f"(for {before.ref} it began on {days[-1]})" in told
