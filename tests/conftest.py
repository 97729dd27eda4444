"""Shared fixtures: the tiny world, generated once per session."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecdctr.config import Config, load_config
from ecdctr.store.store import Store
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate
from tests.store.s3 import S3Server, s3_server

REPOSITORY = Path(__file__).resolve().parent.parent
DATE = dt.date(2026, 1, 18)

# They take longest, longest first: begun last, they would leave the other workers without work
LONG = (
    "test_backfill", "test_browser", "test_pods", "test_options", "test_distributed", "test_setup",
    "test_pipeline", "test_speed", "test_levels", "test_docs", "test_soak", "test_service",
    "test_objects", "test_memory", "test_ablation", "test_remedies", "test_standalone",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest modules; the others follow in their order."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    simulate(load_world("tiny").settings, 1, root)
    return root


@pytest.fixture(scope="session")
def config(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    loaded = load_config(REPOSITORY / "configs" / "tiny.yaml")
    data = loaded.data.model_copy(
        update={"root": world, "prepared": tmp_path_factory.mktemp("prepared")}
    )
    return loaded.model_copy(update={"data": data})


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
