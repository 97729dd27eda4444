"""Shared fixtures: the tiny world and what is trained on it, made once per run for all workers."""

from __future__ import annotations

import contextlib
import datetime as dt
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from ecdctr.config import Config, load_config
from ecdctr.files.durable import locked
from ecdctr.store.store import Store
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate
from tests.store.s3 import S3Server, s3_server

# Workers share the cores. Threads of a pool that wait for one another spin: boosting a tiny world
# takes a minute of a processor on a busy machine instead of a tenth of a second
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine takes its time: how long an example takes says nothing of the code
settings.register_profile(
    "ecdctr",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("ecdctr")

REPOSITORY = Path(__file__).resolve().parent.parent
DATE = dt.date(2026, 1, 18)

# They take longest, longest first: begun last, they would leave the other workers without work
LONG = (
    "test_backfill", "test_browser", "test_spark", "test_distributed", "test_options", "test_pods",
    "test_setup", "test_docs", "test_bucket", "test_pipeline", "test_faults", "test_levels",
    "test_standalone", "test_export", "test_gate", "test_forgetting", "test_ablation",
    "test_floors", "test_objects", "test_service", "test_full_disk", "test_load", "test_csv_text",
    "test_memory", "test_delivered_again", "test_map", "test_bad_values", "test_quality",
    "test_power", "test_soak", "test_point_in_time", "test_skew", "test_admission", "test_patch",
    "test_import", "test_follow_changes", "test_paths", "test_noninferiority", "test_odd_logs",
    "test_sparsity", "test_remedies",
)  # fmt: skip


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Load what the tests need without looking for garbage, and never look through it later.

    A million objects that stay: looking at them again and again took half of the collection.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    """Let the end of Python find what was loaded; DuckDB prints all that is not."""
    gc.unfreeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules; the others follow in their order."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker who needs it makes, and nobody changes."""
    with locked(folder.with_suffix(".lock")):
        if not folder.exists():
            part = folder.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(folder)
    return folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of this run that its workers share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def world(shared: Path) -> Path:
    """Return the tiny world; whoever changes it takes a copy."""
    return once(shared / "world", lambda root: simulate(load_world("tiny").settings, 1, root))


@pytest.fixture(scope="session")
def config(world: Path) -> Config:
    """Return tiny.yaml on the world; a day is prepared once per run."""
    loaded = load_config(REPOSITORY / "configs" / "tiny.yaml")
    places = {"root": world, "prepared": world.parent / "prepared"}
    return loaded.model_copy(update={"data": loaded.data.model_copy(update=places)})


@pytest.fixture(scope="session")
def parents(config: Config, shared: Path) -> Path:
    """Return a store with two weekly TPMs and the CPM of DATE; whoever adds to it takes a copy."""

    def make(root: Path) -> None:
        from ecdctr.levels.cpm import train_cpm
        from ecdctr.levels.request import Request
        from ecdctr.levels.tpm import train_tpm

        for days in (7, 0):
            train_tpm(Request(config, Store(root), DATE - dt.timedelta(days=days)))
        train_cpm(Request(config, Store(root), DATE))

    return once(shared / "parents", make)


@pytest.fixture(scope="session")
def trained(config: Config, parents: Path, shared: Path) -> Path:
    """Return the same with the A-CTR of DATE."""

    def make(root: Path) -> None:
        from ecdctr.levels.actr import train_actr
        from ecdctr.levels.request import Request

        shutil.copytree(parents, root)
        train_actr(Request(config, Store(root), DATE))

    return once(shared / "trained", make)


@pytest.fixture(scope="session")
def shipped(trained: Path, shared: Path) -> Path:
    """Return the bundle of the run's A-CTR; whoever changes it takes a copy."""

    def make(folder: Path) -> None:
        from ecdctr.serving.export import export_bundle

        export_bundle(Store(trained), Store(trained).require("actr", DATE), folder)

    return once(shared / "bundle", make)


@contextlib.contextmanager
def warmed(*command: str) -> Iterator[Path]:
    """Yield the socket of a process that forks commands (ecdctr/cli/warm.py), started so."""
    with tempfile.TemporaryDirectory(prefix="ecdctr-") as folder:
        path = Path(folder) / "socket"
        with subprocess.Popen([sys.executable, *command, str(path)]) as process:
            while not path.exists():
                assert process.poll() is None
                threading.Event().wait(0.05)
            yield path
            process.terminate()


@pytest.fixture(scope="session")
def warm() -> Iterator[Path]:
    """Yield the socket of a process that forks commands, with torch loaded."""
    with warmed("-m", "ecdctr.cli.warm") as path:
        yield path


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        yield server


@pytest.fixture(params=["folder", "s3"])
def any_store(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """Return a store in a folder, and one on object storage."""
    if request.param == "folder":
        return Store(tmp_path / "store")
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    return Store(request.getfixturevalue("s3").new_url())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")
