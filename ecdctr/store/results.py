"""What is kept beside the versions: evaluations, verdicts, studies, rows of a matrix."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ecdctr.errors import StoreError
from ecdctr.files import durable
from ecdctr.store import places
from ecdctr.store.documents import COPY, read_document
from ecdctr.store.manifest import NAME, STUDIES, Ref
from ecdctr.store.places import check_name
from ecdctr.store.versions import Versions

WAITS = "not judged yet"  # outcome of a verdict that leaves a version to the gate of a later one
DIGESTS = "digests.json"  # of an evaluation: SHA-256 of its other files
# What every verdict says, also those of older stores
VERDICT = ("date", "outcome", "reason", "champion", "examples", "power", "needed_days")


class Results(Versions):
    """Results beside the versions."""

    def save_evaluation(self, folder: Path, ref: Ref, date: dt.date) -> None:
        """Keep a staged folder as a version's evaluation on a day, in place of an earlier one.

        SHA-256 of its files is written beside them.
        """
        content = json.dumps(durable.digests(folder)).encode()
        durable.write_bytes(folder / DIGESTS, content)
        self.storage.replace(
            folder, places.evaluations(ref.experiment, ref.level), places.evaluation(ref, date)
        )

    def evaluation(self, ref: Ref, date: dt.date, *read: str) -> Path | None:
        """Return the folder of an evaluation on this machine, None if there is none.

        Files of it that are going to be `read` are compared with what was kept. Raises StoreError
        that names a damaged one.
        """
        folder = self.storage.folder(
            places.evaluations(ref.experiment, ref.level), places.evaluation(ref, date)
        )
        if not folder.exists():
            return None
        folder = folder.resolve()  # not what replaces it meanwhile
        if read and (folder / DIGESTS).exists():  # older ones have none
            _compare(folder, read, f"The evaluation of {ref} on {date}", _again(ref, date))
        return folder

    def load_evaluation(self, ref: Ref, date: dt.date) -> dict[str, Any] | None:
        """Return the metrics of a version on a day; None if it was not evaluated.

        Under 'verdict' lies the gate's newest verdict of that day, None if there is none on these
        very examples.
        """
        folder = self.evaluation(ref, date, "evaluation.json")
        if folder is None:
            return None
        text = (folder / "evaluation.json").read_bytes()
        content = read_document(text, f"The evaluation of {ref} on {date}", _again(ref, date))
        verdicts = [
            verdict
            for verdict in self.verdicts(ref)
            if verdict["date"] == str(date)
            and verdict["examples"].get(str(date)) == content.get("examples", "")
        ]
        return content | {"verdict": verdicts[-1] if verdicts else None}

    def add_verdict(self, ref: Ref, verdict: dict[str, Any]) -> None:
        """Keep what the gate found.

        `verdict` has at least the keys of VERDICT; 'examples' is the data of each day that it rests
        on.
        """
        content = json.dumps({"id": uuid.uuid4().hex, **verdict}, default=str).encode()
        self.storage.append(places.verdicts(ref), content)

    def verdicts(self, ref: Ref) -> list[dict[str, Any]]:
        """Return all verdicts on a version, oldest first."""
        log = places.verdicts(ref)
        return [
            read_document(text, f"Record {number} of {self.root}/{log}", COPY, *VERDICT)
            for number, text in self.storage.records(log)
        ]

    def evaluated(self, experiment: str, level: str = "actr") -> Iterator[tuple[dt.date, Ref]]:
        """Yield which version was evaluated on which day, newest day and version first."""
        for name in self.storage.listing(places.evaluations(experiment, level)).names():
            day, _, version = name.partition("/")
            date = places.date_of(day)
            ref = places.ref_of(experiment, level, version.replace(".", "/", 1))
            if date and ref:
                yield date, ref

    def drop_evaluation(self, ref: Ref, date: dt.date) -> None:
        """Take away what save_evaluation kept, if anything."""
        group = places.evaluations(ref.experiment, ref.level)
        self.storage.remove(group, places.evaluation(ref, date), None)

    def drop_verdicts(self, ref: Ref) -> None:
        """Take away all verdicts on a version."""
        self.storage.discard_log(places.verdicts(ref))

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
        names = self.storage.listing(STUDIES, dated=False).names()
        return sorted(name for name in names if NAME.fullmatch(name))

    def save_matrix_row(self, ref: Ref, basis: str, content: bytes) -> None:
        """Keep a version's row of a forgetting matrix, a Parquet file.

        `basis` names what it rests on, the first stays.
        """
        self.storage.create(places.matrix_row(ref, basis), content)

    def drop_matrix_row(self, ref: Ref, basis: str) -> None:
        """Take away what save_matrix_row kept, if anything: a damaged row."""
        self.storage.discard(places.matrix_row(ref, basis))

    def matrix_row(self, ref: Ref, basis: str) -> bytes | None:
        """Return what save_matrix_row kept."""
        return self.storage.read(places.matrix_row(ref, basis))


def _again(ref: Ref, date: dt.date) -> str:
    return f"make it again: ecdctr evaluate --date {date} --version {ref}"


def _compare(folder: Path, names: tuple[str, ...], what: str, mend: str) -> None:
    """Compare files of a folder, those that it has, with the digests of when they were kept.

    Raises StoreError that names what is damaged.
    """
    digests = read_document((folder / DIGESTS).read_bytes(), f"{what}: {DIGESTS}", mend)
    for name in names:
        if name in digests and not durable.has_files(folder, {name: digests[name]}):
            raise StoreError(f"{what}: {name} differs from its digest or is missing; {mend}.")
