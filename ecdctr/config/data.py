"""Which impressions are read, and when a day is too unlike the days before it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from ecdctr.config.section import MAX_DAYS, Days, Section
from ecdctr.config.terms import RESERVED_COLUMNS
from ecdctr.files.urls import (
    WRITE_OUT,
    is_for_shells,
    lacks_a_slash,
    looks_like_url,
    problem_of_scheme,
    problem_of_url,
    usual_scheme,
)

FEATURE_PATTERN = r"^[a-z][a-z0-9_]*$"
OF_KIND = {"transform": "numeric", "max_values": "multi_valued"}  # settings of one kind of feature


class Feature(Section):
    """One declared column of the impressions."""

    name: str = Field(
        pattern=FEATURE_PATTERN, max_length=63, description="column of the impressions"
    )
    side: Literal["user", "item", "context"] = Field(
        description="what it describes: the user, the item, or the moment (a slot, a device)"
    )
    kind: Literal["categorical", "numeric", "multi_valued"] = Field(
        description="one id, a number, or a list of ids"
    )
    tpm: bool = Field(False, description="whether TPM uses it too")
    transform: Literal["identity", "log1p"] = Field(
        "identity", description="numeric only; log1p for what has a long tail, like prices"
    )
    max_values: int = Field(
        8, ge=1, le=1024, description="multi-valued only: values kept per impression"
    )

    @field_validator("name", mode="before")
    @classmethod
    def _plain_name(cls, value: object) -> object:
        if isinstance(value, str) and not re.search(FEATURE_PATTERN, value):
            raise ValueError(
                "expected a name of a-z, 0-9 and _ that starts with a letter; rename the column "
                "where the impressions are written (ecdctr import log does, by its mapping's "
                "features)"
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> Feature:
        if self.name in RESERVED_COLUMNS:
            raise ValueError(
                f"'{self.name}' is a column of the contract itself, or one that preparation makes, "
                "and cannot be declared as a feature; give the feature another name"
            )
        if self.tpm and self.kind != "categorical":
            raise ValueError(
                f"feature '{self.name}': TPM takes categorical features only, found {self.kind}"
            )
        for key, kind in OF_KIND.items():
            if self.kind != kind and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(
                    f"feature '{self.name}': {key} is of {kind} features, found {self.kind}; take "
                    "it out"
                )
        return self


WEB = ("http", "https")  # a page there may show some files, without sizes, or none for an error


class Data(Section):
    """Where impressions lie and how they are prepared."""

    root: Path | str = Field(
        Path("data"),
        description="a folder, or a URL of a place that fsspec opens, such as s3://bucket/impressions",
    )
    prepared: Path = Field(
        Path("prepared"),
        description="folder of prepared examples; it can be made again at any time",
    )
    ready: Literal["files", "marker", "rows"] = Field(
        "files",
        description=(
            "when a day is delivered: with its first file, with the marker beside its "
            "files, or when these have as many rows as the marker says"
        ),
    )
    marker: str = Field(
        "_SUCCESS",
        pattern=r"^[A-Za-z0-9_.-]{1,100}$",
        description=(
            "file in a day's folder, written after the others; for ready: rows its text "
            "is their number"
        ),
    )
    allowed_missing_days: Days = Field(0, description="days of a window that may be missing")
    quarantine: bool = Field(
        False, description="set bad rows aside under <root>/_quarantine instead of stopping"
    )
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb",
        description=(
            "what prepares examples with history and counts; both give the same (extra: spark)"
        ),
    )
    duckdb_memory: str = Field(
        "2GB",
        pattern=r"^[1-9]\d{0,5}(\.\d{1,3})?(MB|GB|TB)$",
        description="what DuckDB may take before it goes on on disk, like 500MB or 2GB",
    )
    threads: int = Field(2, ge=1, le=1024, description="of DuckDB")
    history_length: int = Field(
        20, ge=1, le=10_000, description="clicks kept per impression (last N)"
    )
    history_features: tuple[str, ...] = Field(
        (),
        description="categorical features of the clicked items that stand beside their ids in the "
        "history, as they were when they were clicked, like [category]",
    )
    lookback_days: int = Field(
        28,
        ge=1,
        le=MAX_DAYS,
        description="days before an impression that history and counts may see",
    )
    history_days: int | None = Field(
        None,
        ge=1,
        le=MAX_DAYS,
        description="days before an impression that the history may see, where they are others: a "
        "year of clicks beside counts of four weeks; left out, as many as lookback_days",
    )
    numeric_null: float = Field(
        0.0, ge=-1e30, le=1e30, description="value of a missing numeric feature"
    )

    @property
    def click_days(self) -> int:
        """Days before an impression that its history may see."""
        return self.history_days or self.lookback_days

    @property
    def looked_back_days(self) -> int:
        """Days before an impression that its history or its counts may see."""
        return max(self.lookback_days, self.click_days)

    @field_validator("root", mode="plain", json_schema_input_type=str)
    @classmethod
    def _path_or_url(cls, value: object) -> Path | str:
        if isinstance(value, Path):
            return value
        if not isinstance(value, str) or not value.strip():
            raise ValueError("expected a folder, or a URL like s3://bucket/impressions")
        value = usual_scheme(value)
        scheme, mark, rest = value.partition("://")
        if mark and not (re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme) and rest.strip("/")):
            raise ValueError(
                "expected a URL with a scheme and a place, like s3://bucket/impressions"
            )
        if not mark and lacks_a_slash(value):
            raise ValueError(
                "expected a folder, or a URL with two slashes like s3://bucket/impressions"
            )
        if is_for_shells(value):
            raise ValueError(f"expected a folder, found one that starts with {WRITE_OUT}")
        if mark and (problem := problem_of_url(value)):
            raise ValueError(problem)
        if scheme in WEB:
            raise ValueError(
                f"expected a folder or a bucket, found {value}, where nothing lists all files; "
                "name the bucket (s3://, gs://, az://), or copy the impressions into a folder"
            )
        if mark and (problem := problem_of_scheme(value)):
            raise ValueError(problem)
        return value if mark else Path(value)

    @field_validator("prepared")
    @classmethod
    def _local(cls, value: Path) -> Path:
        if looks_like_url(value) or str(value) == ".":
            raise ValueError("expected a folder of its own on this machine")
        if is_for_shells(value):
            raise ValueError(f"expected a folder, found one that starts with {WRITE_OUT}")
        return value

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.quarantine and self.engine == "spark":
            raise ValueError(
                "data.quarantine needs data.engine: duckdb; set it to false, or prepare with DuckDB"
            )
        if self.quarantine and isinstance(self.root, str):
            raise ValueError(
                "data.quarantine writes bad rows beside the impressions, but data.root is the URL "
                f"{self.root}; set it to false, or copy the impressions into a folder"
            )
        return self


class Quality(Section):
    """When a day is too unlike the days before it.

    Checked by `ecdctr validate` for the data date.
    """

    action: Literal["warn", "stop", "off"] = Field(
        "warn", description="what an unlike day does: a warning, an error, or nothing is checked"
    )
    trailing_days: int = Field(
        7, ge=3, le=MAX_DAYS, description="days before the data date that it is compared with"
    )
    min_rows_ratio: float = Field(
        0.6, ge=0, lt=1, description="of the trailing days' median number of impressions"
    )
    max_rows_ratio: float = Field(1.8, gt=1, description="of the same median, at most")
    max_ctr_ratio: float = Field(1.7, gt=1, description="click-through rate, up or down")
    max_null_increase: float = Field(
        0.1, gt=0, le=1, description="of a feature's share of nulls, in points"
    )
    max_unseen_share: float = Field(
        0.2, gt=0, le=1, description="rows with a category that the trailing days lack"
    )
    max_psi: float = Field(
        0.25,
        gt=0,
        description=(
            "population stability index of each categorical feature, less what sampling "
            "makes, rare values pooled"
        ),
    )
    rotation_days: int = Field(
        7,
        ge=1,
        le=MAX_DAYS,
        description=(
            "days after which the mix of ads is renewed or repeats; a day is also "
            "compared with the one so many days before, and with what that one showed"
        ),
    )
