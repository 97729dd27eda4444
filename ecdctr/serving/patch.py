"""A bundle as what changed against another one: for hosts that have the bundle of the day before.

Vectors are stored as changes of each id's own row, whatever row that is; what is the same is named
alone, and everything else is whole. Put together, every file is compared with the export.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np

from ecdctr.errors import (
    ConfigError,
    EcdctrError,
    first_line,
    is_misplaced,
    machine_trouble,
)
from ecdctr.files import durable
from ecdctr.files.deltas import apply_row_delta, write_row_delta
from ecdctr.serving.bundle import DESCRIPTION, Bundle, sealed, unsealed

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME, DELTA = "patch.json", ".delta"
BASE, CHANGES, WHOLE = "base", "changes", "whole"  # how a file is stored
ROWS = re.compile(r"(tables/.+)\.(vectors|scales)\.npy")  # a row per id, and row 0
KEYS = re.compile(r"tables/.+\.keys\.npy")  # ids, or hashes of them, in order


def write_patch(bundle: Path, base: Path, target: Path) -> dict[str, Any]:
    """Write what a bundle has that another one has not; returns how each file is stored.

    Raises ConfigError if the target exists, EcdctrError where one of both is no bundle.
    """
    before, after = Bundle(base), Bundle(bundle)
    with before.as_described():
        before.check(whole=True)
    files = {}
    with _placed(target) as folder:
        for name, digest in durable.digests(bundle).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            stored = _store(name, digest, bundle, base, folder)
            files[name] = {"sha256": digest, "stored": stored}
        description = {
            "version": after.description["version"],
            "base": {
                "version": before.description["version"],
                "sha256": durable.sha256(base / DESCRIPTION),
            },
            "files": files,
        }
        (folder / NAME).write_bytes(sealed(description))
    return description


def apply_patch(patch: Path, base: Path, target: Path) -> dict[str, Any]:
    """Put a bundle together from its changes and the bundle that they are against.

    All of it or nothing. Raises ConfigError if the target exists or the base is another bundle than
    that, EcdctrError that names a damaged file, OSError for what the machine does not let us do.
    """
    description = _read(patch)
    Bundle(base)
    digest = durable.sha256(base / DESCRIPTION)
    if digest != description["base"]["sha256"]:
        raise ConfigError(
            f"{patch} holds changes against the bundle of {description['base']['version']}, and "
            f"{base} is another one; name the folder of that bundle."
        )
    ids_first = sorted(description["files"].items(), key=lambda file: bool(ROWS.fullmatch(file[0])))
    with _placed(target) as folder:
        for name, entry in ids_first:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            try:
                _restore(name, entry["stored"], patch, base, folder)
                if durable.sha256(folder / name) != entry["sha256"]:
                    raise ValueError("it is not what was exported")
            except (OSError, ValueError, KeyError, IndexError, BadZipFile) as error:
                if _is_of_the_machine(error):
                    raise
                raise EcdctrError(
                    f"{name} cannot be put together from {patch} and {base}: {first_line(error)}. "
                    "Copy both again."
                ) from None
    return description


def _read(patch: Path) -> dict[str, Any]:
    """Return patch.json; raises EcdctrError where it is missing or damaged."""
    try:
        description = unsealed(json.loads((patch / NAME).read_bytes()))
        _ = description["version"], description["base"]["version"], description["base"]["sha256"]
        for name, entry in description["files"].items():
            _ = entry["stored"], entry["sha256"]
            if durable.leads_out(name):
                raise ValueError(f"the file '{name}' would lie outside the bundle")
    except FileNotFoundError:
        raise EcdctrError(
            f"{patch} holds no changes of a bundle; name a folder that 'ecdctr export --against' "
            "made."
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if _is_of_the_machine(error):
            raise
        raise EcdctrError(
            f"{patch}/{NAME} is damaged ({first_line(error)}). Copy it again."
        ) from None
    return description


def _is_of_the_machine(error: Exception) -> bool:
    """Tell a full disk, or what this user may not read, from files that are missing or damaged."""
    of_files = isinstance(error, FileNotFoundError) or is_misplaced(error)
    return machine_trouble(error) is not None and not of_files


@contextlib.contextmanager
def _placed(target: Path) -> Iterator[Path]:
    """Yield a folder that gets its name when the block ends well; ConfigError if that is taken."""
    taken = ConfigError(f"{target} exists already; name a new folder.")
    if target.exists():
        raise taken
    with durable.naming(target.parent), durable.scratch(target.parent, ".patch-") as place:
        folder = place / "folder"
        folder.mkdir()
        yield folder
        durable.sync_files(folder)
        if not durable.rename_dir(folder, target):
            raise taken


def _store(name: str, digest: str, bundle: Path, base: Path, folder: Path) -> str:
    """Write what is stored of a file with this digest; returns how."""
    if durable.has_files(base, {name: digest}):
        return BASE
    delta = folder / f"{name}{DELTA}"
    if (base / name).exists():
        try:
            if _write_changes(name, bundle, base, delta):
                return CHANGES
        except ValueError:  # of another width or precision
            delta.unlink(missing_ok=True)
    shutil.copyfile(bundle / name, folder / name)
    return WHOLE


def _write_changes(name: str, bundle: Path, base: Path, delta: Path) -> bool:
    """Write the changes of a file whose rows or ids are known here; False for another one."""
    if match := ROWS.fullmatch(name):
        rows = _rows(bundle / f"{match[1]}.keys.npy", base / f"{match[1]}.keys.npy")
        write_row_delta(bundle / name, base / name, rows, delta)
    elif KEYS.fullmatch(name):
        keys, base_keys = (
            np.load(path, allow_pickle=False) for path in (bundle / name, base / name)
        )
        gone, new = np.flatnonzero(~np.isin(base_keys, keys)), keys[~np.isin(keys, base_keys)]
        if len(base_keys) - len(gone) + len(new) != len(keys):
            raise ValueError("two texts have one hash in one of them alone")
        with delta.open("wb") as file:
            np.savez_compressed(file, gone=gone, new=new)
    return delta.exists()


def _restore(name: str, stored: str, patch: Path, base: Path, folder: Path) -> None:
    if stored != CHANGES:
        shutil.copyfile((base if stored == BASE else patch) / name, folder / name)
        return
    delta = patch / f"{name}{DELTA}"
    if match := ROWS.fullmatch(name):
        rows = _rows(folder / f"{match[1]}.keys.npy", base / f"{match[1]}.keys.npy")
        apply_row_delta(delta, base / name, rows, folder / name)
        return
    with np.load(delta, allow_pickle=False) as changes:
        kept = np.delete(np.load(base / name, allow_pickle=False), changes["gone"])
        np.save(folder / name, np.sort(np.concatenate([kept, changes["new"]])), allow_pickle=False)


def _rows(keys: Path, before: Path) -> NDArray[np.int64]:
    """Return the base's row of each row of a table [ids + 1]; -1 for ids that it has not."""
    ids, base_keys = (np.load(path, allow_pickle=False) for path in (keys, before))
    if not len(base_keys):
        return np.concatenate([[0], np.full(len(ids), -1)])
    places = np.minimum(np.searchsorted(base_keys, ids), len(base_keys) - 1)
    return np.concatenate([[0], np.where(base_keys[places] == ids, places + 1, -1)])
