"""The whole configuration: what stands in one YAML file, typed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, StringConstraints, field_validator, model_validator

from ecdctr.config.airflow import AirflowSettings
from ecdctr.config.data import Data, Feature, Quality
from ecdctr.config.evaluation import Evaluation, Tuning
from ecdctr.config.memory import Memory
from ecdctr.config.network import BACKBONES, Network, Snapshots
from ecdctr.config.section import MAX_SEED, Section
from ecdctr.config.store import StoreSettings
from ecdctr.config.terms import DEFAULT, FULL, IDS, LEVELS, NAME_PATTERN, Level
from ecdctr.config.training import Actr, Cpm, Tpm, Training
from ecdctr.config.validation import validated
from ecdctr.errors import ConfigError

VariantName = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]


class Config(Section):
    """The whole configuration."""

    seed: int = Field(1, ge=0, le=MAX_SEED, description="of weights, shuffles and draws")
    data: Data = Field(Data(), description="impressions and how they are prepared")
    features: tuple[Feature, ...] = Field(
        (), description="columns of the impressions, beside the contract's, that the models read"
    )
    tpm: Tpm = Field(Tpm(), description="how the Tiny Pre-training Model is trained")
    snapshots: Snapshots = Field(
        Snapshots(), description="which TPM versions CPM and A-CTR take, and how"
    )
    memory: Memory = Field(Memory(), description="long-term counts and histories of users")
    network: Network = Field(Network(), description="the network of CPM and A-CTR")
    cpm: Cpm = Field(Cpm(), description="how the Complete Pre-training Model is trained")
    actr: Actr = Field(Actr(), description="how the ads model is trained")
    store: StoreSettings = Field(StoreSettings(), description="how versions lie in the store")
    quality: Quality = Field(Quality(), description="when a day is too unlike the days before it")
    evaluation: Evaluation = Field(Evaluation(), description="progressive validation and the gate")
    airflow: AirflowSettings = Field(
        AirflowSettings(), description="schedules and execution of the DAGs"
    )
    tuning: Tuning = Field(Tuning(), description="what `ecdctr tune` searches")
    variants: dict[VariantName, dict[str, Any]] = Field(
        default_factory=dict, description="named overlays, e.g. no_tpm: {snapshots: {count: 0}}"
    )
    tables: dict[VariantName, tuple[str, ...]] = Field(
        default_factory=dict,
        description=(
            "rows of studies under a name that --rows takes, e.g. results: [ads_only, full]"
        ),
    )

    @field_validator("variants")
    @classmethod
    def _overlays(cls, variants: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        if DEFAULT in variants:
            raise ValueError(
                f"'{DEFAULT}' is the configuration without an overlay; give the variant another "
                "name"
            )
        for name, overlay in variants.items():
            for key in ("variants", "tables", "tuning"):
                if key in overlay:
                    raise ValueError(f"the overlay '{name}' cannot hold '{key}'; take it out")
        return variants

    @field_validator("features")
    @classmethod
    def _unique(cls, features: tuple[Feature, ...]) -> tuple[Feature, ...]:
        names = [feature.name for feature in features]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"feature '{name}' is declared {names.count(name)} times; declare each once"
                )
        return features

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        backbone = self.network.backbone
        can = BACKBONES[backbone]
        if can.both_domains and not (self.actr.natural_days and self.actr.init == "none"):
            raise ValueError(
                f"network.backbone: {backbone} learns both domains at once; "
                "set actr.natural_days above 0 and actr.init: none"
            )
        if self.actr.start_at_rate and not can.start_at_rate:
            able = _one_of(name for name, one in BACKBONES.items() if one.start_at_rate)
            raise ValueError(f"actr.start_at_rate needs network.backbone: {able}, found {backbone}")
        if self.actr.source != "none" and not can.source:
            able = _one_of(name for name, one in BACKBONES.items() if one.source)
            raise ValueError(
                f"actr.source: {self.actr.source} needs network.backbone: {able}, found {backbone}"
            )
        pods = self.airflow.kubernetes
        if pods.spark and self.data.engine != "spark":
            raise ValueError(
                "airflow.kubernetes.spark is set, but DuckDB prepares; set data.engine: spark, or "
                "remove it"
            )
        if (
            pods.spark
            and isinstance(self.data.root, str)
            and "ECDCTR_CACHE" not in pods.environment
        ):
            raise ValueError(
                "airflow.kubernetes.spark: executors read the driver's copies of "
                f"{self.data.root}; set airflow.kubernetes.environment.ECDCTR_CACHE to a folder on "
                f"the volume, like {pods.mount_path}/cache"
            )
        if self.snapshots.history and self.network.history == "none":
            raise ValueError(
                "snapshots.history needs the click history; set network.history: target_attention "
                "or mean"
            )
        return self

    @model_validator(mode="after")
    def _features_of_items(self) -> Config:
        """Refuse a memory or a history of features that items do not have."""
        categorical = {f.name for f in self.features if (f.side, f.kind) == ("item", "categorical")}
        expected = ", ".join(sorted(categorical)) or "none, since none is declared"
        chosen = {
            "memory.features": self.memory.features or (),
            "data.history_features": self.data.history_features,
        }
        for key, names in chosen.items():
            for name in names:
                if name not in categorical:
                    raise ValueError(
                        f"{key}: '{name}' is no categorical feature of items; expected some of "
                        f"{expected}"
                    )
                if names.count(name) > 1:
                    raise ValueError(f"{key}: '{name}' stands there twice; name it once")
        if self.data.history_features and self.network.history == "none":
            raise ValueError(
                "data.history_features needs the click history; set network.history: "
                "target_attention, intensity_attention or mean, or leave them out"
            )
        return self

    @model_validator(mode="after")
    def _bounded_fields(self) -> Config:
        """Refuse a `vocabulary` of what is no field, or whose ids come from unbounded parents."""
        declared = [f.name for f in self.features if f.kind != "numeric"]
        for level in LEVELS:
            fields = [*IDS, *(declared if level != "tpm" else self._of_tpm)]
            fields += ["hour"] if level != "tpm" else []
            for name in self.training(level).vocabulary:
                if name not in fields:
                    raise ValueError(
                        f"{level}.vocabulary: '{name}' is no field with ids; expected some of "
                        f"{', '.join(fields)}"
                    )
                for parent in self._ids_from(level, name):
                    if name not in self.training(parent).vocabulary:
                        raise ValueError(
                            f"{level}.vocabulary.{name}: ids come from {parent}, which does not "
                            f"keep when it saw them; set {parent}.vocabulary.{name}, too, if only "
                            "to {}"
                        )
        return self

    @property
    def _of_tpm(self) -> list[str]:
        return [feature.name for feature in self.features if feature.tpm]

    def _ids_from(self, level: Level, name: str) -> list[Level]:
        """Return the levels whose ids a field of a level takes over."""
        parents: list[Level] = []
        if level != "tpm" and self.snapshots.count and name in IDS:
            parents.append("tpm")
        if level == "actr" and (self.actr.init == "cpm" or self.actr.source != "none"):
            parents.append("cpm")
        return parents

    @model_validator(mode="after")
    def _tables_of_variants(self) -> Config:
        for name, rows in self.tables.items():
            if name in self.variants:
                raise ValueError(f"tables.{name}: a variant has this name; give the table another")
            for row in rows:
                if row.partition("@")[0] not in (*self.variants, FULL):
                    raise ValueError(
                        f"tables.{name}: '{row}' is no variant; declare it, or take it out"
                    )
        return self

    def rows(self, named: str) -> tuple[str, ...]:
        """Return the rows of a table, or those that are named with commas between.

        Raises ConfigError where a name is empty or stands twice.
        """
        rows = self.tables.get(named) or tuple(name.strip() for name in named.split(","))
        odd = next((name for name in rows if not name or rows.count(name) > 1), None)
        if odd is not None:
            why = f"'{odd}' stands there {rows.count(odd)} times" if odd else "a name is empty"
            raise ConfigError(
                f"The rows '{named}': {why}, expected names of variants, each once, with commas "
                "between, for example full,ads_only."
            )
        return rows

    @property
    def memory_keys(self) -> tuple[str, ...]:
        """What a user's memory is kept by: the item's id and features of items."""
        named = self.memory.features
        if named is None:
            named = tuple(
                f.name for f in self.features if (f.side, f.kind) == ("item", "categorical")
            )
        return ("item_id", *named)

    @property
    def snapshot_days(self) -> int:
        """How many days back from a data date the next training may look for TPM versions."""
        span = self.snapshots.count * self.snapshots.stride_days
        windows = (self.cpm.first_days, self.actr.window_days, self.actr.natural_days)
        return span + (max(windows) if self.snapshots.point_in_time else 0)

    @property
    def longest_snapshot_days(self) -> int:
        """The same of whatever variant looks back furthest."""
        every = (self, *(self.with_variant(name) for name in self.variants))
        return max(one.snapshot_days for one in every)

    @property
    def starts_at_rate(self) -> bool:
        """Whether A-CTR predicts the click rate of its days at first."""
        asked = self.actr.start_at_rate
        can = BACKBONES[self.network.backbone].start_at_rate and not self.actr.ewc
        return can if asked is None else asked

    @property
    def examples_look_back(self) -> int:
        """Days before an impression that its example is made of, in both domains."""
        memory = self.memory.longest + 6 if self.memory.enabled else 0  # its tables are weekly
        return max(self.data.looked_back_days, memory)

    def training(self, level: Level) -> Training:
        """Return the optimisation settings of a level."""
        return {"tpm": self.tpm, "cpm": self.cpm, "actr": self.actr}[level]

    def chained(self, level: Level) -> bool:
        """Tell whether each day's version goes on from that of the day before."""
        return {
            "tpm": False,  # weekly, and each version from the one before it, whichever that is
            "cpm": self.cpm.refresh == "incremental",
            "actr": self.actr.policy == "continue",
        }[level]

    def relevant(self, level: Level) -> dict[str, Any]:
        """Return the settings that can change a level's result.

        Their digest enters the fingerprint.
        """
        data_keys = {
            "history_length",
            "lookback_days",
            "numeric_null",
            "allowed_missing_days",
            "quarantine",
        }
        whole = self.model_dump(mode="json")
        parts: dict[str, Any] = {
            "seed": self.seed,
            "data": {key: whole["data"][key] for key in sorted(data_keys)},
            "features": whole["features"],
            level: {
                key: value for key, value in whole[level].items() if key != "checkpoint_seconds"
            },
        }
        if level != "tpm":
            parts |= {"network": whole["network"], "snapshots": whole["snapshots"]}
        # a configuration without these keeps its fingerprint
        if self.memory.enabled:
            parts["memory"] = whole["memory"]
        if level != "tpm" and self.data.click_days != self.data.lookback_days:
            parts["data"]["history_days"] = self.data.click_days
        if level != "tpm" and self.data.history_features:
            parts["data"]["history_features"] = list(self.data.history_features)
        if not self.training(level).vocabulary:
            del parts[level]["vocabulary"]
        return parts

    def with_variant(self, name: str | None) -> Config:
        """Return this configuration with the named overlay applied.

        Raises ConfigError for an unknown name or an overlay that does not validate.
        """
        if not name or name == DEFAULT:
            return self
        if name not in self.variants:
            declared = ", ".join(sorted(self.variants)) or "none are declared"
            raise ConfigError(
                f"Unknown variant '{name}'; known variants: {declared}. Declare it under "
                "'variants:'."
            )
        return self.with_overlay(self.variants[name], f"variant '{name}'")

    def with_overlay(self, overlay: dict[str, Any], where: str) -> Config:
        """Return this configuration with some keys changed.

        Raises ConfigError that names `where` if it does not validate.
        """
        return validated(Config, merged(self.model_dump(mode="json"), overlay), where)

    def with_overrides(self, seed: int | None, hold_out_every: int | None = None) -> Config:
        """Return this configuration with another seed, or with ads held out.

        None leaves what stands.
        """
        changed: dict[str, Any] = {} if seed is None else {"seed": seed}
        if hold_out_every is not None:
            changed["actr"] = {"hold_out_every": hold_out_every}
        return (
            self.with_overlay(changed, "options --seed and --hold-out-every: the configuration")
            if changed
            else self
        )


def _one_of(names: Iterable[str]) -> str:
    """Return names as a sentence has them: a, b or c."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def digest(value: Any) -> str:
    """Return SHA-256 of a JSON-serialisable value in canonical form."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Put an overlay's values into nested sections, in place of their own."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
