"""The configuration: one YAML file, typed and validated at load."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ecdctr.errors import ConfigError

Level = Literal["tpm", "cpm", "actr"]
Domain = Literal["natural", "ads"]
LEVELS: tuple[Level, ...] = ("tpm", "cpm", "actr")
DOMAINS: tuple[Domain, ...] = ("natural", "ads")
LEVEL_DOMAIN: dict[Level, Domain] = {"tpm": "natural", "cpm": "natural", "actr": "ads"}
PRODUCTION = "production"
RESERVED_COLUMNS = {"user_id", "item_id", "ts", "click", "oracle_ctr", "impression_id"}


Root = Path | str


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values never change after load."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
            raise ValueError(f"'{self.name}' is a column of the contract itself and cannot be declared as a feature")
        if self.tpm and self.kind != "categorical":
            raise ValueError(f"feature '{self.name}': TPM takes categorical features only, found {self.kind}")
        return self


class Data(Section):
    """Where impressions lie and how they are prepared."""

    root: Root = Field(
        Path("data"), description="a folder, or a URL that fsspec opens, such as s3://bucket/impressions"
    )
    prepared: Path = Path("prepared")
    allowed_missing_days: int = Field(0, ge=0, description="days of a window that may be missing")
    quarantine: bool = Field(False, description="set bad rows aside under <root>/_quarantine instead of stopping")
    engine: Literal["duckdb", "spark"] = Field(
        "duckdb", description="what prepares examples with history and counts; both give the same (extra: spark)"
    )
    duckdb_memory: str = Field("2GB", pattern=r"^\d+(\.\d+)?(KB|MB|GB|TB)$")
    threads: int = Field(2, ge=1)
    history_length: int = Field(20, ge=1, description="clicks kept per impression (last N)")
    lookback_days: int = Field(28, ge=1, description="days before an impression that history and counts may see")
    numeric_null: float = Field(0.0, description="value of a missing numeric feature")

    @field_validator("root", mode="before")
    @classmethod
    def _path_or_url(cls, value: Any) -> Any:
        return Path(value) if isinstance(value, str) and "://" not in value else value

    @model_validator(mode="after")
    def _check(self) -> Data:
        if self.quarantine and self.engine == "spark":
            raise ValueError("data.quarantine needs data.engine: duckdb; set it to false, or prepare with DuckDB")
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
    min_rows_ratio: float = Field(0.6, ge=0, lt=1, description="of the trailing days' median number of impressions")
    max_rows_ratio: float = Field(1.8, gt=1)
    max_ctr_ratio: float = Field(1.7, gt=1, description="click-through rate, up or down")
    max_null_increase: float = Field(0.1, gt=0, le=1, description="of a feature's share of nulls, in points")
    max_unseen_share: float = Field(0.2, gt=0, le=1, description="rows with a category that the trailing days lack")
    max_psi: float = Field(0.25, gt=0, description="population stability index of each categorical feature")


class Training(Section):
    """One level's optimisation. Learning rates are per step of Adam."""

    window_days: int = Field(ge=1)
    epochs: int = Field(1, ge=1)
    batch_size: int = Field(1024, ge=2)
    lr_embedding: float = Field(5e-3, gt=0)
    lr_dense: float = Field(1e-3, gt=0)
    chunk_rows: int = Field(262_144, ge=1024, description="rows shuffled together; bounds the memory of reading")
    threads: int = Field(1, ge=1, description="torch threads; part of the result's identity")
    shards: int = Field(
        1,
        ge=1,
        description="parts that each day is read in, side by side; as many processes may train together "
        "(ecdctr train --processes), and fewer give the same result. Part of the result's identity",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of matrix products; bfloat16 trains faster where the processor has it (AVX512-BF16, AMX, GPUs)",
    )
    compile: bool = Field(
        False,
        description="let torch.compile fuse the network: needs a C++ compiler and half a minute, and pays from some "
        "ten million samples on",
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="how often a training saves where it is, to go on there when it was interrupted"
    )
    save_optimizer: bool = Field(False, description="store Adam's moments with the version, thrice its size")
    carry_optimizer: bool = Field(False, description="start from the parent's moments; the parent must have saved them")

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.batch_size % self.shards:
            raise ValueError(f"shards {self.shards} do not divide batch_size {self.batch_size}; change one of them")
        return self

    @property
    def first_days(self) -> int:
        """Days that a version without one before it reads."""
        return self.window_days


class Tpm(Training):
    """Tiny Pre-training Model."""

    window_days: int = Field(84, ge=1)
    lr_embedding: float = Field(2e-3, gt=0)
    embedding_dim: int = Field(16, ge=1)
    hidden: tuple[int, ...] = (32,)
    refresh: Literal["incremental", "window"] = Field(
        "incremental", description="after the first version: only the days since it, or the whole window again"
    )


class Snapshots(Section):
    """Which TPM snapshots a consumer takes and how it aggregates them."""

    count: int = Field(3, ge=0, description="K; 0 switches TPM off")
    stride_days: int = Field(28, ge=1)
    lag_days: int = Field(
        1,
        ge=0,
        description="take the newest snapshot as of this many days before the data date, so that no snapshot has "
        "trained on the impressions that CPM learns from: 1 where CPM goes on with each day, cpm.window_days where it "
        "starts anew; 0 is the paper's form",
    )
    aggregation: Literal["self_attention", "newest", "mean", "concat", "gated", "time_decayed", "time_attention"] = (
        Field("self_attention", description="self_attention is the paper's; see ecdctr/models/snapshots.py")
    )
    missing: Literal["zeros", "learned"] = Field("zeros", description="vector of an id that no snapshot knows")
    presence: bool = Field(False, description="also tell how many snapshots know the id, and whether the newest does")
    history: bool = Field(False, description="aggregated item vectors also enter the click history's items")
    require_all: bool = Field(False, description="fail when fewer than K distinct snapshots exist")

    def as_of(self, date: dt.date) -> list[dt.date]:
        """The K dates that a consumer at a data date resolves TPM at, newest first."""
        return [date - dt.timedelta(days=self.lag_days + k * self.stride_days) for k in range(self.count)]


class Network(Section):
    """The one network of CPM and A-CTR."""

    embedding_dim: int = Field(16, ge=1)
    hidden: tuple[int, ...] = Field((128, 64), min_length=1)
    attention_heads: int = Field(2, ge=1)
    history: Literal["target_attention", "mean", "none"] = Field(
        "target_attention", description="how the click history is read; target attention is DIN's"
    )
    backbone: Literal["mlp", "deepfm", "dcnv2", "masknet", "star", "mmoe", "ple"] = Field(
        "mlp", description="star, mmoe and ple learn both domains in one training: actr.natural_days"
    )
    experts: int = Field(3, ge=1, description="mmoe: experts; ple: experts of each domain and shared ones")

    @model_validator(mode="after")
    def _check(self) -> Network:
        if self.embedding_dim % self.attention_heads:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not a multiple of attention_heads {self.attention_heads}"
            )
        return self


class Cpm(Training):
    """Complete Pre-training Model."""

    window_days: int = Field(28, ge=1)
    refresh: Literal["incremental", "window"] = Field(
        "incremental",
        description="the version before goes on with the days since it, or from scratch on the whole window (paper)",
    )
    first_window_days: int | None = Field(
        None, ge=1, description="of the first version, where refresh is incremental; window_days by default"
    )
    lr_aggregator: float | None = Field(None, gt=0, description="of the snapshot aggregator; lr_dense by default")

    @model_validator(mode="after")
    def _check(self) -> Cpm:
        if self.refresh == "window" and self.carry_optimizer:
            raise ValueError(
                "carry_optimizer: CPM starts from scratch, there are no moments to carry; set refresh: incremental"
            )
        if self.refresh == "window" and self.first_window_days:
            raise ValueError("first_window_days needs refresh: incremental; else every version reads window_days")
        return self

    @property
    def first_days(self) -> int:
        """Days that a version without one before it reads."""
        return self.first_window_days or self.window_days


class Actr(Training):
    """Advertisement CTR model."""

    window_days: int = Field(45, ge=1)
    batch_size: int = Field(512, ge=2)
    init: Literal["cpm", "none"] = Field("cpm", description="'none' is the ads-only baseline")
    policy: Literal["from_cpm", "continue"] = Field(
        "from_cpm", description="start each day from the newest CPM, or continue yesterday's A-CTR with the new day"
    )
    batch_norm: Literal["keep", "reset_stats", "reset_all"] = "keep"
    freeze_aggregator: bool = True
    lr_aggregator: float | None = Field(None, gt=0, description="of an aggregator that is not frozen")
    natural_days: int = Field(0, ge=0, description="days of natural content trained on together with the ads")
    natural_share: float = Field(1.0, gt=0, le=1, description="share of their impressions: 1 joint, small is replay")
    source: Literal["none", "keep", "ctnet"] = Field(
        "none", description="take CPM's hidden layers as inputs (keep), or layer by layer (ctnet), instead of weights"
    )
    hold_out_every: int = Field(
        0, ge=0, description="keep each n-th impression of ads out of training, for the forgetting matrix; 0: none"
    )
    ewc: float = Field(0, ge=0, description="strength of elastic weight consolidation towards the parent")

    @model_validator(mode="after")
    def _check(self) -> Actr:
        if self.hold_out_every == 1:
            raise ValueError("hold_out_every: 1 would hold everything out; set 0 for nothing, or 2 and more")
        if self.natural_share < 1 and not self.natural_days:
            raise ValueError(
                "natural_share is set, but natural_days is 0: no natural content is read; set natural_days"
            )
        if self.source != "none" and (self.init != "none" or self.policy != "from_cpm"):
            raise ValueError(f"source: {self.source} takes no weights from CPM; set init: none and policy: from_cpm")
        if self.ewc and self.init == "none":
            raise ValueError("ewc needs a parent to stay near; set init: cpm")
        if self.carry_optimizer and self.init == "none" and self.policy == "from_cpm":
            raise ValueError("carry_optimizer needs a parent; set init: cpm or policy: continue")
        return self


class Evaluation(Section):
    """Progressive validation and the promotion gate."""

    low_activity_below: int = Field(20, ge=1, description="impressions in the lookback that make a user active")
    batch_size: int = Field(8192, ge=1)
    bootstrap_samples: int = Field(500, ge=50)
    gate_max_gauc_drop: float = Field(0.01, ge=0, description="refuse if the challenger is surely worse by more")
    gate_calibration: tuple[float, float] = (0.5, 2.0)
    gate_min_score_spread: float = Field(1e-4, ge=0, description="standard deviation of the predictions, at least")
    gate_max_cpm_age: int = Field(
        3, ge=0, description="days by which CPM may be older than an A-CTR that starts from it"
    )
    gate_max_tpm_age: int = Field(
        21, ge=0, description="the same for the newest TPM snapshot, beyond snapshots.lag_days"
    )


class Toleration(Section):
    """Lets a training pod onto nodes with this taint."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None


class SecretKey(Section):
    """One key of a Kubernetes secret; its value is never in the configuration."""

    name: str
    key: str


JVM_MEMORY = r"^\d+[kmgt]$"
QUANTITY = r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"


class SparkPods(Section):
    """Preparation as an application of the Kubeflow Spark operator. Memory as Spark writes it."""

    image: str = Field("ecdctr-spark:latest", description="ecdctr and Spark in one image; docs/kubernetes.md")
    version: str = Field("4.3.0", description="of Spark in the image")
    executors: int = Field(2, ge=1)
    cores: int = Field(2, ge=1, description="of an executor")
    memory: str = Field("4g", pattern=JVM_MEMORY, description="of an executor")
    driver_cores: int = Field(1, ge=1)
    driver_memory: str = Field("2g", pattern=JVM_MEMORY)
    driver_overhead: str = Field("4g", pattern=JVM_MEMORY, description="beside Java: DuckDB validates the days there")
    service_account: str = Field("spark", description="of the driver, which makes the executors' pods")


class Kubernetes(Section):
    """The pods that work, when airflow.execution is 'kubernetes'; docs/kubernetes.md."""

    image: str = "ecdctr:latest"
    namespace: str = Field("default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    gpus: int = Field(1, ge=0, description="of a training pod")
    gpu_resource: str = Field("nvidia.com/gpu", description="as the cluster's device plugin names it")
    cpu: str = Field("4", pattern=QUANTITY)
    memory: str = Field("16Gi", pattern=QUANTITY)
    volume_claim: str = Field("ecdctr", description="holds config.yaml, data, prepared examples and the store")
    mount_path: str = Field("/ecdctr", pattern=r"^/[^:]*$")
    node_selector: dict[str, str] = Field(default_factory=dict, description="of training pods")
    tolerations: tuple[Toleration, ...] = Field((), description="of training pods")
    service: str = Field(
        "ecdctr", description="headless service by which pods that train together find each other; LEVEL.shards"
    )
    port: int = Field(29400, ge=1, le=65535, description="at which they meet")
    service_account: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict, description="plain variables; secrets go below")
    secrets: dict[str, SecretKey] = Field(
        default_factory=dict, description="environment variable: {name: of the secret, key: in it}"
    )
    pod_template: Path | None = Field(None, description="YAML of a pod; what is set here wins over it")
    startup_timeout_seconds: int = Field(600, ge=1, description="for pulling the image and finding a node")
    spark: SparkPods | None = Field(
        None,
        description="prepare CPM's and A-CTR's examples with executors in pods of their own; needs data.engine: spark",
    )


class AirflowSettings(Section):
    """Schedules and execution of the DAGs."""

    execution: Literal["process", "kubernetes"] = "process"
    start_date: dt.date = dt.date(2026, 1, 1)
    tpm_cron: str = "0 0 * * 1"
    daily_cron: str = "0 0 * * *"
    pool: str = "gpu"
    retries: int = Field(1, ge=0)
    retry_seconds: float = Field(300, ge=0, description="before a step is tried again")
    wait_hours: float = Field(36, gt=0, description="how long a run waits for a day's data")
    poke_seconds: float = Field(60, gt=0)
    deadline_hours: float | None = Field(
        None,
        gt=0,
        description="after which a run that is not done is reported. Airflow 3.3.2 cannot clear a failed run before "
        "this time is up, hence none by default; a failed task is reported anyway, also one whose day did not arrive",
    )
    alert_webhook_env: str | None = Field(
        None, description="environment variable that holds the URL of a webhook for alerts; none: the log alone"
    )
    kubernetes: Kubernetes = Kubernetes()


class Simulation(Section):
    """The simulated world of `ecdctr simulate`; see ecdctr/data/simulate.py for the model behind the numbers."""

    start: dt.date = dt.date(2026, 1, 1)
    days: int = Field(ge=1)
    users: int = Field(ge=10)
    natural_items: int = Field(ge=10)
    ad_items: int = Field(ge=10)
    natural_per_day: int = Field(ge=100)
    ads_per_day: int = Field(ge=10)
    latent_dim: int = Field(8, ge=2)
    recurrence_days: int = Field(28, ge=2)
    recurring: float = Field(1.0, ge=0, description="strength of interests that come back every recurrence_days")
    drift: float = Field(0.4, ge=0, description="strength of the slow drift")
    domain_correlation: float = Field(0.8, ge=0, le=1, description="between natural and ads preference")
    new_user_share: float = Field(0.15, ge=0, lt=1, description="users that arrive during the simulated days")
    ctr: float = Field(0.12, gt=0, lt=0.5, description="natural click-through rate, roughly")


class Tuning(Section):
    """What `ecdctr tune` searches: the same number of trials for every row, from the same values."""

    trials: int = Field(6, ge=2, description="settings tried per row; the first one is what the row has now")
    space: dict[str, tuple[Any, ...]] = Field(
        default_factory=lambda: {
            "actr.lr_embedding": (1e-3, 2e-3, 5e-3, 1e-2),
            "actr.lr_dense": (5e-4, 1e-3, 2e-3, 4e-3),
            "actr.epochs": (1, 2),
            "cpm.lr_dense": (5e-4, 1e-3),
            "cpm.epochs": (1, 2),
            "tpm.lr_embedding": (2e-3, 5e-3),
            "tpm.epochs": (1, 2),
        },
        description="key of the configuration: values, for all rows",
    )
    own: dict[str, dict[str, tuple[Any, ...]]] = Field(
        default_factory=dict, description="row: the same for settings that only this row has, e.g. the strength of EWC"
    )


class Config(Section):
    """The whole configuration."""

    seed: int = 1
    data: Data = Data()
    features: tuple[Feature, ...] = ()
    tpm: Tpm = Tpm()
    snapshots: Snapshots = Snapshots()
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
                raise ValueError(f"feature '{name}' is declared {names.count(name)} times; declare each once")
        return features

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        backbone = self.network.backbone
        if backbone in ("star", "mmoe", "ple") and not (self.actr.natural_days and self.actr.init == "none"):
            raise ValueError(
                f"network.backbone: {backbone} learns both domains at once; "
                "set actr.natural_days above 0 and actr.init: none"
            )
        if self.actr.source != "none" and backbone != "mlp":
            raise ValueError(f"actr.source: {self.actr.source} needs network.backbone: mlp, found {backbone}")
        pods = self.airflow.kubernetes
        if pods.spark and self.data.engine != "spark":
            raise ValueError(
                "airflow.kubernetes.spark is set, but DuckDB prepares; set data.engine: spark, or remove it"
            )
        if pods.spark and isinstance(self.data.root, str) and "ECDCTR_CACHE" not in pods.environment:
            raise ValueError(
                f"airflow.kubernetes.spark: executors read the driver's copies of {self.data.root}; set "
                f"airflow.kubernetes.environment.ECDCTR_CACHE to a folder on the volume, like {pods.mount_path}/cache"
            )
        if self.snapshots.history and self.network.history == "none":
            raise ValueError("snapshots.history needs the click history; set network.history: target_attention or mean")
        return self

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
        data_keys = {"history_length", "lookback_days", "numeric_null", "allowed_missing_days", "quarantine"}
        whole = self.model_dump(mode="json")
        parts: dict[str, Any] = {
            "seed": self.seed,
            "data": {key: whole["data"][key] for key in sorted(data_keys)},
            "features": whole["features"],
            level: {key: value for key, value in whole[level].items() if key != "checkpoint_seconds"},
        }
        if level != "tpm":
            parts |= {"network": whole["network"], "snapshots": whole["snapshots"]}
        return parts

    def with_variant(self, name: str | None) -> Config:
        """This configuration with the named overlay applied.

        Raises ConfigError for an unknown name or an overlay that does not validate.
        """
        if not name or name == "default":
            return self
        if name not in self.variants:
            known = ", ".join(sorted(self.variants)) or "none are declared"
            raise ConfigError(f"Unknown variant '{name}'; known variants: {known}. Declare it under 'variants:'.")
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
        raise ConfigError(f"No configuration at {path}; name one with --config or ECDCTR_CONFIG.") from None
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
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


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
