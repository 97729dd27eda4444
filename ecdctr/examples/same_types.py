"""A column has one type in all files of a log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.errors import ContractError

if TYPE_CHECKING:
    from pathlib import Path


def refuse_other_types(paths: list[Path]) -> None:
    """Raise ContractError when a column has another type in one file than in those before.

    A column that holds nothing on a day has Arrow's type null there, which agrees with any other.
    """
    types: dict[str, tuple[pa.DataType, Path]] = {}
    for path in paths:
        for field in pq.read_schema(path):
            kind = field.type.value_type if pa.types.is_list(field.type) else field.type
            before, where = types.setdefault(field.name, (kind, path))
            if pa.types.is_null(before):
                types[field.name] = (kind, path)
            elif kind != before and not pa.types.is_null(kind):
                raise ContractError(
                    f"Column {field.name} changes its type: {before} on {_day_of(where)}, {kind} "
                    f"on {_day_of(path)}. A column has one type in the whole log; deliver one of "
                    "the days anew."
                )


def _day_of(path: Path) -> str:
    """Return the folders that name a prepared day, e.g. domain=ads/date=2026-01-06."""
    return "/".join(part for part in path.parts if part.startswith(("domain=", "date=")))
