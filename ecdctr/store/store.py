"""Publish, resolve as of a date, aliases, lineage and verification of versions in a local folder."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from ecdctr import files
from ecdctr.errors import StoreError
from ecdctr.store.manifest import NAME, VERSION, FileEntry, Manifest, Ref

PRODUCTION = "production"
ALIASES = ("candidate", "serving")


class AliasRecord(NamedTuple):
    """One line of an alias's history."""

    number: int
    ref: Ref
    at: str
    reason: str


class Store:
    """A root folder of versions: <root>/<experiment>/<level>/<data date>/<version>/."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).resolve()

    # -- experiments ---------------------------------------------------------------------------------------------

    def create_experiment(self, name: str, parent: str = PRODUCTION) -> None:
        """Declare an experiment whose resolves fall back to its parent; production has none.

        Raises StoreError for a bad name, or when it exists with another parent.
        """
        _check_name(name)
        if name == PRODUCTION:
            return
        folder = self.root / name
        files.make_dir(folder)
        if files.create_exclusive(folder / "experiment.json", json.dumps({"parent": parent}).encode()):
            return
        found = self.parent_of(name)
        if found != parent:
            raise StoreError(f"Experiment '{name}' has parent '{found}', not '{parent}'; choose another name.")

    def parent_of(self, experiment: str) -> str | None:
        """The experiment where a resolve goes on, None at production."""
        if experiment == PRODUCTION:
            return None
        path = self._folder(experiment, "experiment.json")
        if not path.exists():
            return PRODUCTION
        return str(json.loads(path.read_text())["parent"])

    def experiments(self) -> list[str]:
        """Names of all experiments that hold something, sorted."""
        if not self.root.exists():
            return []
        return sorted(p.name for p in self.root.iterdir() if p.is_dir() and NAME.match(p.name))

    # -- publishing ----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A private folder on the store's disk to build a version in; removed if it was not published."""
        folder = self.root / ".staging" / uuid.uuid4().hex
        files.make_dir(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, manifest: Manifest, force: bool = False) -> Manifest:
        """Make a staged folder a version, all or nothing; returns the manifest as stored.

        The number is taken by the rename itself, so two writers never share one. A finished version with the same
        fingerprint wins over the new one unless `force`.
        """
        _check_name(manifest.experiment)
        parent = self.root / manifest.experiment / manifest.level / manifest.data_date.isoformat()
        files.make_dir(parent)
        entries = {}
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            files.sync(path)
            entries[path.relative_to(folder).as_posix()] = FileEntry(
                sha256=files.sha256(path), bytes=path.stat().st_size
            )
        lock = self.root / ".locks" / f"{manifest.experiment}.{manifest.level}.{manifest.data_date}"
        with files.locked(lock):
            finished = self.find(manifest.experiment, manifest.level, manifest.data_date, manifest.fingerprint)
            if finished and not force:
                return finished
            taken = [p.name for p in _version_dirs(parent)] + [p.stem for p in parent.glob("v*.removed")]
            number = 1 + max((int(name[1:]) for name in taken), default=0)
            while True:
                stored = manifest.model_copy(update={"version": f"v{number:04d}", "files": entries})
                files.write_bytes(folder / "manifest.json", stored.model_dump_json(indent=1).encode())
                files.write_bytes(folder / "manifest.sha256", files.sha256(folder / "manifest.json").encode())
                files.sync(folder)
                if files.rename_dir(folder, parent / stored.version):
                    files.sync(parent)
                    return stored
                number += 1

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """For the time of a training or an evaluation: nothing is removed from under it."""
        with files.locked(self.root / ".locks" / "in-use", shared=True):
            yield

    @contextlib.contextmanager
    def exclusively(self, what: str) -> Iterator[None]:
        """Nothing trains or evaluates meanwhile; raises StoreError if something does now."""
        try:
            with files.locked(self.root / ".locks" / "in-use", wait=False):
                yield
        except BlockingIOError:
            raise StoreError(f"Cannot {what} in {self.root}: a training or evaluation is running; try later.") from None

    # -- reading -------------------------------------------------------------------------------------------------

    def path(self, ref: Ref) -> Path:
        """The folder of a version."""
        return self._folder(ref.experiment, ref.level) / ref.date.isoformat() / ref.version

    def progress(self, fingerprint: str) -> Path:
        """Where a training with this fingerprint saves how far it is."""
        return self.root / ".progress" / f"{fingerprint}.safetensors"

    def study(self, name: str) -> Path:
        """The folder of a study's results; raises StoreError for a bad name."""
        _check_name(name)
        return self.root / ".studies" / name

    def matrix_row(self, ref: Ref, days: list[dt.date], hold_out_every: int) -> Path:
        """Where a version's row of a forgetting matrix over consecutive days lies, if it was made."""
        span = f"{days[0]}.{days[-1]}.{hold_out_every}"
        return self.root / ref.experiment / "matrix" / f"{ref.date}.{ref.version}.{span}.parquet"

    def studies(self) -> list[str]:
        """Names of the studies that have results, sorted."""
        return sorted(path.parent.name for path in (self.root / ".studies").glob("*/study.json"))

    def _folder(self, experiment: str, name: str) -> Path:
        """A folder of an experiment; names come from params and command lines and must not lead out of the store."""
        _check_name(experiment)
        _check_name(name)
        return self.root / experiment / name

    def manifest(self, ref: Ref) -> Manifest:
        """Read a version's manifest; raises StoreError if it is missing, unreadable, or another version's."""
        path = self.path(ref) / "manifest.json"
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
            if manifest.ref != ref:
                raise StoreError(f"{path} cannot be read: it says that it is {manifest.ref}.")
            return manifest
        except FileNotFoundError:
            raise StoreError(f"No version {ref} in {self.root} (see: ecdctr store list).") from None
        except ValidationError as error:
            raise StoreError(
                f"{path} cannot be read: {error.error_count()} problems, first: {error.errors()[0]['msg']}."
            ) from None

    def versions(self, experiment: str, level: str) -> list[Ref]:
        """All versions of a level, oldest data date and number first."""
        found = []
        folder = self._folder(experiment, level)
        for day in sorted(folder.iterdir()) if folder.exists() else []:
            with contextlib.suppress(ValueError):
                date = dt.date.fromisoformat(day.name)
                found += [Ref(experiment, level, date, p.name) for p in _version_dirs(day)]
        return found

    def newest(self, experiment: str, level: str) -> Ref | None:
        """The version with the newest data date in an experiment itself, without reading the others."""
        folder = self._folder(experiment, level)
        for day in sorted(folder.iterdir(), reverse=True) if folder.exists() else []:
            versions = _version_dirs(day)
            if versions:
                with contextlib.suppress(ValueError):
                    return Ref(experiment, level, dt.date.fromisoformat(day.name), versions[-1].name)
        return None

    def find(self, experiment: str, level: str, date: dt.date, fingerprint: str) -> Manifest | None:
        """The newest finished version of that date with that fingerprint."""
        folder = self._folder(experiment, level) / date.isoformat()
        for path in reversed(_version_dirs(folder)):
            manifest = self.manifest(Ref(experiment, level, date, path.name))
            if manifest.fingerprint == fingerprint:
                return manifest
        return None

    def resolve(self, level: str, as_of: dt.date, experiment: str = PRODUCTION) -> Ref | None:
        """The newest version whose data ends on or before `as_of`, here or else in the parent experiment."""
        current: str | None = experiment
        while current:
            known = [ref for ref in self.versions(current, level) if ref.date <= as_of]
            if known:
                return known[-1]
            current = self.parent_of(current)
        return None

    def require(self, level: str, as_of: dt.date, experiment: str = PRODUCTION) -> Ref:
        """Like resolve, but a missing version is a StoreError that says how to make one."""
        ref = self.resolve(level, as_of, experiment)
        if ref is None:
            raise StoreError(
                f"No {level} version with data date on or before {as_of} in experiment '{experiment}' or its parents "
                f"({self.root}); make one with: ecdctr train {level} --date {as_of} --experiment {experiment}"
            )
        return ref

    # -- aliases -------------------------------------------------------------------------------------------------

    def set_alias(self, alias: str, ref: Ref, reason: str) -> AliasRecord:
        """Point an alias of the version's experiment and level at it; the history is kept."""
        if alias not in ALIASES:
            raise StoreError(f"Unknown alias '{alias}'; aliases are {', '.join(ALIASES)}.")
        self.manifest(ref)
        folder = self.root / ref.experiment / "aliases" / ref.level / alias
        files.make_dir(folder)
        while True:
            number = 1 + max(
                (record.number for record in self.alias_history(alias, ref.experiment, ref.level)), default=0
            )
            record = AliasRecord(number, ref, dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), reason)
            content = json.dumps({"ref": str(ref), "at": record.at, "reason": reason}).encode()
            if files.create_exclusive(folder / f"{number:06d}.json", content):
                return record

    def alias_history(self, alias: str, experiment: str = PRODUCTION, level: str = "actr") -> list[AliasRecord]:
        """All records of an alias, oldest first."""
        records = []
        for path in sorted((self._folder(experiment, "aliases") / level / alias).glob("[0-9]*.json")):
            raw = json.loads(path.read_text())
            records.append(AliasRecord(int(path.stem), Ref.parse(raw["ref"]), raw["at"], raw["reason"]))
        return records

    def alias(self, alias: str, experiment: str = PRODUCTION, level: str = "actr") -> Ref | None:
        """The version an alias points at, None if it was never set."""
        history = self.alias_history(alias, experiment, level)
        return history[-1].ref if history else None

    def rollback(self, experiment: str = PRODUCTION, level: str = "actr") -> AliasRecord:
        """Point `serving` back at the version that served before the present one.

        A rollback undoes one promotion: repeated, it walks further back. Raises StoreError if nothing is left.
        """
        stack: list[Ref] = []
        for record in self.alias_history("serving", experiment, level):
            if record.reason.startswith("rollback") and len(stack) > 1:
                stack.pop()
            elif not stack or stack[-1] != record.ref:
                stack.append(record.ref)
        if len(stack) < 2:
            raise StoreError(f"No earlier serving {level} in experiment '{experiment}' to roll back to.")
        return self.set_alias("serving", stack[-2], f"rollback from {stack[-1]}")

    # -- lineage and verification ----------------------------------------------------------------------------------

    def lineage(self, ref: Ref) -> dict[Ref, Manifest]:
        """The version and everything it descends from, nearest first."""
        found: dict[Ref, Manifest] = {}
        queue = [ref]
        while queue:
            current = queue.pop(0)
            if current not in found:
                found[current] = self.manifest(current)
                queue += [Ref.parse(parent) for parents in found[current].parents.values() for parent in parents]
        return found

    def verify(self) -> list[str]:
        """Re-hash every file of every version; returns one sentence per problem."""
        problems = []
        for experiment in self.experiments():
            for folder in sorted(path for path in (self.root / experiment).iterdir() if path.is_dir()):
                for ref in self.versions(experiment, folder.name):
                    problems += self._verify_version(ref)
        return problems

    def check(self, ref: Ref) -> None:
        """Re-hash a version's files before something is built on them; raises StoreError that names the damaged one."""
        problems = self._damages(ref)
        if problems:
            raise StoreError(" ".join(problems))

    def _damages(self, ref: Ref) -> list[str]:
        mend = f"train it again: ecdctr train {ref.level} --date {ref.date} --experiment {ref.experiment} --force."
        try:
            manifest = self.manifest(ref)
        except StoreError as error:
            return [f"{error} If it is damaged, {mend}"]
        problems = []
        digest = self.path(ref) / "manifest.sha256"
        if not digest.exists() or digest.read_text() != files.sha256(self.path(ref) / "manifest.json"):
            problems.append(f"{ref}: manifest.json differs from its digest; {mend}")
        for name, entry in manifest.files.items():
            path = self.path(ref) / name
            if not path.exists():
                problems.append(f"{ref}: file {name} is missing; {mend}")
            elif files.sha256(path) != entry.sha256:
                problems.append(f"{ref}: file {name} differs from its manifest; {mend}")
        return problems

    def _verify_version(self, ref: Ref) -> list[str]:
        problems = self._damages(ref)
        try:
            manifest = self.manifest(ref)
        except StoreError:
            return problems
        for parents in manifest.parents.values():
            problems += [
                f"{ref}: parent {parent} is missing."
                for parent in parents
                if not (self.path(Ref.parse(parent)) / "manifest.json").exists()
            ]
        return problems


def experiment_of(study: str, variant: str, seed: int) -> str:
    """The experiment of a study's variant and seed."""
    return f"{study}.{variant}.s{seed}"


def _version_dirs(folder: Path) -> list[Path]:
    if not folder.exists():
        return []
    return sorted((p for p in folder.iterdir() if VERSION.match(p.name)), key=lambda p: int(p.name[1:]))


def _check_name(name: str) -> None:
    if not NAME.match(name):
        raise StoreError(
            f"'{name}' cannot be a name here; use lower-case letters, digits, '_', '-' or '.', at most 63 characters."
        )
