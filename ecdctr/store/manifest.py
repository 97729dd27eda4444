"""What a version says of itself: manifest.json, with a schema version of its own."""

from __future__ import annotations

import datetime as dt
import re
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict

from ecdctr.config import Level
from ecdctr.config.terms import DEFAULT, NAME_PATTERN, PRODUCTION
from ecdctr.errors import StoreError
from ecdctr.files import durable

SCHEMA_VERSION: Literal[1] = 1
NAME = re.compile(NAME_PATTERN)  # fullmatch: `$` lets a line end by
STUDIES = ".studies"  # results of studies, beside the experiments
VERSION = re.compile(r"^v\d{4,}\Z")


class Ref(NamedTuple):
    """The address of a version; its text form is experiment/level/date/version."""

    experiment: str
    level: str
    date: dt.date
    version: str

    def __str__(self) -> str:
        return f"{self.experiment}/{self.level}/{self.date}/{self.version}"

    @property
    def age(self) -> tuple[dt.date, int]:
        """What orders the versions of a level: data date and number; v10000 comes after v9999."""
        return self.date, int(self.version[1:])

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read what str() writes; raises StoreError on another form."""
        try:
            experiment, level, date, version = text.split("/")
            if not (
                NAME.fullmatch(experiment) and NAME.fullmatch(level) and VERSION.fullmatch(version)
            ):
                raise ValueError
            parsed = cls(experiment, level, dt.date.fromisoformat(date), version)
            if str(parsed) != text:  # Python reads 20260301 and 2026-W09-7, too
                raise ValueError
            return parsed
        except ValueError:
            raise StoreError(
                f"'{text}' is not a version; expected experiment/level/YYYY-MM-DD/vNNNN, "
                "for example production/actr/2026-03-01/v0001 (see: ecdctr store list)."
            ) from None


class Base(NamedTuple):
    """A version whose files a child's are stored against, if the chain is no longer than that."""

    ref: Ref
    max_links: int


class FileEntry(BaseModel):
    """One file of a version."""

    model_config = ConfigDict(extra="forbid")

    sha256: str
    bytes: int


def _inside(files: dict[str, FileEntry]) -> dict[str, FileEntry]:
    """Return them; raises ValueError where one would lie outside the version's folder."""
    for name in files:
        if durable.leads_out(name):
            raise ValueError(f"file '{name}' would lie outside the version's folder")
    return files


Files = Annotated[dict[str, FileEntry], AfterValidator(_inside)]  # of a version, by their paths


class Manifest(BaseModel):
    """Everything needed to judge, repeat and trust a version."""

    model_config = ConfigDict(extra="forbid")

    schema_version: Literal[1] = SCHEMA_VERSION
    experiment: str
    level: Level
    data_date: dt.date
    version: str
    variant: str
    window_start: dt.date
    window_end: dt.date
    fingerprint: str
    parents: dict[str, list[str]]
    data_digests: dict[str, str]
    config: dict[str, Any]
    config_digest: str
    code_version: str
    code_digest: str
    packages: dict[str, str]
    seed: int
    optimizer_state: str
    selection: str = "last step of training, no early stopping"
    metrics: dict[str, float]
    rows: dict[str, int]
    quality: list[
        str
    ] = []  # in what the data date is unlike the days before it (ecdctr/impressions/quality.py)
    skipped_days: list[
        dt.date
    ] = []  # since the parent, not learned: too far back, or not delivered, as the settings allow
    log_start: dt.date | None = None  # first day of the log when this was trained
    prior_ctr: float | None = None  # that counts were smoothed with on the last day; A-CTR's alone
    files: Files
    started_at: dt.datetime
    finished_at: dt.datetime
    host: str
    airflow_run: str | None = None  # DAG and run, when Airflow started the training

    @property
    def options(self) -> str:
        """What makes such a version again, beside its level, date and experiment.

        These are options of the command line; production knows no variants, seeds and held-out ads.
        """
        if self.experiment == PRODUCTION:
            return ""
        held_out = self.config.get("actr", {}).get("hold_out_every")
        ads = f" --hold-out-every {held_out}" if self.level == "actr" and held_out else ""
        return f"{variant_option(self.variant)} --seed {self.seed}{ads}"

    @property
    def ref(self) -> Ref:
        """The version's address."""
        return Ref(self.experiment, self.level, self.data_date, self.version)

    @property
    def parent_refs(self) -> list[Ref]:
        """Its parents of all levels."""
        return [Ref.parse(text) for parents in self.parents.values() for text in parents]

    @property
    def total_bytes(self) -> int:
        """Size of all files, in bytes."""
        return sum(entry.bytes for entry in self.files.values())


def variant_option(variant: str) -> str:
    """Return the option that names a variant to the command line, nothing for the default."""
    return "" if variant == DEFAULT else f" --variant {variant}"
