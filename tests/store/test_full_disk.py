"""A disk that is full before a command is done, by the kernel's own refusal.

Wherever it becomes full: one sentence with the place and what is free, exit code 75, nothing that
is taken for whole, and with space the same command makes what it would have made.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pytest

from ecdctr.cli.net import explained
from ecdctr.config import Config
from ecdctr.errors import TRY_AGAIN, machine_trouble
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.examples.prepare import prepare
from ecdctr.files import durable
from ecdctr.impressions.days import window
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.serving.bundle import Bundle
from ecdctr.serving.export import export_bundle
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed

PLENTY = 256_000  # KiB
NEXT = DATE + dt.timedelta(days=1)


class Disk:
    """A disk of its own whose size can be set; what it holds is counted in KiB."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def resize(self, size: int) -> None:
        self._call("/bin/mount", "-o", f"remount,size={size}k", str(self.root))

    @property
    def used(self) -> int:
        return shutil.disk_usage(self.root).used // 1024

    def contents(self) -> dict[str, str]:
        """Return the SHA-256 of each file of models and examples."""
        digests = durable.digests(self.root)
        return {DRAWN.sub("", name): sha for name, sha in digests.items() if name.endswith(KEPT)}

    @staticmethod
    def _call(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)


DRAWN = re.compile(r"~[0-9a-f]{32}")  # of a name, anew each time
KEPT = (".parquet", ".safetensors", ".npy", ".pt2")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={PLENTY}k", "tmpfs", str(root)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting a disk needs root")
    try:
        yield Disk(root)
    finally:
        # lazily: files of it are mapped into memory as long as a scorer is not collected
        subprocess.run(["/bin/umount", "--lazy", str(root)], check=True)


Step = Callable[[Config, Path], object]


def exported(_: Config, root: Path) -> None:
    store = Store(root / "store")
    export_bundle(store, store.require("actr", DATE), root / "bundle")


def training(train: Callable[[Request], object]) -> Step:
    return lambda config, root: train(Request(config, Store(root / "store"), DATE, force=True))


STEPS: dict[str, tuple[Step, list[float]]] = {
    "prepare": (
        lambda config, _: prepare(config, "ads", window(DATE, 2), basic=False),
        [0.0, 0.2, 0.4, 0.6, 0.8, 0.95],
    ),
    "train tpm": (training(train_tpm), [0.0, 0.3, 0.6, 0.9]),
    "train cpm": (training(train_cpm), [0.3, 0.9]),
    "train actr": (training(train_actr), [0.0, 0.5, 0.9]),
    "evaluate": (
        lambda config, root: evaluate(
            config, store := Store(root / "store"), store.require("actr", DATE), NEXT
        ),
        [0.0, 0.5, 0.9],
    ),
    "export": (exported, [0.0, 0.6, 0.9]),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_disk_that_is_full_anywhere_on_the_way_ends_in_a_sentence_and_comes_through_with_space(
    config, trained, disk, tmp_path, name
):
    step, shares = STEPS[name]
    config = changed(config, "data", prepared=disk.root / "prepared")
    store = disk.root / "store"

    def begin() -> int:
        """Put the disk where the step begins; return what it holds."""
        disk.resize(PLENTY)
        for left in disk.root.iterdir():
            shutil.rmtree(left)
        shutil.copytree(trained, store, symlinks=True)
        return disk.used

    before = begin()
    step(config, disk.root)
    needs, whole = disk.used - before, disk.contents()
    for share in shares:
        before = begin()
        disk.resize(before + int(needs * share) // 4 * 4)
        with pytest.raises(Exception, match=r".") as caught:  # of whichever library meets it
            step(config, disk.root)
        code, sentence = explained(caught.value, [name])
        assert code == TRY_AGAIN, repr(caught.value)
        told = (
            rf"No space left on device at {disk.root}\S* \([\d.,]+ of [\d.,]+ MB are free there\)"
        )
        assert re.match(told, sentence), (share, sentence)
        assert Store(store).verify() == []
        assert not (disk.root / "bundle").exists()
        disk.resize(PLENTY)
        step(config, disk.root)
        assert disk.contents() == whole
        assert not list(disk.root.glob(".export-*"))
    if name == "export":
        Bundle(disk.root / "bundle")


def test_what_duckdb_says_of_a_full_disk_names_the_disk(tmp_path):
    error = duckdb.IOException(
        f'IO Error: Could not write all bytes to file "{tmp_path}/gone/x.parquet": wanted=5 '
        "wrote=1: No space left on device"
    )
    said = machine_trouble(error)
    assert said is not None
    assert said.startswith(f"No space left on device at {tmp_path}/gone/x.parquet (")
    assert "MB are free there): free some space" in said
