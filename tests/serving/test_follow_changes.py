"""A server follows a store whose versions are changes: it fetches those, and swaps as whole."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from ecdctr.cli.base import app
from ecdctr.errors import EcdctrError
from ecdctr.serving.follow import Follower
from ecdctr.serving.scorer import Scorer
from ecdctr.store.manifest import Base, Ref
from ecdctr.store.storage import open_storage
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import write_config

TABLES = ("embeddings.safetensors", "merged.safetensors")


class Swapped:
    """A service as far as a follower knows it."""

    def __init__(self) -> None:
        self.versions: list[str] = []

    def swap(self, _: str, scorer: Scorer) -> None:
        self.versions.append(scorer.version)


async def here(*command: str, **_: int) -> SimpleNamespace:
    """Run a command of the command line in this process, which has loaded what exports need.

    That a follower starts one is tested in test_service.py.
    """
    assert command[:4] == (sys.executable, "-P", "-m", "ecdctr.cli")
    done = CliRunner().invoke(app, command[4:])

    async def communicate() -> tuple[None, bytes]:
        return None, str(done.exception).encode()

    return SimpleNamespace(communicate=communicate, returncode=done.exit_code)


def publish(store: Store, source: Store, ref: Ref, rows: int, base: Ref | None = None) -> Ref:
    """Publish an A-CTR again, with a few other vectors of users."""
    manifest = source.manifest(ref).model_copy(update={"parents": {}})
    with store.staging() as folder:
        for name in manifest.files:
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source.path(ref) / name, folder / name)
        tables = load_file(folder / TABLES[0])
        tables["user_id"][1 : 1 + rows] += 0.01
        save_file(tables, folder / TABLES[0])
        return store.publish(folder, manifest, True, Base(base, 6) if base else None).ref


def fetched(cache: Path, ref: Ref) -> set[str]:
    """Return which of a version's files were copied from the bucket."""
    folders = list(cache.glob(f"*/folders/{ref}"))
    return {path.name for folder in folders for path in folder.iterdir()}


def test_a_server_fetches_the_changes_alone_and_keeps_serving_where_they_cannot_be_used(
    config, trained, s3, tmp_path, monkeypatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "trainer"))
    url, source = s3.new_url(), Store(trained)
    store, ref = Store(url), source.require("actr", DATE)
    first = publish(store, source, ref, 0)
    second = publish(store, source, ref, 3, first)
    other = publish(store, source, ref, 5, first)
    third = publish(store, source, ref, 7, other)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", here)
    cache = tmp_path / "server"
    monkeypatch.setenv("ECDCTR_CACHE", str(cache))
    open_storage.cache_clear()
    settings = write_config(tmp_path / "config.yaml", config.data.root)
    service = Swapped()
    follower = Follower(
        "serving", "serving", Store(url), "production", tmp_path / "bundles", settings
    )
    for version in (first, second):
        store.set_alias("serving", version, "promoted")
        asyncio.run(follower.look(service))
    assert service.versions == [str(first), str(second)]
    assert set(TABLES) <= fetched(cache, first)
    assert {f"{name}.delta" for name in TABLES} <= fetched(cache, second)
    assert not set(TABLES) & fetched(cache, second)

    s3.damage(url, f"{other}/{TABLES[0]}.delta")
    store.set_alias("serving", third, "promoted")
    with pytest.raises(EcdctrError, match=f"{other}.*differs from its digest"):
        asyncio.run(follower.look(service))
    assert service.versions == [str(first), str(second)]
