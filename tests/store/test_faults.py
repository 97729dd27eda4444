"""A process that dies, a disk that is full, a file that is damaged.

Nothing partial is seen, nothing finished is lost. Kills are enumerated: a run in a child process is
killed with SIGKILL before its first change of a file, before its second, and so on until one gets
through. Python's audit events name these changes (open for writing, rename, link, remove, mkdir),
whichever module makes them.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ecdctr.config import Config
from ecdctr.errors import StoreError, machine_trouble
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.files import durable
from ecdctr.levels import run as common
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.models import tensors
from ecdctr.store.store import Store
from ecdctr.training import loop, progress
from tests.conftest import DATE
from tests.make import changed, write_config
from tests.store.kills import FORKED, dies

NEXT = DATE + dt.timedelta(days=1)


def weights(store: Store, version: str = "v0001") -> bytes:
    folder = store.root / "production" / "actr" / str(DATE) / version
    return b"".join(
        (folder / name).read_bytes() for name in ("embeddings.safetensors", "dense.safetensors")
    )


def train(config: Config, root: Path) -> None:
    train_actr(Request(config, Store(root), DATE))


def prepare_ads(config: Config) -> None:
    prepare(config, "ads", [DATE])


@pytest.fixture(scope="module")
def small(config: Config) -> Config:
    """Return A-CTR over two days, saving its progress whenever it may."""
    return changed(config, "actr", window_days=2, batch_size=8, checkpoint_seconds=0)


@pytest.fixture(scope="module")
def parents(small: Config, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with the TPM and the CPM that A-CTR needs.

    And A-CTR as an undisturbed run makes it in `actr`.
    """
    store = Store(tmp_path_factory.mktemp("faults") / "store")
    train_tpm(Request(small, store, DATE - dt.timedelta(days=7)))  # all days of training know it
    train_cpm(Request(small, store, DATE))
    undisturbed = Store(store.root.parent / "undisturbed")
    shutil.copytree(store.root, undisturbed.root)
    train(small, undisturbed.root)
    return store


def test_killed_before_any_change_of_a_file_training_shows_no_part_and_ends_in_the_same_weights(
    small, parents, tmp_path
):
    few = changed(small, "actr", batch_size=32)  # it is trained twice for each change of a file
    undisturbed = Store(shutil.copytree(parents.root, tmp_path / "undisturbed"))
    train(few, undisturbed.root)
    expected = weights(undisturbed)
    count, died = 0, True
    while died:
        count += 1
        store = Store(tmp_path / str(count))
        shutil.copytree(parents.root, store.root)
        died = dies(store.root, count, train, few, store.root)
        assert store.verify() == []
        seen = store.versions("production", "actr")
        if seen:  # published before the kill: whole
            assert weights(store) == expected
        train(few, store.root)
        assert store.versions("production", "actr") == [store.alias("candidate")]
        assert weights(store) == expected
        assert list((store.root / ".progress").glob("*.safetensors")) == []
        shutil.rmtree(store.root)
    assert count > 20, "the kills did not reach the publishing"


def test_killed_before_any_change_of_a_file_preparation_ends_in_the_same_examples(small, tmp_path):
    quick = changed(small, "data", lookback_days=2, prepared=tmp_path / "undisturbed")
    prepare_ads(quick)
    expected = contents(tmp_path / "undisturbed")
    count, died = 0, True
    while died:
        count += 1
        folder = tmp_path / str(count)
        elsewhere = changed(quick, "data", prepared=folder)
        died = dies(folder, count, prepare_ads, elsewhere)
        assert set(contents(folder).items()) <= set(expected.items()), "a file is there in part"
        prepare_ads(elsewhere)
        assert contents(folder) == expected
    assert count > 10


def contents(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*.parquet")
        if path.name[0] != "."
    }


class Stopped(Exception):
    """A training that is interrupted."""


@pytest.mark.parametrize("stop_at", [1, 2, 4])
def test_a_training_goes_on_at_the_exact_step(small, parents, tmp_path, monkeypatch, stop_at):
    """Small chunks and two epochs, so that it stops inside a chunk, at its edge.

    And in the second epoch.
    """
    config = changed(small, "actr", epochs=2, chunk_rows=1024, batch_size=16)
    store, undisturbed = Store(tmp_path / "store"), Store(tmp_path / "undisturbed")
    for each in (store, undisturbed):
        shutil.copytree(parents.root, each.root)
    train(config, undisturbed.root)

    monkeypatch.setattr(progress, "SHARE_OF_TIME", 0)  # save whenever the loop offers to
    original, saved, skipped = loop.Progress.save, [], []

    def save(self, model, optimizers, position):
        original(self, model, optimizers, position)
        saved.append(position)
        if len(saved) == stop_at:
            raise Stopped

    monkeypatch.setattr(loop.Progress, "save", save)
    with pytest.raises(Stopped):
        train(config, store.root)
    batches = loop.training_batches

    def counted(*arguments, **named):
        skipped.append(named["skip"])
        return batches(*arguments, **named)

    monkeypatch.setattr(loop, "training_batches", counted)
    train(config, store.root)
    assert skipped[0] == saved[stop_at - 1].step
    assert weights(store) == weights(undisturbed)
    manifests = [
        each.manifest(each.versions("production", "actr")[0]) for each in (store, undisturbed)
    ]
    assert manifests[0].metrics["train_loss"] == manifests[1].metrics["train_loss"]
    assert manifests[0].rows == manifests[1].rows


def test_a_training_goes_on_while_another_run_of_it_saves_and_ends(
    small, parents, tmp_path, monkeypatch
):
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    monkeypatch.setattr(progress, "SHARE_OF_TIME", 0)
    original, saved = loop.Progress.save, []

    def save(self, model, optimizers, position):
        original(self, model, optimizers, position)
        saved.append(self.path.read_bytes())
        if len(saved) == 2:
            raise Stopped

    monkeypatch.setattr(loop.Progress, "save", save)
    with pytest.raises(Stopped):
        train(small, store.root)
    monkeypatch.setattr(loop.Progress, "save", original)
    (path,) = (store.root / ".progress").iterdir()
    path.write_bytes(saved[0])
    read, reads = tensors.Stored.__getitem__, 0

    def disturbed(self, index):
        nonlocal reads
        if self.path.parent == path.parent:
            reads += 1
            if reads == 2:
                with durable.replacing(path) as temporary:
                    temporary.write_bytes(saved[1])
            elif reads == 4:
                path.unlink()
        return read(self, index)

    monkeypatch.setattr(tensors.Stored, "__getitem__", disturbed)
    train(small, store.root)
    assert reads > 4
    assert weights(store) == weights(Store(parents.root.parent / "undisturbed"))
    assert list((store.root / ".progress").iterdir()) == []


def test_a_damaged_progress_file_means_training_from_the_start(
    small, parents, tmp_path, monkeypatch
):
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    monkeypatch.setattr(common, "fingerprint", lambda *_: "f" * 64)
    path = store.progress("f" * 64)
    path.parent.mkdir()
    path.write_bytes(b"not safetensors")
    train(small, store.root)
    assert weights(store) == weights(Store(parents.root.parent / "undisturbed"))


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
@pytest.mark.parametrize(
    "file", ["embeddings.safetensors", "vocabulary/user_id.parquet", "manifest.json"]
)
def test_nothing_is_built_on_a_damaged_version(small, parents, tmp_path, damage, file):
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    ref = store.require("cpm", DATE)
    path = store.path(ref) / file
    content = path.read_bytes()
    if damage == "truncate":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        path.unlink()
    if file == "manifest.json" and damage == "remove":
        message = "manifest.json is missing from a version that is there"
    else:
        message = "ecdctr train cpm --date 2026-01-18|cannot be read"
    with pytest.raises(StoreError, match=message):
        train(small, store.root)
    assert store.versions("production", "actr") == []
    if file != "manifest.json":
        assert len(store.verify()) == 1
        train_cpm(Request(small, store, DATE, force=True))
        train(small, store.root)  # resolves the new version


def test_two_runs_of_one_date_at_once_make_one_version(small, parents, tmp_path):
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    runs = [FORKED.Process(target=train, args=(small, store.root)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0, 0]
    assert [ref.version for ref in store.versions("production", "actr")] == ["v0001"]
    assert store.verify() == []


def test_a_task_that_is_retried_after_it_succeeded_finds_its_version(small, parents, tmp_path):
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    first = train_actr(Request(small, store, DATE))
    again = train_actr(Request(small, store, DATE))
    assert again.reused
    assert again.manifest == first.manifest
    before = evaluate(small, store, first.manifest.ref, NEXT).metrics
    assert evaluate(small, store, first.manifest.ref, NEXT).metrics == before


def test_a_clock_that_was_moved_back_changes_no_resolve_and_no_alias(
    small, parents, tmp_path, monkeypatch
):
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    first = train_actr(Request(small, store, DATE)).manifest

    class Earlier(dt.datetime):
        @classmethod
        def now(cls, tz=None):
            return dt.datetime(2020, 1, 1, tzinfo=tz)

    monkeypatch.setattr(common.dt, "datetime", Earlier)
    second = train_actr(Request(small, store, DATE, force=True)).manifest
    monkeypatch.undo()
    assert second.started_at < first.started_at
    assert store.require("actr", DATE) == second.ref
    assert store.alias("candidate") == second.ref
    assert store.manifest(second.ref).fingerprint == first.fingerprint


def test_a_full_disk_is_one_sentence_and_publishes_nothing(small, parents, tmp_path, monkeypatch):
    """The kernel's own refusal, on a disk of two megabytes.

    Where no disk can be mounted, from the file operations.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=900k", "tmpfs", str(disk)],
        capture_output=True,
        check=False,
    )
    store = Store(disk / "store")
    try:
        shutil.copytree(parents.root, store.root)
        if mounted.returncode:
            monkeypatch.setattr(durable, "write_bytes", _no_space)
        with pytest.raises(Exception, match=r".") as caught:  # of whichever library meets it
            fill(small, store)
        text = machine_trouble(caught.value)
        assert text is not None, repr(caught.value)
        assert "No space left on device" in text
        assert "free some space" in text
        assert store.verify() == []
        if not mounted.returncode:
            assert f"at {disk}" in text
            subprocess.run(["/bin/mount", "-o", "remount,size=9m", str(disk)], check=True)
        monkeypatch.undo()
        again = train_actr(Request(small, store, DATE, force=True)).manifest
        assert store.require("actr", DATE) == again.ref
    finally:
        if not mounted.returncode:
            subprocess.run(["/bin/umount", str(disk)], check=True)


def fill(config: Config, store: Store) -> None:
    """Versions until nothing more fits."""
    for _ in range(50):
        train_actr(Request(config, store, DATE, force=True))


def _no_space(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_store_that_cannot_be_written_is_one_sentence(world, parents, tmp_path):
    config = write_config(tmp_path / "config.yaml", world)
    store = tmp_path / "store"
    shutil.copytree(parents.root, store)
    (tmp_path / "file").write_text("in the place of the store")
    command = [
        sys.executable,
        "-m",
        "ecdctr.cli",
        "--config",
        str(config),
        "--store",
        str(tmp_path / "file"),
    ]
    done = subprocess.run(
        [*command, "train", "tpm", "--date", str(DATE)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr[-500:]  # a mistyped name: trying again would not help
    assert "Traceback" not in done.stderr
    assert "is a file, expected a folder; name another" in done.stderr


def test_a_store_of_another_user_is_one_sentence(small, parents, tmp_path):
    """As a user without rights there: root may write anywhere."""
    store = Store(tmp_path / "store")
    shutil.copytree(parents.root, store.root)
    child = FORKED.Process(
        target=_train_as_nobody, args=(small, store.root, tmp_path / "said.json")
    )
    child.start()
    child.join()
    said = json.loads((tmp_path / "said.json").read_text())
    assert "Permission denied" in said
    assert store.versions("production", "actr") == []


def _train_as_nobody(config: Config, root: Path, target: Path) -> None:
    target.touch()
    os.chmod(target, 0o666)
    if os.getuid() == 0:
        for folder in [target.parent, *list(target.parent.parents)]:
            if folder.stat().st_uid == 0 and folder != Path("/"):
                os.chmod(folder, folder.stat().st_mode | 0o055)
        os.setuid(65534)
    else:
        for folder in [root, *root.rglob("*")]:
            os.chmod(folder, 0o555 if folder.is_dir() else 0o444)
    try:
        train(config, root)
    except OSError as error:
        target.write_text(json.dumps(machine_trouble(error)))


def test_vocabularies_survive_a_rerun_of_the_resumed_training(small, parents):
    """The rows of a resumed model are those of the vocabulary that is stored beside it."""
    undisturbed = Store(parents.root.parent / "undisturbed")
    folder = undisturbed.path(undisturbed.require("actr", DATE))
    users = Vocabulary.load(folder / "vocabulary" / "user_id.parquet")
    from safetensors.torch import load_file

    table = load_file(folder / "embeddings.safetensors")["user_id"]
    assert table.shape[0] == users.rows
    assert torch.isfinite(table).all()
