"""A step as a Kubernetes pod: the same `ecdctr` command as a local process, in the project's image.

Configuration, data and store lie on a shared volume claim; a store on object storage is used where it is. A step that
trains also gets the GPUs, the node selector and the tolerations. Secrets come by reference, as environment variables. A
pod template may override what is not set here.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from kubernetes.client import models as k8s

from ecdctr.config import Kubernetes
from ecdctr.orchestration.settings import Settings

RESULT = "/airflow/xcom/return.json"  # where the provider's sidecar looks for a task's result
USER = 1000  # the user of the Dockerfile


def pod_task(settings: Settings, arguments: list[str], gpu: bool, run_variable: str, common: dict[str, Any]) -> Any:
    """The operator of one step; `common` are Airflow's own options."""
    pod = settings.config.airflow.kubernetes
    store = settings.store_path if isinstance(settings.store_path, str) else f"{pod.mount_path}/store"
    return KubernetesPodOperator(
        **common,
        name=f"ecdctr-{common['task_id'].replace('_', '-')}",
        namespace=pod.namespace,
        image=pod.image,
        pod_template_file=str(pod.pod_template) if pod.pod_template else None,
        labels={"app": "ecdctr", **pod.labels},
        env_vars={run_variable: "{{ dag.dag_id }}/{{ run_id }}", **pod.environment},
        secrets=[Secret("env", name, secret.name, secret.key) for name, secret in pod.secrets.items()],
        cmds=["ecdctr"],
        arguments=[
            "--config",
            f"{pod.mount_path}/config.yaml",
            "--store",
            store,
            *arguments,
            "--result",
            RESULT,
        ],
        container_resources=_resources(pod, gpu),
        volumes=[_volume(pod)],
        volume_mounts=[k8s.V1VolumeMount(name="ecdctr", mount_path=pod.mount_path)],
        node_selector=pod.node_selector if gpu else {},
        tolerations=[k8s.V1Toleration(**t.model_dump()) for t in pod.tolerations] if gpu else [],
        service_account_name=pod.service_account,
        security_context=k8s.V1PodSecurityContext(run_as_non_root=True, run_as_user=USER, fs_group=USER),
        startup_timeout_seconds=pod.startup_timeout_seconds,
        startup_check_interval_seconds=min(5, pod.startup_timeout_seconds),
        termination_grace_period=30,
        do_xcom_push=True,
        get_logs=True,
        on_finish_action="delete_pod",  # after success, failure and kill
    )


def _resources(pod: Kubernetes, gpu: bool) -> k8s.V1ResourceRequirements:
    limits = {"memory": pod.memory}
    if gpu and pod.gpus:
        limits[pod.gpu_resource] = str(pod.gpus)
    return k8s.V1ResourceRequirements(requests={"cpu": pod.cpu, "memory": pod.memory}, limits=limits)


def _volume(pod: Kubernetes) -> k8s.V1Volume:
    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=pod.volume_claim)
    return k8s.V1Volume(name="ecdctr", persistent_volume_claim=claim)
