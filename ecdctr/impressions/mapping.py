"""A mapping: how a log of any shape becomes impressions.

SQL expressions over the columns of CSV or Parquet files.
"""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

from pydantic import Field, model_validator

from ecdctr.config import RESERVED_COLUMNS, Section, validated
from ecdctr.errors import ConfigError
from ecdctr.files.strict_yaml import read_yaml
from ecdctr.impressions.tables import Table

FEATURE_NAME = re.compile(r"[a-z][a-z0-9_]*")


class Join(Table):
    """A table with one row per key, joined to the log; its columns are written as NAME.column."""

    key: str = Field(description="column of the same name in the log and here")


class Mapping(Section):
    """How a log becomes impressions.

    Every value on the right is a DuckDB SQL expression over its columns.
    """

    log: Table
    joins: dict[str, Join] = Field(default_factory=dict)
    user_id: str
    item_id: str
    ts: str = Field(
        description="a timestamp in UTC, e.g. epoch_ms(time_ms) or to_timestamp(seconds)"
    )
    click: str = Field(description="the label rule, true or 1 for a click, e.g. rating >= 4")
    domain: str = Field(
        description="'natural' or 'ads'; rows with anything else are left out and counted"
    )
    features: dict[str, str] = Field(default_factory=dict)
    earliest: dt.date | None = Field(None, description="first day that can be; default: 1970-01-01")
    latest: dt.date | None = Field(None, description="last day that can be; default: tomorrow")

    @model_validator(mode="after")
    def _in_order(self) -> Mapping:
        if self.earliest and self.latest and self.earliest > self.latest:
            raise ValueError(
                f"expected earliest ({self.earliest}) not to be after latest ({self.latest})"
            )
        return self

    def expressions(self) -> dict[str, str]:
        """Return every expression by its key in the mapping."""
        names = ("user_id", "item_id", "ts", "click", "domain")
        columns = {name: str(getattr(self, name)) for name in names}
        return columns | {f"features.{name}": text for name, text in self.features.items()}

    def said(self) -> str:
        """Return all texts in which a column can be named."""
        tables = [self.log, *self.joins.values()]
        types = [name for table in tables for name in table.types]
        return "\n".join(
            [*self.expressions().values(), *types, *(j.key for j in self.joins.values())]
        )


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file; raises ConfigError with the key that is wrong."""
    mapping = validated(Mapping, read_yaml(path, "mapping"), str(path))
    refuse_names(mapping)
    return mapping


def refuse_names(mapping: Mapping) -> None:
    """Raise ConfigError for features that no configuration could declare."""
    for name in sorted(mapping.features):
        if name in RESERVED_COLUMNS:
            raise ConfigError(
                f"mapping features.{name}: the contract itself, or preparation, has a column of "
                "that name; choose another."
            )
        if not FEATURE_NAME.fullmatch(name):
            raise ConfigError(
                f"mapping features.{name}: expected a name of a-z, 0-9 and _ that starts with a "
                "letter."
            )
    for name in sorted({"log", "impressions"} & set(mapping.joins)):
        raise ConfigError(
            f"mapping joins.{name}: the import uses that name itself; choose another."
        )
