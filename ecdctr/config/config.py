"""The whole configuration: one YAML file, typed and validated at load."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from ecdctr.config.airflow import AirflowSettings
from ecdctr.config.data import Data, Feature, Quality
from ecdctr.config.evaluation import Evaluation, Tuning
from ecdctr.config.memory import Memory
from ecdctr.config.network import Network, Snapshots
from ecdctr.config.section import Section
from ecdctr.config.terms import Level
from ecdctr.config.training import Actr, Cpm, Tpm, Training
from ecdctr.errors import ConfigError


class Config(Section):
    """The whole configuration."""

    seed: int = 1
    data: Data = Data()
    features: tuple[Feature, ...] = ()
    tpm: Tpm = Tpm()
    snapshots: Snapshots = Snapshots()
    memory: Memory = Memory()
    network: Network = Network()
    cpm: Cpm = Cpm()
    actr: Actr = Actr()
    quality: Quality = Quality()
    evaluation: Evaluation = Evaluation()
    airflow: AirflowSettings = AirflowSettings()
    tuning: Tuning = Tuning()
    variants: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="named overlays, e.g. no_tpm: {snapshots: {count: 0}}"
    )

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
        if backbone in ("star", "mmoe", "ple") and not (
            self.actr.natural_days and self.actr.init == "none"
        ):
            raise ValueError(
                f"network.backbone: {backbone} learns both domains at once; "
                "set actr.natural_days above 0 and actr.init: none"
            )
        if self.actr.source != "none" and backbone != "mlp":
            raise ValueError(
                f"actr.source: {self.actr.source} needs network.backbone: mlp, found {backbone}"
            )
        pods = self.airflow.kubernetes
        if pods.spark and self.data.engine != "spark":
            raise ValueError(
                "airflow.kubernetes.spark is set, but DuckDB prepares; set data.engine: spark, or remove it"
            )
        if (
            pods.spark
            and isinstance(self.data.root, str)
            and "ECDCTR_CACHE" not in pods.environment
        ):
            raise ValueError(
                f"airflow.kubernetes.spark: executors read the driver's copies of {self.data.root}; set "
                f"airflow.kubernetes.environment.ECDCTR_CACHE to a folder on the volume, like {pods.mount_path}/cache"
            )
        if self.snapshots.history and self.network.history == "none":
            raise ValueError(
                "snapshots.history needs the click history; set network.history: target_attention or mean"
            )
        categorical = {f.name for f in self.features if (f.side, f.kind) == ("item", "categorical")}
        for name in self.memory.features or ():
            if name not in categorical:
                raise ValueError(
                    f"memory.features: '{name}' is no categorical feature of items; expected some of "
                    f"{', '.join(sorted(categorical)) or 'none, since none is declared'}"
                )
        return self

    @property
    def memory_keys(self) -> tuple[str, ...]:
        """What a user's memory is kept by: the item's id and features of items."""
        named = self.memory.features
        if named is None:
            named = tuple(
                f.name for f in self.features if (f.side, f.kind) == ("item", "categorical")
            )
        return ("item_id", *named)

    def training(self, level: Level) -> Training:
        """The optimisation settings of a level."""
        return {"tpm": self.tpm, "cpm": self.cpm, "actr": self.actr}[level]

    def chained(self, level: Level) -> bool:
        """Whether each day's version goes on from that of the day before."""
        return {
            "tpm": False,  # weekly, and each version from the one before it, whichever that is
            "cpm": self.cpm.refresh == "incremental",
            "actr": self.actr.policy == "continue",
        }[level]

    def relevant(self, level: Level) -> dict[str, Any]:
        """The settings that can change a level's result; their digest enters the fingerprint."""
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
        if self.memory.enabled:  # a configuration without it keeps its fingerprint
            parts["memory"] = whole["memory"]
        return parts

    def with_variant(self, name: str | None) -> Config:
        """This configuration with the named overlay applied.

        Raises ConfigError for an unknown name or an overlay that does not validate.
        """
        if not name or name == "default":
            return self
        if name not in self.variants:
            known = ", ".join(sorted(self.variants)) or "none are declared"
            raise ConfigError(
                f"Unknown variant '{name}'; known variants: {known}. Declare it under 'variants:'."
            )
        return self.with_overlay(self.variants[name], f"variant '{name}'")

    def with_overlay(self, overlay: dict[str, Any], where: str) -> Config:
        """This configuration with some keys changed; raises ConfigError that names `where` if it does not validate."""
        return _validate(merged(self.model_dump(mode="json"), overlay), where)

    def with_overrides(self, seed: int | None, hold_out_every: int | None = None) -> Config:
        """This configuration with another seed, or with ads held out; None leaves what stands."""
        changed: dict[str, Any] = {} if seed is None else {"seed": seed}
        if hold_out_every is not None:
            changed["actr"] = {"hold_out_every": hold_out_every}
        return self.with_overlay(changed, "option --hold-out-every") if changed else self


def load_config(path: Path) -> Config:
    """Read and validate a configuration file; relative data paths are relative to the file.

    Raises ConfigError with the key, the found value and what is allowed.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"No configuration at {path}; name one with --config or ECDCTR_CONFIG."
        ) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping of sections, found {type(raw).__name__}.")
    config = _validate(raw, str(path))
    for name in config.variants:
        config.with_variant(name)
    base = path.resolve().parent
    data = config.data
    root = data.root if isinstance(data.root, str) else (base / data.root).resolve()
    data = data.model_copy(update={"root": root, "prepared": (base / data.prepared).resolve()})
    return config.model_copy(update={"data": data})


def digest(value: Any) -> str:
    """SHA-256 of a JSON-serialisable value in canonical form."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    ).hexdigest()


def _validate(raw: dict[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(raw)
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc']) or 'file'}: {item['msg']} (found {item['input']!r})"
            for item in error.errors()
        ]
        raise ConfigError(f"{where} is not valid. " + "; ".join(problems)) from None


def merged(base: dict[str, Any], overlay: dict[str, Any]) -> dict[str, Any]:
    """Nested sections with those of an overlay in place of their own."""
    result = dict(base)
    for key, value in overlay.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result
