"""What a refusal tells to type makes what was missing.

The remedies are followed until the command runs.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ecdctr.cli import app
from ecdctr.errors import EcdctrError
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import write_config


def run(config: Path, store: Path, arguments: list[str]) -> None:
    app(["--config", str(config), "--store", str(store), *arguments], standalone_mode=False)


def remedy_of(error: EcdctrError) -> list[str]:
    """Return the arguments of the command that a refusal tells to type."""
    told = re.search(r"ecdctr (train [^;]*)", str(error))
    assert told, f"no command in: {error}"
    return shlex.split(told[1])


@pytest.mark.parametrize(
    ("variant", "levels"),
    [("no_tpm", {"cpm", "actr"}), ("incremental", {"tpm", "cpm", "actr"}), ("ads_only", {"actr"})],
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
