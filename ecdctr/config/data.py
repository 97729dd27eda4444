"""Which impressions are read, and when a day is too unlike the days before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ecdctr.config.section import Section
from ecdctr.config.terms import RESERVED_COLUMNS

Root = Path | str


class Feature(Section):
    """One declared column of the impressions."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    side: Literal["user", "item", "context"]
    kind: Literal["categorical", "numeric", "multi_valued"]
    tpm: bool = Field(False, description="whether TPM uses it too")
    transform: Literal["identity", "log1p"] = "identity"
    max_values: int = Field(8, ge=1, description="multi-valued only: values kept per impression")

    @model_validator(mode="after")
    def _check(self) -> Feature:
        if self.name in RESERVED_COLUMNS:
            raise ValueError(
                f"'{self.name}' is a column of the contract itself and cannot be declared as a feature"
            )
        if self.tpm and self.kind != "categorical":
            raise ValueError(
                f"feature '{self.name}': TPM takes categorical features only, found {self.kind}"
            )
        return self


class Data(Section):
    """Where impressions lie and how they are prepared."""

    root: Root = Field(
        Path("data"),
        description="a folder, or a URL that fsspec opens, such as s3://bucket/impressions",
    )
    prepared: Path = Path("prepared")
    allowed_missing_days: int = Field(0, ge=0, description="days of a window that may be missing")
    quarantine: bool = Field(
        False, description="set bad rows aside under <root>/_quarantine instead of stopping"
    )
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb",
        description="what prepares examples with history and counts; both give the same (extra: spark)",
    )
    duckdb_memory: str = Field("2GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    threads: int = Field(2, ge=1)
    history_length: int = Field(20, ge=1, description="clicks kept per impression (last N)")
    lookback_days: int = Field(
        28, ge=1, description="days before an impression that history and counts may see"
    )
    numeric_null: float = Field(0.0, description="value of a missing numeric feature")

    @field_validator("root", mode="before")
    @classmethod
    def _path_or_url(cls, value: Any) -> Any:
        return Path(value) if isinstance(value, str) and "://" not in value else value

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.quarantine and self.engine == "spark":
            raise ValueError(
                "data.quarantine needs data.engine: duckdb; set it to false, or prepare with DuckDB"
            )
        if self.quarantine and isinstance(self.root, str):
            raise ValueError(
                f"data.quarantine writes bad rows beside the impressions, but data.root is the URL {self.root}; "
                "set it to false, or copy the impressions into a folder"
            )
        return self


class Quality(Section):
    """When a day is too unlike the days before it; checked by `ecdctr validate` for the data date."""

    action: Literal["warn", "stop", "off"] = "warn"
    trailing_days: int = Field(7, ge=3)
    min_rows_ratio: float = Field(
        0.6, ge=0, lt=1, description="of the trailing days' median number of impressions"
    )
    max_rows_ratio: float = Field(1.8, gt=1)
    max_ctr_ratio: float = Field(1.7, gt=1, description="click-through rate, up or down")
    max_null_increase: float = Field(
        0.1, gt=0, le=1, description="of a feature's share of nulls, in points"
    )
    max_unseen_share: float = Field(
        0.2, gt=0, le=1, description="rows with a category that the trailing days lack"
    )
    max_psi: float = Field(
        0.25, gt=0, description="population stability index of each categorical feature"
    )
