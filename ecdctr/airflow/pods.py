"""A step as a Kubernetes pod: the same `ecdctr` command as a local process, in the project's image.

Configuration, data and store lie on a shared volume claim; a store on object storage is used where
it is. A step that trains also gets the GPUs, the node selector and the tolerations. Secrets come by
reference, as environment variables. A pod template may override what is not set here. A level with
`shards` trains in as many pods as an indexed job.
"""

from __future__ import annotations

from typing import Any

from airflow.providers.cncf.kubernetes.operators.job import KubernetesJobOperator
from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.providers.cncf.kubernetes.secret import Secret
from airflow.sdk.exceptions import AirflowException
from kubernetes.client import models as k8s

from ecdctr.airflow.dates import Settings
from ecdctr.airflow.polling import poll
from ecdctr.config import Kubernetes

RESULT = "/airflow/xcom/return.json"  # where the provider's sidecar looks for a task's result
INDEX = "batch.kubernetes.io/job-completion-index"  # the annotation of a pod of an indexed job
USER = 1000  # the user of the Dockerfile


def pod_task(
    settings: Settings, arguments: list[str], gpu: bool, run_variable: str, common: dict[str, Any]
) -> KubernetesPodOperator:
    """Return the operator of one step; `common` are Airflow's own options."""
    return KubernetesPodOperator(
        **_options(settings, arguments, gpu, run_variable, common),
        termination_grace_period=30,
        startup_check_interval_seconds=min(
            5, settings.config.airflow.kubernetes.startup_timeout_seconds
        ),
        on_finish_action="delete_pod",  # after success, failure and kill
    )


def job_task(
    settings: Settings,
    arguments: list[str],
    processes: int,
    run_variable: str,
    common: dict[str, Any],
) -> TrainingJob:
    """Return the operator of a training in several pods.

    They meet at the first one of an indexed job.
    """
    pod = settings.config.airflow.kubernetes
    return TrainingJob(
        **_options(settings, arguments, True, run_variable, common),
        service=pod.service,
        port=pod.port,
        completions=processes,
        parallelism=processes,
        completion_mode="Indexed",
        # a lost pod ends them all; Airflow's retry goes on at their last saved step
        backoff_limit=0,
        ttl_seconds_after_finished=3600,
        wait_until_job_complete=True,
        job_poll_interval=min(10, pod.startup_timeout_seconds),
        on_finish_action="delete_pod",
    )


class TrainingJob(KubernetesJobOperator):
    """Pods with torchrun's environment.

    Rank by index, the first one's name in the headless service as the address.
    """

    def __init__(self, *, service: str, port: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.service, self.port = service, port

    def execute(self, context: Any) -> Any:
        """Run the job; all pods give the same result, one will do."""
        results = super().execute(context)
        return next((result for result in results if result), None)

    def build_job_request_obj(self, context: Any = None) -> k8s.V1Job:
        """Return the job, with what a pod needs to find the others."""
        job = super().build_job_request_obj(context)
        spec = job.spec.template.spec
        spec.subdomain = self.service
        spec.restart_policy = "Never"
        index = k8s.V1ObjectFieldSelector(field_path=f"metadata.annotations['{INDEX}']")
        container = next(one for one in spec.containers if one.name == self.base_container_name)
        container.env = [
            *(container.env or []),
            k8s.V1EnvVar(name="RANK", value_from=k8s.V1EnvVarSource(field_ref=index)),
            k8s.V1EnvVar(name="WORLD_SIZE", value=str(self.parallelism)),
            k8s.V1EnvVar(name="MASTER_ADDR", value=f"{job.metadata.name}-0.{self.service}"),
            k8s.V1EnvVar(name="MASTER_PORT", value=str(self.port)),
        ]
        return job

    def get_pods(self, pod_request_obj: k8s.V1Pod, context: Any, **_: Any) -> list[k8s.V1Pod]:
        """Return all pods, once they have a node and their image.

        Raises AirflowException when that takes too long. The provider asks a few times without a
        pause and then goes on with fewer pods.
        """
        labels = self._build_find_pod_label_selector(context, exclude_checked=True)
        counts: list[int] = []

        def started() -> list[k8s.V1Pod] | None:
            pods: list[k8s.V1Pod] = self.client.list_namespaced_pod(
                pod_request_obj.metadata.namespace, label_selector=labels
            ).items
            running = [pod for pod in pods if pod.status and pod.status.phase != "Pending"]
            counts.append(len(running))
            return pods if len(running) == self.parallelism else None

        if pods := poll(started, self.startup_timeout_seconds, 1):
            return pods
        self.on_kill()
        raise AirflowException(
            f"{counts[-1]} of {self.parallelism} training pods started within "
            f"{self.startup_timeout_seconds} s (kubernetes.startup_timeout_seconds); the "
            "job was deleted. Look for free nodes with the GPUs, and whether the image can "
            "be pulled."
        )


def _options(
    settings: Settings, arguments: list[str], gpu: bool, run_variable: str, common: dict[str, Any]
) -> dict[str, Any]:
    """Return what a pod of its own and the pods of a job have in common."""
    pod = settings.config.airflow.kubernetes
    store = (
        settings.store_path if isinstance(settings.store_path, str) else f"{pod.mount_path}/store"
    )
    return {
        **common,
        **environment(pod, run_variable),
        "name": name_of(common),
        "namespace": pod.namespace,
        "image": pod.image,
        "pod_template_file": str(pod.pod_template) if pod.pod_template else None,
        "cmds": ["ecdctr"],
        "arguments": [
            "--config",
            f"{pod.mount_path}/config.yaml",
            "--store",
            store,
            *arguments,
            "--result",
            RESULT,
        ],
        "container_resources": _resources(pod, gpu),
        "node_selector": pod.node_selector if gpu else {},
        "tolerations": [k8s.V1Toleration(**t.model_dump()) for t in pod.tolerations] if gpu else [],
        "service_account_name": pod.service_account,
        "startup_timeout_seconds": pod.startup_timeout_seconds,
        "do_xcom_push": True,
        "get_logs": True,
    }


def name_of(common: dict[str, Any]) -> str:
    """Return what a step's pods are called; the provider adds what makes it unique."""
    return f"ecdctr-{common['task_id'].replace('_', '-')}"


def environment(pod: Kubernetes, run_variable: str) -> dict[str, Any]:
    """Return what all pods run in, Spark's too.

    Labels, variables, secrets, the volume and the user.
    """
    return {
        "labels": {"app": "ecdctr", **pod.labels},
        "env_vars": {run_variable: "{{ dag.dag_id }}/{{ run_id }}", **pod.environment},
        "secrets": [
            Secret("env", name, secret.name, secret.key) for name, secret in pod.secrets.items()
        ],
        "volumes": [_volume(pod)],
        "volume_mounts": [k8s.V1VolumeMount(name="ecdctr", mount_path=pod.mount_path)],
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True, run_as_user=USER, fs_group=USER
        ),
    }


def _resources(pod: Kubernetes, gpu: bool) -> k8s.V1ResourceRequirements:
    limits = {"memory": pod.memory}
    if gpu and pod.gpus:
        limits[pod.gpu_resource] = str(pod.gpus)
    return k8s.V1ResourceRequirements(
        requests={"cpu": pod.cpu, "memory": pod.memory}, limits=limits
    )


def _volume(pod: Kubernetes) -> k8s.V1Volume:
    claim = k8s.V1PersistentVolumeClaimVolumeSource(claim_name=pod.volume_claim)
    return k8s.V1Volume(name="ecdctr", persistent_volume_claim=claim)
