"""Versions: publish, resolve as of a date, aliases, lineage and verification."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import shutil
import uuid
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from ecdctr.config.terms import DEFAULT, LEVELS, PRODUCTION
from ecdctr.errors import StoreError, TryAgain
from ecdctr.files import durable
from ecdctr.store.manifest import NAME, STUDIES, VERSION, FileEntry, Manifest, Ref
from ecdctr.store.storage import open_storage

CANDIDATE, SERVING = "candidate", "serving"
ALIASES = (CANDIDATE, SERVING)
WAITS = "not judged yet"  # outcome of a verdict that leaves a version to the gate of a later one
ADVANCES = 20  # tries, against others who set the same alias


class Kind(StrEnum):
    """What made an alias point where it points."""

    TRAIN = "train"
    GATE = "gate"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


class AliasRecord(NamedTuple):
    """One line of an alias's history; `reason` is for people, `kind` for code.

    `verdict` is the gate's, as it keeps it beside the version right after; None of any other kind.
    """

    number: int
    ref: Ref
    at: str
    reason: str
    kind: Kind
    verdict: dict[str, Any] | None = None


class Store:
    """Versions under a root, which is a folder or a URL.

    They lie at <root>/<experiment>/<level>/<data date>/<version>/.
    """

    def __init__(self, root: Path | str) -> None:
        self.storage = open_storage(root)

    @property
    def root(self) -> Any:
        """Where the store lies: a path, or a URL as text."""
        return self.storage.root

    # -- experiments -------------------------------------------------------------------------------

    def create_experiment(self, name: str, parent: str = PRODUCTION) -> None:
        """Declare an experiment whose resolves fall back to its parent; production has none.

        Raises StoreError for a bad name, or when it exists with another parent.
        """
        check_name(name)
        if name == PRODUCTION or self.storage.add_experiment(
            name, json.dumps({"parent": parent}).encode()
        ):
            return
        existing = self.parent_of(name)
        if existing != parent:
            raise StoreError(
                f"Experiment '{name}' has parent '{existing}', not '{parent}'; choose another name."
            )

    def parent_of(self, experiment: str) -> str | None:
        """Return the experiment where a resolve goes on, None at production."""
        if experiment == PRODUCTION:
            return None
        check_name(experiment)
        content = self.storage.read(f"{experiment}/experiment.json")
        return str(json.loads(content)["parent"]) if content else PRODUCTION

    def experiments(self) -> list[str]:
        """Return names of all experiments that hold something, sorted."""
        return self.storage.experiments()

    # -- publishing --------------------------------------------------------------------------------

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Make a private folder to build a version in; removed if it was not published.

        Nothing is removed meanwhile.
        """
        folder = self.storage.local / ".staging" / uuid.uuid4().hex
        with self.in_use():
            durable.make_dir(folder)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def publish(self, folder: Path, manifest: Manifest, force: bool = False) -> Manifest:
        """Make a staged folder a version, all or nothing; returns the manifest as stored.

        Two writers never share a number. A finished version with the same fingerprint wins over the
        new one unless `force`.
        """
        check_name(manifest.experiment)
        entries = {
            name: FileEntry(sha256=digest, bytes=(folder / name).stat().st_size)
            for name, digest in durable.digests(folder).items()
        }
        stored = manifest.model_copy(update={"files": entries})
        finished: list[Manifest] = []

        def seal(version: str) -> None:
            nonlocal stored
            stored = stored.model_copy(update={"version": version})
            durable.write_bytes(folder / "manifest.json", stored.model_dump_json(indent=1).encode())
            durable.write_bytes(
                folder / "manifest.sha256", durable.sha256(folder / "manifest.json").encode()
            )

        def is_finished() -> bool:
            same = self.find(
                manifest.experiment, manifest.level, manifest.data_date, manifest.fingerprint
            )
            finished[:] = [same] if same and not force else []
            return bool(finished)

        group = f"{manifest.experiment}/{manifest.level}"
        version = self.storage.add(folder, group, manifest.data_date.isoformat(), seal, is_finished)
        return finished[0] if version is None else stored

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        """Keep what reads or writes from removals; may be nested."""
        with self.storage.in_use():
            yield

    @contextlib.contextmanager
    def exclusively(self, what: str) -> Iterator[None]:
        """Keep everything from training and evaluating; raises StoreError if something does now."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.storage.exclusively())
            except BlockingIOError as error:
                raise StoreError(f"Cannot {what} in {self.root}: {error}.") from None
            yield

    # -- reading -----------------------------------------------------------------------------------

    def path(self, ref: Ref) -> Path:
        """Return the folder of a version on this machine."""
        return self.storage.folder(*_place(ref))

    def progress(self, fingerprint: str) -> Path:
        """Return where a training with this fingerprint saves how far it is."""
        return self.storage.local / ".progress" / f"{fingerprint}.safetensors"

    def manifest(self, ref: Ref) -> Manifest:
        """Read a version's manifest.

        Raises StoreError if it is missing, unreadable, or another version's.
        """
        where = f"{self.root}/{ref}/manifest.json"
        content = self.storage.file(*_place(ref), "manifest.json")
        if content is None:
            raise StoreError(f"No version {ref} in {self.root} (see: ecdctr store list).")
        try:
            manifest = Manifest.model_validate_json(content)
        except ValidationError as error:
            raise StoreError(
                f"{where} cannot be read: {error.error_count()} problems, first: "
                f"{error.errors()[0]['msg']}."
            ) from None
        if manifest.ref != ref:
            raise StoreError(f"{where} cannot be read: it says that it is {manifest.ref}.")
        return manifest

    def versions(self, experiment: str, level: str) -> list[Ref]:
        """Return all versions of a level, oldest data date and number first."""
        return list(self._newest_first(experiment, level))[::-1]

    def newest(self, experiment: str, level: str, as_of: dt.date = dt.date.max) -> Ref | None:
        """Return the version with the newest data date, up to `as_of`, of the experiment itself.

        The manifests of other experiments are not read.
        """
        return next(
            (ref for ref in self._newest_first(experiment, level) if ref.date <= as_of), None
        )

    def _newest_first(self, experiment: str, level: str) -> Iterator[Ref]:
        for name in self.storage.names(_group(experiment, level)):
            date, _, version = name.partition("/")
            if VERSION.match(version):
                with contextlib.suppress(ValueError):
                    yield Ref(experiment, level, dt.date.fromisoformat(date), version)

    def find(self, experiment: str, level: str, date: dt.date, fingerprint: str) -> Manifest | None:
        """Return the newest finished version of that date with that fingerprint."""
        for ref in self._newest_first(experiment, level):
            if ref.date < date:
                break
            if ref.date == date and (manifest := self.manifest(ref)).fingerprint == fingerprint:
                return manifest
        return None

    def known(
        self, experiment: str, level: str, as_of: dt.date, from_older: bool = False
    ) -> Ref | None:
        """Return the version of the experiment itself that was the newest one on a date.

        Where retention has removed it, one that is left of the same date and fingerprint is as
        good. Raises StoreError where none is, unless an older one will do.
        """
        found = self.newest(experiment, level, as_of)
        lost = None if from_older else self._lost(experiment, level, as_of, found)
        if lost is None:
            return found
        note = json.loads(self.storage.removed(*_place(lost)) or b"{}")
        if same := self.find(experiment, level, lost.date, note.get("fingerprint", "")):
            return same.ref
        force = " --force" if found and found.date == lost.date else ""  # else it may be taken up
        variant = note.get("variant", DEFAULT)
        raise StoreError(
            f"What was known of {level} on {as_of} in experiment '{experiment}' is {lost}, which "
            f"was removed ({note.get('reason', 'store gc')}, {note.get('at', 'nobody knows when')})"
            f"; left before it is {found or 'none'}, from which the same run would end in another "
            f"version; make it again (ecdctr train {level} --date {lost.date} --experiment "
            f"{experiment}{_same(variant)}{force}), or let `ecdctr train` start from what is left: "
            "--from-older."
        )

    def _lost(self, experiment: str, level: str, as_of: dt.date, found: Ref | None) -> Ref | None:
        """Return the newest version up to a date that retention removed, if it is newer."""
        since = found.date if found else dt.date.min
        removals = self.storage.removals(
            _group(experiment, level), since.isoformat(), as_of.isoformat()
        )
        removed = [_ref(experiment, level, name) for name in removals]
        newest = max(removed, key=lambda ref: ref.age, default=None)
        return newest if newest and (found is None or newest.age > found.age) else None

    def resolve(
        self, level: str, as_of: dt.date, experiment: str = PRODUCTION, from_older: bool = False
    ) -> Ref | None:
        """Return the newest version whose data ends on or before `as_of`.

        It is one of this experiment, or else of its parent. Raises StoreError where retention has
        removed it, unless an older one will do.
        """
        current: str | None = experiment
        while current:
            newest = self.known(current, level, as_of, from_older)
            if newest:
                return newest
            current = self.parent_of(current)
        return None

    def require(
        self,
        level: str,
        as_of: dt.date,
        experiment: str = PRODUCTION,
        variant: str = DEFAULT,
        from_older: bool = False,
    ) -> Ref:
        """Like resolve, but raises StoreError for a missing version, which says how to make one.

        `variant` is that of whoever asks: the missing version has to be made with the same.
        """
        ref = self.resolve(level, as_of, experiment, from_older)
        if ref is None:
            raise StoreError(
                f"No {level} version with data date on or before {as_of} in experiment "
                f"'{experiment}' or its parents ({self.root}); make one with: ecdctr train {level} "
                f"--date {as_of} --experiment {experiment}{_same(variant)}"
            )
        return ref

    # -- results beside the versions ---------------------------------------------------------------

    def save_evaluation(self, folder: Path, ref: Ref, date: dt.date) -> None:
        """Keep a staged folder as a version's evaluation on a day, in place of an earlier one."""
        self.storage.replace(
            folder, _evaluations(ref.experiment, ref.level), _evaluation(ref, date)
        )

    def evaluation(self, ref: Ref, date: dt.date) -> Path | None:
        """Return the folder of an evaluation on this machine, None if there is none."""
        folder = self.storage.folder(
            _evaluations(ref.experiment, ref.level), _evaluation(ref, date)
        )
        return folder.resolve() if folder.exists() else None  # not what replaces it meanwhile

    def load_evaluation(self, ref: Ref, date: dt.date) -> dict[str, Any] | None:
        """Return the metrics of a version on a day; None if it was not evaluated.

        Under 'verdict' lies the gate's newest verdict of that day, None if there is none on these
        very examples.
        """
        folder = self.evaluation(ref, date)
        if folder is None:
            return None
        content: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
        verdicts = [
            verdict
            for verdict in self.verdicts(ref)
            if verdict["date"] == str(date)
            and verdict["examples"].get(str(date)) == content.get("examples", "")
        ]
        return content | {"verdict": verdicts[-1] if verdicts else None}

    def add_verdict(self, ref: Ref, verdict: dict[str, Any]) -> None:
        """Keep what the gate found.

        At least its date, and under 'examples' the data of each day that it rests on.
        """
        content = json.dumps({"id": uuid.uuid4().hex, **verdict}, default=str).encode()
        self.storage.append(_verdicts(ref), content)

    def verdicts(self, ref: Ref) -> list[dict[str, Any]]:
        """Return all verdicts on a version, oldest first."""
        return [json.loads(content) for _, content in self.storage.records(_verdicts(ref))]

    def evaluated(self, experiment: str, level: str = "actr") -> Iterator[tuple[dt.date, Ref]]:
        """Yield which version was evaluated on which day, newest day and version first."""
        for name in self.storage.names(_evaluations(experiment, level)):
            day, _, version = name.partition("/")
            date, _, number = version.partition(".")
            yield (
                dt.date.fromisoformat(day),
                Ref(experiment, level, dt.date.fromisoformat(date), number),
            )

    def save_study(self, folder: Path, name: str) -> None:
        """Keep a staged folder as a study's results, in place of earlier ones.

        Raises StoreError for a bad name.
        """
        check_name(name)
        self.storage.replace(folder, STUDIES, name)

    def study(self, name: str) -> Path:
        """Return the folder of a study's results on this machine.

        Raises StoreError for a bad name.
        """
        check_name(name)
        return self.storage.folder(STUDIES, name)

    def studies(self) -> list[str]:
        """Return names of the studies that have results, sorted."""
        return sorted(name for name in self.storage.names(STUDIES, dated=False))

    def save_matrix_row(self, ref: Ref, basis: str, content: bytes) -> None:
        """Keep a version's row of a forgetting matrix, a Parquet file.

        `basis` names what it rests on, the first stays.
        """
        self.storage.create(_matrix_row(ref, basis), content)

    def drop_matrix_row(self, ref: Ref, basis: str) -> None:
        """Take away what save_matrix_row kept, if anything: a damaged row."""
        self.storage.discard(_matrix_row(ref, basis))

    def matrix_row(self, ref: Ref, basis: str) -> bytes | None:
        """Return what save_matrix_row kept."""
        return self.storage.read(_matrix_row(ref, basis))

    # -- aliases -----------------------------------------------------------------------------------

    def set_alias(
        self,
        alias: str,
        ref: Ref,
        reason: str,
        kind: Kind = Kind.PROMOTE,
        after: int | None = None,
        verdict: dict[str, Any] | None = None,
    ) -> AliasRecord:
        """Point an alias of the version's experiment and level at it; the history is kept.

        With `after` it does so only if the alias's newest record still has that number (0: there is
        none). `verdict` lies in the record, so that who is killed before keeping it can keep it
        later. Raises StoreError for an unknown alias or a version that is not there, TryAgain for a
        record that came in between.
        """
        if alias not in ALIASES:
            raise StoreError(f"Unknown alias '{alias}'; aliases are {', '.join(ALIASES)}.")
        at = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        record = {"id": uuid.uuid4().hex, "ref": str(ref), "at": at, "reason": reason, "kind": kind}
        content = json.dumps(record | ({"verdict": verdict} if verdict else {}), default=str)
        log = f"{_group(ref.experiment, 'aliases')}/{ref.level}/{alias}"
        with self.in_use():  # nothing is removed between the look and the record
            self.manifest(ref)
            number = self.storage.append(log, content.encode(), after)
        if number is None:
            newest = self.alias_history(alias, ref.experiment, ref.level)[-1]
            raise TryAgain(
                f"'{alias}' of {ref.experiment}/{ref.level} was set to {newest.ref} meanwhile "
                f"({newest.reason}); {ref} was not set. Run the command again."
            )
        return AliasRecord(number, ref, at, reason, kind, verdict)

    def advance(self, alias: str, ref: Ref, reason: str, kind: Kind) -> None:
        """Point an alias at a version unless it points at a newer one, as often as others set it.

        Raises TryAgain when others were faster each time.
        """
        for attempt in range(ADVANCES):
            history = self.alias_history(alias, ref.experiment, ref.level)
            if history and history[-1].ref.age >= ref.age:
                return
            try:
                self.set_alias(alias, ref, reason, kind, history[-1].number if history else 0)
                return
            except TryAgain:
                if attempt == ADVANCES - 1:
                    raise

    def alias_history(
        self, alias: str, experiment: str = PRODUCTION, level: str = "actr"
    ) -> list[AliasRecord]:
        """Return all records of an alias, oldest first."""
        records = self.storage.records(f"{_group(experiment, 'aliases')}/{level}/{alias}")
        return [_alias_record(number, json.loads(content)) for number, content in records]

    def alias(self, alias: str, experiment: str = PRODUCTION, level: str = "actr") -> Ref | None:
        """Return the version an alias points at, None if it was never set."""
        history = self.alias_history(alias, experiment, level)
        return history[-1].ref if history else None

    def serving(self, experiment: str = PRODUCTION, level: str = "actr") -> AliasRecord | None:
        """Return the newest record of `serving`, None if nothing ever served."""
        history = self.alias_history(SERVING, experiment, level)
        return history[-1] if history else None

    def rollback(self, experiment: str = PRODUCTION, level: str = "actr") -> AliasRecord:
        """Point `serving` back at the version that served before the present one.

        A rollback undoes one promotion: repeated, it walks further back. Raises StoreError if
        nothing is left, TryAgain when `serving` was set meanwhile.
        """
        history = self.alias_history(SERVING, experiment, level)
        stack = served_before(history)
        if len(stack) < 2:
            raise StoreError(
                f"No earlier serving {level} in experiment '{experiment}' to roll back to."
            )
        reason = f"rollback from {stack[-1]}"
        return self.set_alias(SERVING, stack[-2], reason, Kind.ROLLBACK, history[-1].number)

    # -- lineage and verification ------------------------------------------------------------------

    def lineage(self, ref: Ref) -> dict[Ref, Manifest]:
        """Return the version and all it descends from that retention has left, nearest first."""
        manifests: dict[Ref, Manifest] = {}
        queue = [ref]
        while queue:
            current = queue.pop(0)
            if current not in manifests and (current == ref or not self.removed(current)):
                manifests[current] = self.manifest(current)
                queue += [
                    Ref.parse(parent)
                    for parents in manifests[current].parents.values()
                    for parent in parents
                ]
        return manifests

    def removed(self, ref: Ref) -> bool:
        """Tell whether retention has taken a version away."""
        return self.storage.removed(*_place(ref)) is not None

    def verify(self) -> list[str]:
        """Re-hash every file of every version; returns one sentence per problem."""
        problems = []
        for experiment in self.experiments():
            for level in LEVELS:
                for ref in self.versions(experiment, level):
                    problems += self._verify_version(ref)
        return problems

    def check(self, ref: Ref) -> None:
        """Re-hash a version's files before something is built on them.

        Raises StoreError that names the damaged one.
        """
        problems = self._damages(ref)
        if problems:
            raise StoreError(" ".join(problems))

    def _damages(self, ref: Ref) -> list[str]:
        mend = (
            f"train it again: ecdctr train {ref.level} --date {ref.date} --experiment "
            f"{ref.experiment} --force."
        )
        try:
            manifest = self.manifest(ref)
        except StoreError as error:
            return [f"{error} If it is damaged, {mend}"]
        try:
            folder = self.path(ref)
        except StoreError as error:  # damaged before it was copied here
            return [f"{ref}: {error} If it stays so, {mend}"]
        problems = []
        digest = folder / "manifest.sha256"
        if not digest.exists() or digest.read_text() != durable.sha256(folder / "manifest.json"):
            problems.append(f"{ref}: manifest.json differs from its digest; {mend}")
        for name, entry in manifest.files.items():
            path = folder / name
            if not path.exists():
                problems.append(f"{ref}: file {name} is missing; {mend}")
            elif durable.sha256(path) != entry.sha256:
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
                if self.storage.file(*_place(Ref.parse(parent)), "manifest.json") is None
                and not self.removed(Ref.parse(parent))
            ]
        return problems


def served_before(history: list[AliasRecord]) -> list[Ref]:
    """Return what a rollback walks back through, the present version last.

    Promotions push, a rollback pops.
    """
    stack: list[Ref] = []
    for record in history:
        if record.kind == Kind.ROLLBACK and record.ref in stack:
            while stack[-1] != record.ref:
                stack.pop()
        elif not stack or stack[-1] != record.ref:
            stack.append(record.ref)
    return stack


def _alias_record(number: int, raw: dict[str, Any]) -> AliasRecord:
    """Return a record as stored.

    Records of older stores have no kind, and only a rollback wrote 'rollback from VERSION'.
    """
    kind = raw.get("kind")
    if kind is None:
        before = raw["reason"].removeprefix("rollback from ")
        undone = before != raw["reason"] and len(before.split("/")) == 4
        kind = Kind.ROLLBACK if undone else Kind.PROMOTE
    ref = Ref.parse(raw["ref"])
    return AliasRecord(number, ref, raw["at"], raw["reason"], Kind(kind), raw.get("verdict"))


def experiment_of(study: str, variant: str, seed: int) -> str:
    """Return the experiment of a study's variant and seed."""
    return f"{study}.{variant}.s{seed}"


def _place(ref: Ref) -> tuple[str, str]:
    """Return the group and the name of a version's folder."""
    return _group(ref.experiment, ref.level), f"{ref.date}/{ref.version}"


def _ref(experiment: str, level: str, name: str) -> Ref:
    """Return the version whose folder has a name."""
    date, _, version = name.partition("/")
    return Ref(experiment, level, dt.date.fromisoformat(date), version)


def _same(variant: str) -> str:
    """Return the option that names a variant to the command line, nothing for the default."""
    return "" if variant == DEFAULT else f" --variant {variant}"


def _evaluations(experiment: str, level: str) -> str:
    return f"{_group(experiment, 'evaluations')}/{level}"


def _evaluation(ref: Ref, date: dt.date) -> str:
    return f"{date}/{ref.date}.{ref.version}"


def _verdicts(ref: Ref) -> str:
    return f"{_group(ref.experiment, 'verdicts')}/{ref.level}/{ref.date}.{ref.version}"


def _matrix_row(ref: Ref, basis: str) -> str:
    return f"{_group(ref.experiment, 'matrix')}/{ref.date}.{ref.version}.{basis}.parquet"


def _group(experiment: str, name: str) -> str:
    """Return a group of an experiment.

    Names come from params and command lines and must not lead out of the store.
    """
    check_name(experiment)
    check_name(name)
    return f"{experiment}/{name}"


def check_name(name: str) -> None:
    """Raise StoreError for a name that an experiment or a study cannot have."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"'{name}' cannot be a name here; use lower-case letters, digits, '_', '-' or '.', at "
            "most 63 characters."
        )
