"""Stored evaluations.

What they say, which data and code they rest on, and whether that is what lies there now.

Reads no model and imports no torch, so that the gate starts fast.
"""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.errors import StoreError, first_line
from ecdctr.evaluation.basis import Basis, basis_now
from ecdctr.evaluation.noninferiority import Paired
from ecdctr.store.manifest import variant_option

if TYPE_CHECKING:
    from ecdctr.config import Config
    from ecdctr.store.manifest import Ref
    from ecdctr.store.store import Store


class Stored(NamedTuple):
    """A stored evaluation.

    `users` has the columns user, impressions, clicks, auc (null without both labels), loss;
    `expected` those of evaluate.py's `expected_of`, None without held-out ads.
    """

    ref: Ref
    date: dt.date
    content: dict[str, Any]
    users: pa.Table
    expected: pa.Table | None

    @property
    def basis(self) -> Basis | None:
        """What it rests on; None for one of an older form, which nothing is compared with."""
        if not all(name in self.content for name in Basis._fields):
            return None
        return Basis(*(self.content[name] for name in Basis._fields))


def load(store: Store, ref: Ref, date: dt.date) -> Stored | None:
    """Return a stored evaluation, whatever it rests on; None if there is none.

    Raises StoreError for a damaged one.
    """
    folder = store.evaluation(ref, date, "evaluation.json", "users.parquet", "expected.parquet")
    if folder is None:
        return None
    try:
        content = json.loads((folder / "evaluation.json").read_bytes())
        users = pq.read_table(folder / "users.parquet", partitioning=None)
        expected = None
        if content.get("held_out"):
            expected = pq.read_table(folder / "expected.parquet", partitioning=None)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise StoreError(
            f"The evaluation of {ref} on {date} cannot be read ({first_line(error)}); make it "
            f"again: ecdctr evaluate --date {date} --version {ref}"
            f"{variant_option(store.manifest(ref).variant)}"
        ) from None
    return Stored(ref, date, content, users, expected)


def judged_on(store: Store, ref: Ref, date: dt.date) -> str:
    """Digest which impressions a stored evaluation judged by; raises StoreError without one.

    One of an older form does not say, so it is like no other.
    """
    evaluation = load(store, ref, date)
    if evaluation is None:
        raise StoreError(f"{ref} was not evaluated on {date}.")
    return str(evaluation.content.get("judged_on") or ref)


def other_impressions(date: dt.date, first: Ref, second: Ref | str) -> str:
    """Say that two versions cannot be compared on a day, and what to do."""
    return (
        f"{first} and {second} were evaluated on other impressions of {date} or of days that it "
        "looks back on (delivered again between, data.lookback_days is another, or an evaluation "
        f"of an older form); run for both: ecdctr evaluate --date {date} --version VERSION "
        "--variant VARIANT"
    )


def current(config: Config, store: Store, ref: Ref, date: dt.date) -> Stored:
    """Return a version's evaluation on the day as it lies there now.

    The stored one if it rests on that, else made anew.
    """
    evaluation = load(store, ref, date)
    if evaluation is None or evaluation.basis != basis_now(config, ref, date):
        from ecdctr.evaluation.evaluate import evaluate  # reads the model, hence torch

        evaluate(config, store, ref, date)
        evaluation = load(store, ref, date)
        assert evaluation is not None  # noqa: S101  # just made
    return evaluation


def pair(days: list[tuple[Stored, Stored]]) -> Paired:
    """Pair evaluations of two versions on the same days, by user.

    Raises StoreError when they do not rest on the same.
    """
    users: list[pa.Array] = []
    columns: list[np.ndarray] = []
    for ours, theirs in days:
        same = ours.basis is not None and ours.basis == theirs.basis and ours.date == theirs.date
        if not same or not ours.users.column("user").equals(theirs.users.column("user")):
            raise StoreError(
                f"{ours.ref} on {ours.date} and {theirs.ref} on {theirs.date} were not evaluated "
                f"on the same examples by the same code; run for both: ecdctr evaluate --date "
                f"{ours.date} --version VERSION --variant VARIANT"
            )
        (first, second), weight = (
            [_numbers(one.users, "auc") for one in (ours, theirs)],
            _numbers(ours.users, "impressions"),
        )
        judged = np.isfinite(first)
        columns.append(
            np.stack(
                [
                    np.where(judged, weight * (first - second), 0.0),
                    np.where(judged, weight, 0.0),
                    _numbers(ours.users, "loss"),
                    _numbers(theirs.users, "loss"),
                ]
            )
        )
        users.append(ours.users.column("user").combine_chunks())
    codes = pa.concat_arrays(users).dictionary_encode().indices.to_numpy()
    values = np.concatenate(columns, axis=1)
    return Paired(*(np.bincount(codes, row).astype(np.float64) for row in values))


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    numbers: np.ndarray = table.column(name).to_numpy().astype(np.float64)
    return numbers
