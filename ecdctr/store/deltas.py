"""A version's files as changes against another version's: how they are stored and put together.

Beside what is stored whole lies deltas.json, which says against what; the manifest is that of the
whole files. Once deltas.json is gone, the version is whole again.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ecdctr.errors import StoreError, first_problem
from ecdctr.files import durable
from ecdctr.store.manifest import FileEntry, Files, Manifest, Ref

NAME, DELTA = "deltas.json", ".delta"
SUFFIX = ".safetensors"  # files of arrays, which may be stored as changes
PAYS = 0.95  # of a file's bytes; a delta above that is not worth its link


class Changes(BaseModel):
    """deltas.json: which files are stored as changes, and against which version's."""

    model_config = ConfigDict(extra="forbid")

    base: str
    links: int = Field(ge=1)  # versions that have to be put together before this one
    files: Files = Field(min_length=1)  # by the whole file's name: what is stored

    @field_validator("base")
    @classmethod
    def _version(cls, base: str) -> str:
        try:
            return str(Ref.parse(base))
        except StoreError as error:
            raise ValueError(str(error)) from None

    @property
    def ref(self) -> Ref:
        """The version that the changes are against."""
        return Ref.parse(self.base)

    @property
    def stored(self) -> dict[str, FileEntry]:
        """Every stored delta by its own name."""
        return {f"{name}{DELTA}": entry for name, entry in self.files.items()}


def read(content: bytes, ref: Ref) -> Changes:
    """Return what deltas.json says; raises StoreError for what cannot be read."""
    try:
        return Changes.model_validate_json(content)
    except ValidationError as error:
        raise StoreError(
            f"{ref}/{NAME} cannot be read: {first_problem(error)}; put it back from a copy, or "
            "train the version again with --force."
        ) from None


def shrinkable(files: dict[str, FileEntry], base: dict[str, FileEntry]) -> list[str]:
    """Return which files of a version may be stored as changes against those of another one."""
    return [name for name in files if name.endswith(SUFFIX) and name in base]


def shrink(
    folder: Path, names: list[str], entries: dict[str, FileEntry], base: Path, ref: Ref, links: int
) -> None:
    """Replace files of a staged folder by their changes against those of a base, where that pays.

    links: of the new version.
    """
    from ecdctr.files.deltas import write_delta  # with pyarrow, which Airflow does not load

    files = {}
    for name in names:
        delta = folder / f"{name}{DELTA}"
        write_delta(folder / name, base / name, delta)
        size = delta.stat().st_size
        worse = delta if size > PAYS * entries[name].bytes else folder / name
        worse.unlink()
        if worse != delta:
            files[name] = FileEntry(sha256=durable.sha256(delta), bytes=size)
    if files:
        changes = Changes(base=str(ref), links=links, files=files)
        durable.write_bytes(folder / NAME, changes.model_dump_json(indent=1).encode())


def put_together(
    stored: Path, changes: Changes, manifest: Manifest, base: Path, target: Path
) -> None:
    """Write a version's whole files into a folder, each compared with its published digest.

    Raises StoreError that names the damaged file.
    """
    from ecdctr.files.deltas import apply_delta

    for name in ("manifest.json", "manifest.sha256", *manifest.files):
        durable.make_dir((target / name).parent)
        if name not in changes.files:
            shutil.copyfile(stored / name, target / name)
            continue
        try:
            apply_delta(stored / f"{name}{DELTA}", base / name, target / name)
            if durable.sha256(target / name) != manifest.files[name].sha256:
                raise ValueError("it gives another file than the one that was published")
        except (ValueError, OSError) as error:
            raise StoreError(
                f"{manifest.ref}/{name}{DELTA}, changes against {changes.base}, cannot be put "
                f"together: {error}."
            ) from None


def damages(stored: Path, changes: Changes) -> list[str]:
    """Return which stored deltas are missing or are not what was published."""
    return [
        name
        for name, entry in changes.stored.items()
        if not (stored / name).exists() or durable.sha256(stored / name) != entry.sha256
    ]
