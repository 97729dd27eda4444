"""Where things lie in a store, by their names, and which names there can be."""

from __future__ import annotations

import datetime as dt

from ecdctr.errors import StoreError
from ecdctr.store.manifest import NAME, Ref


def check_name(name: str) -> None:
    """Raise StoreError for a name that an experiment or a study cannot have."""
    if not NAME.fullmatch(name):
        raise StoreError(
            f"'{name}' cannot be a name here; use lower-case letters, digits, '_', '-' or '.', at "
            "most 63 characters."
        )


def experiment_of(study: str, variant: str, seed: int) -> str:
    """Return the experiment of a study's variant and seed."""
    return f"{study}.{variant}.s{seed}"


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


def ref_of(experiment: str, level: str, name: str) -> Ref:
    """Return the version whose folder has a name."""
    date, _, version = name.partition("/")
    return Ref(experiment, level, dt.date.fromisoformat(date), version)


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
