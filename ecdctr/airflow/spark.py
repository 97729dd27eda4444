"""Preparation as a SparkApplication.

The same `ecdctr` command as its driver, executors in pods of their own. The Kubeflow Spark operator
makes the driver's pod, and the driver those of the executors. All of them mount the volume with
impressions and prepared examples. A driver has no sidecar, so the step has no return value; nothing
reads one.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.spark_kubernetes import SparkKubernetesOperator
from kubernetes.client import ApiClient

from ecdctr.airflow.dates import Settings
from ecdctr.airflow.pods import environment, name_of
from ecdctr.config import Kubernetes, SparkPods

MAIN = "local:///opt/ecdctr/ecdctr/cli/__main__.py"  # where the Dockerfile puts it


class SparkApplication(SparkKubernetesOperator):
    """Takes the path of the configuration for what it is, no template of Airflow's."""

    template_ext = ()  # type: ignore[assignment]  # of three there


def spark_task(
    settings: Settings,
    spark: SparkPods,
    arguments: list[str],
    run_variable: str,
    common: dict[str, Any],
) -> SparkApplication:
    """Return the operator of a step that Spark does, in the pods of kubernetes.spark.

    `common` are Airflow's own options.
    """
    pod = settings.config.airflow.kubernetes
    return SparkApplication(
        **common,
        name=name_of(common),
        namespace=pod.namespace,
        template_spec=_application(pod, spark, arguments, run_variable),
        startup_timeout_seconds=pod.startup_timeout_seconds,
    )


def _application(
    pod: Kubernetes, spark: SparkPods, arguments: list[str], run_variable: str
) -> dict[str, Any]:
    """Return the object of the Spark operator's API, sparkoperator.k8s.io/v1beta2."""
    as_json = ApiClient().sanitize_for_serialization
    shared = environment(pod, run_variable)
    variables = {
        **shared["env_vars"],
        "PYTHONSAFEPATH": "1",
    }  # the folder of the main file is no place for imports
    common = {
        "labels": shared["labels"],
        "env": [
            *({"name": name, "value": value} for name, value in variables.items()),
            *as_json([secret.to_env_secret() for secret in shared["secrets"]]),
        ],
        "volumeMounts": as_json(shared["volume_mounts"]),
        "podSecurityContext": as_json(shared["security_context"]),
    }
    driver = {
        "cores": spark.driver_cores,
        "memory": spark.driver_memory,
        "memoryOverhead": spark.driver_overhead,
        "serviceAccount": spark.service_account,
    }
    executor = {"instances": spark.executors, "cores": spark.cores, "memory": spark.memory}
    spec = {
        "type": "Python",
        "pythonVersion": "3",
        "sparkVersion": spark.version,
        "mode": "cluster",
        "image": spark.image,
        "mainApplicationFile": MAIN,
        "arguments": ["--config", f"{pod.mount_path}/config.yaml", *arguments],
        "restartPolicy": {"type": "Never"},  # Airflow retries
        "timeToLiveSeconds": 3600,
        "volumes": as_json(shared["volumes"]),
        "driver": {**common, **driver},
        "executor": {**common, **executor},
    }
    return {"apiVersion": "sparkoperator.k8s.io/v1beta2", "kind": "SparkApplication", "spec": spec}
