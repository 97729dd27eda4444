"""Where things lie in a store, by their names, and which names there can be."""

from __future__ import annotations

import datetime as dt
import re

from ecdctr.errors import StoreError
from ecdctr.store.manifest import NAME, VERSION, Ref

DATE = re.compile(r"^\d{4}-\d\d-\d\d\Z")


def check_name(name: str) -> None:
    """Raise StoreError for a name that an experiment or a study cannot have."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"'{name}' cannot be a name here; use lower-case letters, digits, '_', '-' or '.', at "
            "most 63 characters."
        )


def experiment_of(study: str, row: str, seed: int) -> str:
    """Return the experiment of a study's row, a variant or VARIANT@DAYS, and seed."""
    return f"{study}.{row.replace('@', '-every-')}.s{seed}"


def group_of(experiment: str, name: str) -> str:
    """Return a group of an experiment.

    Names come from params and command lines and must not lead out of the store.
    """
    check_name(experiment)
    check_name(name)
    return f"{experiment}/{name}"


def place(ref: Ref) -> tuple[str, str]:
    """Return the group and the name of a version's folder."""
    return group_of(ref.experiment, ref.level), f"{ref.date}/{ref.version}"


def ref_of(experiment: str, level: str, name: str) -> Ref | None:
    """Return the version whose folder has a name.

    None for other names, which disks, synchronisers and people leave beside ours: `lost+found`,
    `@eaDir/x`, `2026-03-01 (1)/v0001`, `2026-03-01/v0001 copy`.
    """
    date, _, version = name.partition("/")
    day = date_of(date)
    return Ref(experiment, level, day, version) if day and VERSION.match(version) else None


def date_of(name: str) -> dt.date | None:
    """Return the date that a folder is of, None for names of others."""
    try:
        return dt.date.fromisoformat(name) if DATE.match(name) else None
    except ValueError:
        return None


def evaluations(experiment: str, level: str) -> str:
    """Return the group of a level's evaluations."""
    return f"{group_of(experiment, 'evaluations')}/{level}"


def evaluation(ref: Ref, date: dt.date) -> str:
    """Return the name of a version's evaluation on a day."""
    return f"{date}/{ref.date}.{ref.version}"


def verdicts(ref: Ref) -> str:
    """Return the log of a version's verdicts."""
    return f"{group_of(ref.experiment, 'verdicts')}/{ref.level}/{ref.date}.{ref.version}"


def matrix_row(ref: Ref, basis: str) -> str:
    """Return the document of a version's row of a forgetting matrix."""
    return f"{group_of(ref.experiment, 'matrix')}/{ref.date}.{ref.version}.{basis}.parquet"
