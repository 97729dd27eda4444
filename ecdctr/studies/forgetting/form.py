"""A study as its form in Airflow says: which models it needs, and which of them are missing."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

from ecdctr.airflow.dates import Settings, load_settings, run_name
from ecdctr.config import Config, Level, digest
from ecdctr.config.studies import split_row
from ecdctr.errors import ConfigError
from ecdctr.impressions.impressions import open_impressions
from ecdctr.store.manifest import NAME, Ref
from ecdctr.store.places import experiment_of
from ecdctr.store.store import Store
from ecdctr.studies.forgetting.days import study_days


class Planned(NamedTuple):
    """One model of the study: a level of a row, VARIANT or VARIANT@DAYS, and seed on a day."""

    level: Level
    study: str
    row: str
    seed: int
    date: dt.date
    config: Config

    @property
    def variant(self) -> str:
        """The configuration that it is trained with."""
        return split_row(self.row)[0]

    @property
    def experiment(self) -> str:
        """The namespace of its versions."""
        return experiment_of(self.study, self.row, self.seed)

    def version(self, store: Store) -> Ref | None:
        """Return its version, if it is there and was made with the configuration as it stands."""
        refs = [ref for ref in store.versions(self.experiment, self.level) if ref.date == self.date]
        if refs and store.manifest(refs[-1]).config_digest == digest(
            self.config.relevant(self.level)
        ):
            return refs[-1]
        return None

    def run(self, hold_out_every: int, chain_start: dt.date) -> dict[str, Any]:
        """Return the arguments of the operator that starts its run."""
        conf = {
            "data_date": str(self.date),
            "experiment": self.experiment,
            "variant": self.variant,
            "seed": self.seed,
        }
        if self.level == "actr":
            conf["hold_out_every"] = hold_out_every
        if self.config.chained(self.level):
            conf["chain_start"] = str(chain_start)
        return {"trigger_run_id": run_name(self.experiment, self.date), "conf": conf}


class StudyForm(NamedTuple):
    """A study as its form says; `of` refuses what cannot be done."""

    settings: Settings
    study: str
    dates: list[dt.date]
    rows: list[str]
    seeds: list[int]
    hold_out_every: int

    @classmethod
    def of(cls, params: dict[str, Any]) -> StudyForm:
        """Read the form; raises ConfigError for days without ads, or rows without snapshots."""
        settings = load_settings()
        first, last = (dt.date.fromisoformat(params[name]) for name in ("from_date", "to_date"))
        dates = study_days(first, last)
        delivered = open_impressions(settings.config.data.root).dates("ads")
        missing = [
            str(date) for date in [*dates, last + dt.timedelta(days=1)] if date not in delivered
        ]
        if missing:
            raise ConfigError(
                f"No ads of {', '.join(missing[:5])} under {settings.config.data.root}; a study "
                "needs its days and the day after the last. Choose other dates."
            )
        seeds = [int(seed) for seed in params["seeds"].split(",")]
        asked = cls(
            settings,
            params["study"],
            dates,
            list(params["variants"]),
            seeds,
            params["hold_out_every"],
        )
        for row in asked.rows:
            asked.check(row)
        return asked

    def check(self, row: str) -> None:
        """Refuse a snapshot or an experiment name that cannot be."""
        variant, _ = split_row(row)
        if not NAME.fullmatch(experiment_of(self.study, row, max(self.seeds))):
            raise ConfigError(
                f"Study '{self.study}' with variant '{row}' is too long a name; shorten it."
            )
        snapshots = self.settings.config.with_variant(variant).snapshots
        if snapshots.count and not Store(self.settings.store_path).resolve(
            "tpm", snapshots.needed(self.dates[0])
        ):
            raise ConfigError(
                f"Variant '{variant}' needs a TPM snapshot of {snapshots.needed(self.dates[0])} or "
                "before, production has none; run ecdctr_tpm for such a date first, or choose "
                "later dates."
            )

    def models(self, level: Level) -> list[Planned]:
        """Return the models of a level, all rows of a day before the next day."""
        planned = []
        for n, date in enumerate(self.dates):
            for row in self.rows:
                variant, every = split_row(row)
                for seed in self.seeds:
                    held_out = self.hold_out_every if level == "actr" else None
                    config = self.settings.config.with_variant(variant)
                    config = config.with_overrides(seed, held_out)
                    if level == "actr" or (n % every == 0 and _takes_cpm(config, n == 0)):
                        planned.append(Planned(level, self.study, row, seed, date, config))
        return planned

    def missing_cpm(self) -> list[Planned]:
        """Return the CPMs that are not in the store yet."""
        store = Store(self.settings.store_path)
        return [model for model in self.models("cpm") if not model.version(store)]

    def missing_days(self) -> list[Planned]:
        """Return the days of A-CTR whose version or row of the matrix is not in the store yet."""
        # Reads data, hence not when a DAG is parsed
        from ecdctr.studies.forgetting.basis import row_bases

        store, missing = Store(self.settings.store_path), []
        bases = row_bases(self.settings.config, self.rows, self.dates, self.hold_out_every)
        for model in self.models("actr"):
            ref = model.version(store)
            if not ref or store.matrix_row(ref, bases[model.row].name) is None:
                missing.append(model)
        return missing


def _takes_cpm(config: Config, first: bool) -> bool:
    """Tell whether A-CTR of a day takes a CPM: of every day, or of a chain's first one."""
    actr = config.actr
    return actr.source != "none" or (actr.init == "cpm" and (actr.policy == "from_cpm" or first))
