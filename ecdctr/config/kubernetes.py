"""Pods that work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from ecdctr.config.section import Section

JVM_MEMORY = r"^[1-9]\d{0,6}[kmgt]$"
QUANTITY = r"^\d{1,9}(\.\d{1,3})?(m|[kMGTPE]i?)?$"
ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"  # what Kubernetes calls a DNS subdomain
Variable = Annotated[str, Field(pattern=ENVIRONMENT_NAME)]


class Toleration(Section):
    """Lets a training pod onto nodes with this taint."""

    key: str | None = Field(None, description="of the taint; none: every taint")
    operator: Literal["Equal", "Exists"] = Field(
        "Equal", description="whether the taint's value counts too"
    )
    value: str | None = Field(None, description="of the taint, where operator is Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        None, description="of the taint; none: every effect"
    )


class SecretKey(Section):
    """One key of a Kubernetes secret; its value is never in the configuration."""

    name: str = Field(pattern=OBJECT_NAME, description="of the secret")
    key: str = Field(pattern=r"^[-._A-Za-z0-9]{1,253}$", description="in the secret")


class SparkPods(Section):
    """Preparation as an application of the Kubeflow Spark operator. Memory as Spark writes it."""

    image: str = Field(
        "ecdctr-spark:latest", description="ecdctr and Spark in one image; docs/kubernetes.md"
    )
    version: str = Field("4.3.0", description="of Spark in the image")
    executors: int = Field(2, ge=1, le=10_000, description="pods that prepare side by side")
    cores: int = Field(2, ge=1, le=1024, description="of an executor")
    memory: str = Field("4g", pattern=JVM_MEMORY, description="of an executor")
    driver_cores: int = Field(1, ge=1, le=1024, description="of the driver")
    driver_memory: str = Field("2g", pattern=JVM_MEMORY, description="of the driver's Java")
    driver_overhead: str = Field(
        "4g", pattern=JVM_MEMORY, description="beside Java: DuckDB validates the days there"
    )
    service_account: str = Field(
        "spark", pattern=OBJECT_NAME, description="of the driver, which makes the executors' pods"
    )


class Kubernetes(Section):
    """The pods that work, when airflow.execution is 'kubernetes'; docs/kubernetes.md."""

    image: str = Field(
        "ecdctr:latest", min_length=1, description="ecdctr and its packages; Dockerfile"
    )
    namespace: str = Field(
        "default",
        pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$",
        description="where the pods are made",
    )
    gpus: int = Field(1, ge=0, le=1024, description="of a training pod")
    gpu_resource: str = Field(
        "nvidia.com/gpu", description="as the cluster's device plugin names it"
    )
    cpu: str = Field("4", pattern=QUANTITY, description="of a pod, as Kubernetes writes it")
    memory: str = Field("16Gi", pattern=QUANTITY, description="of a pod, as Kubernetes writes it")
    volume_claim: str = Field(
        "ecdctr", description="holds config.yaml, data, prepared examples and the store"
    )
    mount_path: str = Field(
        "/ecdctr", pattern=r"^/[^:]*$", description="where the volume lies in a pod"
    )
    node_selector: dict[str, str] = Field(default_factory=dict, description="of training pods")
    tolerations: tuple[Toleration, ...] = Field((), description="of training pods")
    service: str = Field(
        "ecdctr",
        description=(
            "headless service by which pods that train together find each other; LEVEL.shards"
        ),
    )
    port: int = Field(29400, ge=1, le=65535, description="at which they meet")
    service_account: str | None = Field(
        None, pattern=OBJECT_NAME, description="of the pods; none: the namespace's default"
    )
    labels: dict[str, str] = Field(default_factory=dict, description="of the pods")
    environment: dict[Variable, str] = Field(
        default_factory=dict, description="plain variables; secrets go below"
    )
    secrets: dict[Variable, SecretKey] = Field(
        default_factory=dict, description="environment variable: {name: of the secret, key: in it}"
    )
    pod_template: Path | None = Field(
        None, description="YAML of a pod; what is set here wins over it"
    )
    startup_timeout_seconds: int = Field(
        600, ge=1, le=86_400, description="for pulling the image and finding a node"
    )
    spark: SparkPods | None = Field(
        None,
        description=(
            "prepare CPM's and A-CTR's examples with executors in pods of their own; "
            "needs data.engine: spark"
        ),
    )
