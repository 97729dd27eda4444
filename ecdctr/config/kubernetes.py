"""Pods that work."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ecdctr.config.section import Section

JVM_MEMORY = r"^\d+[kmgt]$"
QUANTITY = r"^\d+(\.\d+)?(m|[kMGTPE]i?)?$"


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


class SparkPods(Section):
    """Preparation as an application of the Kubeflow Spark operator. Memory as Spark writes it."""

    image: str = Field(
        "ecdctr-spark:latest", description="ecdctr and Spark in one image; docs/kubernetes.md"
    )
    version: str = Field("4.3.0", description="of Spark in the image")
    executors: int = Field(2, ge=1)
    cores: int = Field(2, ge=1, description="of an executor")
    memory: str = Field("4g", pattern=JVM_MEMORY, description="of an executor")
    driver_cores: int = Field(1, ge=1)
    driver_memory: str = Field("2g", pattern=JVM_MEMORY)
    driver_overhead: str = Field(
        "4g", pattern=JVM_MEMORY, description="beside Java: DuckDB validates the days there"
    )
    service_account: str = Field(
        "spark", description="of the driver, which makes the executors' pods"
    )


class Kubernetes(Section):
    """The pods that work, when airflow.execution is 'kubernetes'; docs/kubernetes.md."""

    image: str = "ecdctr:latest"
    namespace: str = Field("default", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    gpus: int = Field(1, ge=0, description="of a training pod")
    gpu_resource: str = Field(
        "nvidia.com/gpu", description="as the cluster's device plugin names it"
    )
    cpu: str = Field("4", pattern=QUANTITY)
    memory: str = Field("16Gi", pattern=QUANTITY)
    volume_claim: str = Field(
        "ecdctr", description="holds config.yaml, data, prepared examples and the store"
    )
    mount_path: str = Field("/ecdctr", pattern=r"^/[^:]*$")
    node_selector: dict[str, str] = Field(default_factory=dict, description="of training pods")
    tolerations: tuple[Toleration, ...] = Field((), description="of training pods")
    service: str = Field(
        "ecdctr",
        description="headless service by which pods that train together find each other; LEVEL.shards",
    )
    port: int = Field(29400, ge=1, le=65535, description="at which they meet")
    service_account: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    environment: dict[str, str] = Field(
        default_factory=dict, description="plain variables; secrets go below"
    )
    secrets: dict[str, SecretKey] = Field(
        default_factory=dict, description="environment variable: {name: of the secret, key: in it}"
    )
    pod_template: Path | None = Field(
        None, description="YAML of a pod; what is set here wins over it"
    )
    startup_timeout_seconds: int = Field(
        600, ge=1, description="for pulling the image and finding a node"
    )
    spark: SparkPods | None = Field(
        None,
        description="prepare CPM's and A-CTR's examples with executors in pods of their own; needs data.engine: spark",
    )
