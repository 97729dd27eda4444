"""What others leave in a store: disks, synchronisers and people make folders and copies in it."""

from __future__ import annotations

import datetime as dt
import os
import shutil
from pathlib import Path

import pytest

from ecdctr.store.aliases import Kind
from ecdctr.store.retention import forget_evaluations, remove
from ecdctr.store.store import Store
from tests.make import DAY, publish

NEXT = DAY + dt.timedelta(days=1)
FOLDERS = ("lost+found", "@eaDir", "#recycle", "System Volume Information")
COPIES = ("{} (1)", "{}.bak", "{} copy", "{}~", "{}.sync-conflict-20260301-120000-ABCDEFG")


@pytest.fixture
def folder(tmp_path) -> Store:
    """Return a store in a folder with some of all that a store keeps."""
    store = Store(tmp_path / "store")
    for date in (DAY, NEXT):
        ref = publish(store, date, f"of {date}").ref
        store.set_alias("candidate", ref, "trained", Kind.TRAIN)
        with store.staging() as made:
            (made / "evaluation.json").write_text("{}")
            store.save_evaluation(made, ref, date)
    with store.staging() as made:
        (made / "page.md").write_text("a study")
        store.save_study(made, "study")
    note = f"production/cpm/{DAY}/v0002.removed"
    (store.root / note).write_text("{}")
    (store.root / ".progress").mkdir(exist_ok=True)
    return store


def said(store: Store) -> list[object]:
    """Return what a store says of all that it keeps."""
    return [
        store.versions("production", "cpm"),
        store.listing("production", "cpm").removals("", "9"),
        list(store.evaluated("production", "cpm")),
        store.alias_history("candidate", level="cpm"),
        store.studies(),
        store.verify(),
    ]


def places(store: Store) -> list[Path]:
    """Return the folders between a store's root and its versions, evaluations and records."""
    groups = [store.root, *store.root.glob("production"), *store.root.glob("production/**/*")]
    hidden = [store.root / ".studies", store.root / ".progress"]
    return [path for path in (*groups, *hidden) if path.is_dir()]


def stay(store: Store) -> None:
    """Go through what a store does, and expect that nothing but its own is seen."""
    before = said(store)[0]
    assert remove(store, 9, 0, "test")[0] == []
    assert forget_evaluations(store, 9) == []
    assert said(store)[0] == before
    assert publish(store, DAY, "once more").version == "v0003"
    store.set_alias("candidate", store.versions("production", "cpm")[0], "again", Kind.TRAIN)
    assert store.alias_history("candidate", level="cpm")[-1].number == 3


@pytest.mark.parametrize("name", FOLDERS)
def test_folders_of_others_are_no_days_and_no_versions(folder, name):
    before = said(folder)
    for place in places(folder):
        (place / name / name).mkdir(parents=True, exist_ok=True)
    os.utime(folder.root / ".progress" / name, (0, 0))  # a training that nobody took up is as old
    assert said(folder) == before
    stay(folder)


@pytest.mark.parametrize("name", COPIES)
def test_copies_of_folders_and_records_are_not_read(folder, name):
    before = said(folder)
    for path in sorted(folder.root.glob("production/**/*"), reverse=True):
        copy = path.parent / f"{name.format(path.stem)}{path.suffix}"
        if path.is_dir():
            shutil.copytree(path, copy)
        else:
            shutil.copy(path, copy)
    assert said(folder) == before
    stay(folder)


@pytest.mark.parametrize("name", ["manifest.json", "a"])
@pytest.mark.parametrize("instead", ["a folder", "a link to itself"])
def test_verify_names_what_stands_in_a_files_place_and_goes_on(folder, name, instead):
    first, last = folder.versions("production", "cpm")
    place = folder.path(first) / name
    place.unlink()
    if instead == "a folder":
        place.mkdir()
    else:
        place.symlink_to(name)
    (folder.path(last) / "b").write_text("another")
    problems = folder.verify()
    assert len(problems) == 2
    assert f"{first}" in problems[0]
    assert name in problems[0]
    assert problems[1].startswith(f"{last}: file b differs from its manifest")


def test_verify_tells_of_an_alias_whose_version_is_not_there_and_of_a_record_that_is_a_folder(
    folder,
):
    first, last = folder.versions("production", "cpm")
    shutil.rmtree(folder.path(last))
    assert folder.verify() == [
        f"{last}, at which 'candidate' points, is missing; put it back from a copy, or set the "
        "alias anew: ecdctr store promote VERSION."
    ]
    record = folder.root / "production/aliases/cpm/candidate/000001.json"
    record.unlink()
    record.mkdir()
    (folder.path(first) / "b").write_text("another")
    problems = folder.verify()
    assert problems[0].startswith(f"{record} cannot be read (Is a directory); put it back")
    assert problems[1].startswith(f"{first}: file b differs from its manifest")
