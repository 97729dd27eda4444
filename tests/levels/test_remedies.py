"""What a refusal tells to type makes what was missing.

The remedies are followed until the command runs.
"""

from __future__ import annotations

import datetime as dt
import re
import shlex
from pathlib import Path

import pytest

from ecdctr.cli import app
from ecdctr.errors import EcdctrError
from ecdctr.store.manifest import Ref
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import write_config


def run(config: Path, store: Path, arguments: list[str]) -> None:
    app(["--config", str(config), "--store", str(store), *arguments], standalone_mode=False)


def remedy_of(error: EcdctrError) -> list[str]:
    """Return the arguments of the command that a refusal tells to type."""
    told = re.search(r"ecdctr ((?:train|evaluate) [^;.)]*)", str(error))
    assert told, f"no command in: {error}"
    return shlex.split(told[1])


@pytest.mark.parametrize(
    ("variant", "levels"),
    [("no_tpm", {"cpm", "actr"}), ("window", {"tpm", "cpm", "actr"}), ("ads_only", {"actr"})],
)
def test_the_remedies_of_a_missing_parent_are_followed_to_the_version(
    world, tmp_path, variant, levels
):
    config, store = write_config(tmp_path / "config.yaml", world), tmp_path / "store"
    command = ["train", "actr", "--date", str(DATE), "--experiment", "e", "--variant", variant]
    todo = [command]
    for _ in range(10):
        if not todo:
            break
        try:
            run(config, store, todo[-1])
            todo.pop()
        except EcdctrError as error:
            todo.append(remedy_of(error))
    assert todo == []
    made = Store(store)
    ref = made.require("actr", DATE, "e")
    behind = made.lineage(ref)
    assert {one.level for one in behind} == levels
    assert {manifest.variant for manifest in behind.values()} == {variant}


@pytest.fixture
def varied(world, tmp_path) -> tuple[Path, Path, Ref]:
    """Return configuration, store and a version that the defaults would not make."""
    config, store = write_config(tmp_path / "config.yaml", world), tmp_path / "store"
    command = ["train", "actr", "--date", str(DATE), "--experiment", "e", "--variant", "ads_only"]
    run(config, store, [*command, "--seed", "5", "--hold-out-every", "3"])
    return config, store, Store(store).require("actr", DATE, "e")


def test_a_damaged_version_is_made_again_as_it_was_by_its_remedy(varied):
    config, store, ref = varied
    before = Store(store).manifest(ref)
    (Store(store).path(ref) / next(iter(before.files))).write_bytes(b"damaged")
    with pytest.raises(EcdctrError, match="differs from its manifest") as refused:
        Store(store).check(ref)
    run(config, store, remedy_of(refused.value))
    again = Store(store).require("actr", DATE, "e")
    assert again != ref
    assert Store(store).manifest(again).fingerprint == before.fingerprint


def test_a_removed_version_is_made_again_as_it_was_by_its_remedy(varied):
    config, store, ref = varied
    before = Store(store).manifest(ref)
    train = ["train", "actr", "--experiment", "e", "--variant", "ads_only"]
    for days in (1, 2):  # which `candidate` points at
        run(config, store, [*train, "--date", str(DATE + dt.timedelta(days=days))])
    remove(Store(store), 1, 0, "test")
    with pytest.raises(EcdctrError, match=f"is {ref}, which was removed") as refused:
        Store(store).resolve("actr", DATE, "e")
    run(config, store, remedy_of(refused.value))
    again = Store(store).require("actr", DATE, "e")
    assert Store(store).manifest(again).fingerprint == before.fingerprint


def test_a_version_that_was_not_evaluated_is_evaluated_with_its_variant_by_the_remedy(varied):
    config, store, ref = varied
    day = DATE + dt.timedelta(days=1)
    with pytest.raises(EcdctrError, match="was not evaluated") as refused:
        run(config, store, ["gate", "--version", str(ref), "--date", str(day)])
    remedy = remedy_of(refused.value)
    assert remedy[-2:] == ["--variant", "ads_only"]
    run(config, store, remedy)
    assert Store(store).load_evaluation(ref, day) is not None
