"""A bundle as changes against another one: put together it is the bundle, or nothing is there."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.errors import TRY_AGAIN, ConfigError, EcdctrError, machine_end
from ecdctr.files import durable
from ecdctr.serving.bundle import SCHEMA_VERSION, _checksum, sealed
from ecdctr.serving.export import export_bundle
from ecdctr.serving.patch import NAME, apply_patch, write_patch
from ecdctr.serving.scorer import Scorer
from ecdctr.serving.tables import write_ids, write_vectors
from ecdctr.store.store import Store
from tests.conftest import DATE

PRECISIONS = st.sampled_from(["float32", "float16", "int8"])
IDS = st.sets(st.integers(-50, 50), max_size=40)
TEXTS = st.sets(st.text("abcé", min_size=1, max_size=3), max_size=20)


def bundle(folder: Path, ids: dict[str, set], precision: str, seed: int) -> Path:
    """Write a bundle as far as a patch looks at it, with two thirds of the rows those of seed 0."""
    (folder / "tables").mkdir(parents=True)
    for name, of_field in ids.items():
        values = sorted(of_field)
        order = write_ids(
            folder / "tables", name, values if name == "city" else np.array(values, np.int64)
        )

        def rows(rows_asked: np.ndarray, values: list = values) -> list[np.ndarray]:
            keys = [repr(values[row - 1]) if row else "" for row in rows_asked.tolist()]
            seeds = [[len(key), *key.encode(), seed * (len(key) % 3 == 0)] for key in keys]
            drawn = [np.random.default_rng(one).normal(size=6).astype(np.float32) for one in seeds]
            whole = np.array(drawn, np.float32).reshape(-1, 6)
            return [whole[:, :4], whole[:, 4:]]

        write_vectors(folder / "tables", name, order, rows, precision)
    (folder / "model.onnx").write_text(f"graph {seed} " * 10)
    files = {
        path.relative_to(folder).as_posix(): _checksum(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    description = {"schema_version": SCHEMA_VERSION, "version": f"v{seed}", "files": files}
    (folder / "bundle.json").write_bytes(sealed(description))
    return folder


@settings(max_examples=40)
@given(
    st.tuples(IDS, IDS),
    st.tuples(TEXTS, TEXTS),
    st.tuples(PRECISIONS, PRECISIONS),
)
def test_any_bundle_comes_back_from_its_changes_against_any_other(ids, texts, precisions):
    with tempfile.TemporaryDirectory() as name:
        old, new = (
            bundle(
                Path(name) / str(seed),
                {"user_id": ids[seed], "city": texts[seed]},
                precisions[seed],
                seed,
            )
            for seed in (0, 1)
        )
        write_patch(new, old, Path(name) / "patch")
        apply_patch(Path(name) / "patch", old, Path(name) / "again")
        assert durable.digests(Path(name) / "again") == durable.digests(new)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return a bundle, a later one, and its changes."""
    old = bundle(tmp_path / "old", {"user_id": set(range(5000))}, "float32", 0)
    new = bundle(tmp_path / "new", {"user_id": set(range(3, 5010))}, "float32", 1)
    write_patch(new, old, tmp_path / "patch")
    return old, new, tmp_path / "patch"


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_ids_that_come_between_others_cost_only_themselves(tmp_path):
    odd, more = set(range(1, 20_001, 2)), {2, 800, 16_000}
    old = bundle(tmp_path / "old", {"user_id": odd}, "float32", 0)
    new = bundle(tmp_path / "new", {"user_id": odd | more}, "float32", 0)
    write_patch(new, old, tmp_path / "patch")
    assert size(tmp_path / "patch" / "tables") < size(new / "tables") / 50


@pytest.mark.parametrize(
    "damage", ["vectors", "keys", "graph", "says", "no json", "missing", "base"]
)
def test_damage_is_one_sentence_and_no_bundle(tmp_path, pair, damage):
    old, _, patch = pair
    path = {
        "vectors": patch / "tables" / "user_id.vectors.npy.delta",
        "keys": patch / "tables" / "user_id.keys.npy.delta",
        "missing": patch / "tables" / "user_id.keys.npy.delta",
        "graph": patch / "model.onnx",
        "base": old / "tables" / "user_id.vectors.npy",
    }.get(damage, patch / NAME)
    if damage == "missing":
        path.unlink()
    elif damage == "says":
        path.write_text(path.read_text().replace("model.onnx", "../model.onnx"))
    else:
        body = path.read_bytes()
        path.write_bytes(body[:-30] + bytes([body[-30] ^ 8]) + body[-29:])
    with pytest.raises(EcdctrError, match=r"Copy (it|both) again"):
        apply_patch(patch, old, tmp_path / "out")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new", "old", "patch"]


@pytest.mark.parametrize(("library", "name"), [(shutil, "copyfile"), (np, "save")])
def test_a_full_disk_is_told_as_that_and_not_as_damage_of_the_copies(
    tmp_path, pair, monkeypatch, library, name
):
    """It said to copy both again, with the exit code of a refusal."""

    def no_room(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(library, name, no_room)
    old, _, patch = pair
    with pytest.raises(OSError, match="No space left") as told:
        apply_patch(patch, old, tmp_path / "out")
    code, sentence = machine_end(told.value) or (0, "")
    assert code == TRY_AGAIN
    assert f"at {tmp_path}" in sentence
    assert sorted(one.name for one in tmp_path.iterdir()) == ["new", "old", "patch"]


def test_another_base_a_taken_target_and_a_folder_of_something_else_are_refused(tmp_path, pair):
    old, new, patch = pair
    with pytest.raises(ConfigError, match=r"changes against the bundle of v0, and .* is another"):
        apply_patch(patch, new, tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        apply_patch(patch, old, new)
    with pytest.raises(EcdctrError, match="holds no changes of a bundle"):
        apply_patch(new, old, tmp_path / "out")
    with pytest.raises(EcdctrError, match="is no bundle"):
        apply_patch(patch, tmp_path / "none", tmp_path / "out")
    with pytest.raises(ConfigError, match="exists already"):
        write_patch(new, old, patch)


def test_a_file_outside_the_bundle_is_refused(tmp_path, pair):
    old, _, patch = pair
    description = json.loads((patch / NAME).read_text())
    del description["digest"]
    description["files"]["../outside"] = description["files"].pop("model.onnx")
    (patch / NAME).write_bytes(sealed(description))
    with pytest.raises(EcdctrError, match="would lie outside the bundle"):
        apply_patch(patch, old, tmp_path / "out")
    assert not (tmp_path / "outside").exists()


@pytest.mark.parametrize("key", ["version", "base", "files"])
def test_changes_that_do_not_say_what_they_are_of_are_damaged_though_their_digest_fits(
    tmp_path, pair, key
):
    old, _, patch = pair
    description = json.loads((patch / NAME).read_text())
    for gone in (key, "digest"):
        del description[gone]
    (patch / NAME).write_bytes(sealed(description))
    with pytest.raises(EcdctrError, match=rf"patch.json is damaged \('{key}'\). Copy it again"):
        apply_patch(patch, old, tmp_path / "out")


def test_a_patched_bundle_is_the_export_and_scores(trained, tmp_path):
    store = Store(shutil.copytree(trained, tmp_path / "store"))
    old, ref = tmp_path / "old", store.require("actr", DATE)
    export_bundle(store, ref, old)
    common = ["--store", str(tmp_path / "store"), "--json"]
    made = CliRunner().invoke(
        app,
        [
            *common,
            "export",
            "--version",
            str(ref),
            "--out",
            str(tmp_path / "patch"),
            "--against",
            str(old),
        ],
    )
    assert made.exit_code == 0, made.output
    assert size(tmp_path / "patch") < size(old) / 2, "the tables are those of the base"
    done = CliRunner().invoke(
        app,
        [
            "--json",
            "patch",
            "--bundle",
            str(old),
            "--changes",
            str(tmp_path / "patch"),
            "--out",
            str(tmp_path / "new"),
        ],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["version"] == str(ref)
    assert durable.digests(tmp_path / "new" / "tables") == durable.digests(old / "tables")
    Scorer(tmp_path / "new", verify=True)
