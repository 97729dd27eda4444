"""What the rows of a forgetting matrix rest on; imports no torch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import NamedTuple

from ecdctr.code import code_digest
from ecdctr.config import Config, digest
from ecdctr.config.studies import split_row
from ecdctr.errors import StoreError
from ecdctr.evaluation.basis import EVALUATING
from ecdctr.examples.prepare import example_path
from ecdctr.impressions.impressions import open_impressions

MATRIX = "studies.forgetting.matrix"


class RowBasis(NamedTuple):
    """Days, the share held out, and a digest of the days' examples and the evaluating code.

    It is part of a stored row's name: a day delivered anew, or other code, never meets rows from
    before.
    """

    dates: tuple[dt.date, ...]
    every: int
    digest: str

    @property
    def name(self) -> str:
        """How rows with this basis are called beside their version."""
        return f"{self.dates[0]}.{self.dates[-1]}.{self.every}.{self.digest[:16]}"


def row_basis(dates: list[dt.date], every: int, fingerprints: list[str]) -> RowBasis:
    """Return the basis of rows on examples with these fingerprints, a day each."""
    named = dict(zip(map(str, dates), fingerprints, strict=True))
    return RowBasis(tuple(dates), every, digest([named, every, code_digest([MATRIX], EVALUATING)]))


def row_basis_now(config: Config, dates: list[dt.date], every: int) -> RowBasis:
    """Return the basis that rows would have now; reads the days' files.

    Raises StoreError when a day is missing.
    """
    delivered = set(open_impressions(config.data.root).dates("ads"))
    missing = [str(date) for date in dates if date not in delivered]
    if missing:
        raise StoreError(f"No ads of {', '.join(missing[:5])} under {config.data.root}.")
    return row_basis(dates, every, [example_path(config, "ads", d).fingerprint for d in dates])


def row_bases(
    config: Config, rows: Iterable[str], dates: list[dt.date], every: int
) -> dict[str, RowBasis]:
    """Return what the matrix of each row of a study rests on: the days, read as its variant says.

    Raises StoreError when a day is missing, ConfigError for an unknown variant.
    """
    variants = {row: config.with_variant(split_row(row)[0]) for row in rows}
    return {row: row_basis_now(variant, dates, every) for row, variant in variants.items()}
