"""Training as pods, end to end against a double of the pod API.

The pod requests against the API's own models.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.config import load_config
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.airflow.cluster import Cluster
from tests.airflow.dags_test import DagsTest, dags_test
from tests.conftest import DATE, REPOSITORY
from tests.make import quick_spark, write_config

pytestmark = pytest.mark.airflow
BEFORE = DATE - dt.timedelta(days=1)  # a TPM that the impressions of DATE may know
SETTINGS: dict[str, Any] = {
    "image": "registry/ecdctr:1",
    "namespace": "ml",
    "gpus": 2,
    "node_selector": {"pool": "gpu"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "secrets": {"DATA_TOKEN": {"name": "data-access", "key": "token"}},
    "environment": {"OMP_NUM_THREADS": "1"},
    "startup_timeout_seconds": 6,
}


class Pods:
    """An Airflow without a scheduler whose DAGs run on the double."""

    def __init__(self, airflow: Airflow, cluster: Cluster, dags: DagsTest) -> None:
        self.airflow, self.cluster, self.dags = airflow, cluster, dags
        self.store = Store(airflow.environment["ECDCTR_STORE"])

    def run(self, level: str, **conf: Any) -> subprocess.CompletedProcess[str]:
        self.cluster.created.clear()
        self.cluster.deleted.clear()
        return self.dags.run(level, {"data_date": str(DATE), **conf})

    def pod(self, task: str) -> dict[str, Any]:
        return next(
            pod
            for pod in self.cluster.created
            if pod["metadata"]["name"].startswith(f"ecdctr-{task}")
        )


@pytest.fixture(scope="module")
def pods(
    world: Path, warm: Path, database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pods]:
    folder = tmp_path_factory.mktemp("pods")
    mount = folder / "mount"
    mount.mkdir()
    template = {"apiVersion": "v1", "kind": "Pod", "metadata": {"annotations": {"team": "ads"}}}
    template |= {"spec": {"containers": [{"name": "base"}], "priorityClassName": "training"}}
    (folder / "template.yaml").write_text(yaml.safe_dump(template))
    settings = SETTINGS | {"pod_template": str(folder / "template.yaml")}
    config = write_config(mount / "config.yaml", world, execution="kubernetes", kubernetes=settings)
    cluster = Cluster(folder / "pods", mount, {"data-access": {"token": "s3cr3t"}}, warm)
    with cluster.serving(free_port()):
        airflow = Airflow(folder / "home", config, mount / "store", free_port())
        airflow.environment["KUBECONFIG"] = str(cluster.kubeconfig(folder / "kubeconfig"))
        airflow.home.mkdir()
        shutil.copy(database, airflow.home)
        with dags_test(airflow) as dags:
            yield Pods(airflow, cluster, dags)


@pytest.fixture(scope="module")
def tpm(pods: Pods) -> subprocess.CompletedProcess[str]:
    """Return the weekly DAG of the day before the others, every step a pod."""
    done = pods.run("tpm", data_date=str(BEFORE))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done


def test_every_step_runs_as_a_pod_and_hands_on_its_result(pods, tpm):
    names = [pod["metadata"]["name"] for pod in pods.cluster.created]
    assert [name.split("-")[1] for name in names] == [
        "validate",
        "train",
        "evaluate",
    ]
    ref = Ref("production", "tpm", BEFORE, "v0001")
    assert pods.store.alias("serving", level="tpm") == ref
    assert pods.store.manifest(ref).airflow_run.startswith("ecdctr_tpm/manual")


def test_the_log_of_a_pod_reaches_airflow_and_the_pod_is_deleted(pods, tpm):
    assert "train tpm: 42,000 to do" in tpm.stdout + tpm.stderr
    assert sorted(pods.cluster.deleted) == sorted(
        pod["metadata"]["name"] for pod in pods.cluster.created
    )
    assert pods.cluster.pods == {}


def test_a_training_pod_asks_for_gpus_nodes_and_secrets_by_reference(pods, tpm):
    spec = pods.pod("train")["spec"]
    container = next(c for c in spec["containers"] if c["name"] == "base")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    secret = next(variable for variable in container["env"] if variable["name"] == "DATA_TOKEN")
    assert secret["valueFrom"]["secretKeyRef"] == {"name": "data-access", "key": "token"}
    assert "s3cr3t" not in json.dumps(pods.cluster.created) + tpm.stdout + tpm.stderr
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["priorityClassName"] == "training"
    assert pods.pod("train")["metadata"]["annotations"]["team"] == "ads"
    light = pods.pod("validate-and-prepare")["spec"]
    assert "nvidia.com/gpu" not in light["containers"][0]["resources"]["limits"]
    assert not light.get("nodeSelector")
    assert not light.get("tolerations")


def test_an_evicted_training_is_retried_and_goes_on(pods, tpm):
    config = Path(pods.airflow.environment["ECDCTR_CONFIG"])
    raw = yaml.safe_load(config.read_text())
    config.write_text(
        yaml.safe_dump(raw | {"airflow": raw["airflow"] | {"retries": 1, "retry_seconds": 1}})
    )
    pods.cluster.faults.append(("train", "evict"))
    try:
        done = pods.run("cpm")
    finally:
        config.write_text(yaml.safe_dump(raw))
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    trained = [pod for pod in pods.cluster.created if "-train-" in pod["metadata"]["name"]]
    assert len(trained) == 2
    assert [ref.version for ref in pods.store.versions("production", "cpm")] == ["v0001"]
    assert pods.store.verify() == []
    assert pods.cluster.pods == {}


@pytest.mark.parametrize(
    ("fault", "words"), [("image_pull", "ErrImagePull"), ("no_node", "took too long")]
)
def test_a_pod_that_cannot_start_fails_with_the_reason_and_is_deleted(pods, tpm, fault, words):
    pods.cluster.faults.append(("train", fault))
    done = pods.run("tpm", experiment=fault.replace("_", "-"), force=True)
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert words in output, output[-3000:]
    assert f"ECDCTR ALERT tpm {DATE} in {fault.replace('_', '-')}: train failed" in output
    assert pods.store.versions(fault.replace("_", "-"), "tpm") == []
    assert pods.cluster.pods == {}


def test_a_task_that_is_killed_takes_its_pod_along(pods, monkeypatch):
    """What Airflow calls when a task is killed, cleared or its worker stops."""
    from ecdctr.airflow.dates import load_settings
    from ecdctr.airflow.operators import command_task

    for name in ("ECDCTR_CONFIG", "ECDCTR_STORE"):
        monkeypatch.setenv(name, pods.airflow.environment[name])
    operator = command_task(
        load_settings(), "train", ["train", "cpm", "--date", str(DATE)], gpu=True
    )
    operator.config_file = pods.airflow.environment["KUBECONFIG"]
    request = operator.build_pod_request_obj()
    operator.pod = operator.client.create_namespaced_pod("ml", request)
    pod = pods.cluster.pods[request.metadata.name]
    assert pod.process.poll() is None
    operator.on_kill()
    assert request.metadata.name in pods.cluster.deleted
    assert pod.process.wait() != 0
    assert pods.store.versions("production", "cpm") in (
        [],
        [Ref("production", "cpm", DATE, "v0001")],
    )


@pytest.fixture
def sharded(pods: Pods) -> Iterator[None]:
    """TPM trains in two pods; the store is where its own versions lie."""
    config = Path(pods.airflow.environment["ECDCTR_CONFIG"])
    raw = yaml.safe_load(config.read_text())
    settings = raw["airflow"]["kubernetes"] | {"startup_timeout_seconds": 60, "port": free_port()}
    changed = {
        "tpm": raw["tpm"] | {"shards": 2},
        "airflow": raw["airflow"] | {"kubernetes": settings},
    }
    config.write_text(yaml.safe_dump(raw | changed))
    yield
    config.write_text(yaml.safe_dump(raw))


def test_a_level_with_shards_trains_in_as_many_pods_of_an_indexed_job(pods, sharded):
    done = pods.run("tpm", experiment="sharded")
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    trained = [pod for pod in pods.cluster.created if "-train-" in pod["metadata"]["name"]]
    assert len(trained) == 2
    for pod in trained:
        base = next(one for one in pod["spec"]["containers"] if one["name"] == "base")
        assert base["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert pod["spec"]["subdomain"] == "ecdctr"
    assert [ref.version for ref in pods.store.versions("sharded", "tpm")] == ["v0001"]
    assert pods.store.verify() == []
    assert pods.cluster.pods == {}


@pytest.fixture
def on_spark(pods: Pods, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """CPM's examples are made by Spark applications, in a folder of their own; one retry.

    Yields the folder.
    """
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("SPARK_CONF_DIR", str(quick_spark(tmp_path)))
    config = Path(pods.airflow.environment["ECDCTR_CONFIG"])
    raw = yaml.safe_load(config.read_text())
    prepared = config.parent / "prepared-by-spark"
    kubernetes = raw["airflow"]["kubernetes"] | {
        "spark": {"executors": 3},
        "startup_timeout_seconds": 60,
    }
    changed = {
        "data": raw["data"] | {"engine": "spark", "prepared": str(prepared), "lookback_days": 1},
        "cpm": raw["cpm"] | {"window_days": 2},
        "airflow": raw["airflow"] | {"kubernetes": kubernetes, "retries": 1, "retry_seconds": 1},
    }
    config.write_text(yaml.safe_dump(raw | changed))
    yield prepared
    config.write_text(yaml.safe_dump(raw))


def test_preparation_is_a_spark_application_and_one_that_is_evicted_is_made_again(
    pods, tpm, on_spark
):
    pods.cluster.faults.append(("prepare", "evict"))
    done = pods.run("cpm", experiment="spark")
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-4000:]
    drivers = [
        pod["metadata"]["name"]
        for pod in pods.cluster.created
        if pod["metadata"]["name"].endswith("-driver")
    ]
    assert [name.rpartition("-")[0].rpartition("-")[0] for name in drivers] == [
        "ecdctr-validate-and-prepare",
        "ecdctr-validate-and-prepare",  # again, after the first one's eviction
        "ecdctr-prepare-next-day",
    ]
    assert [app["spec"]["executor"]["instances"] for app in pods.cluster.submitted] == [3, 3, 3]
    assert "prepare natural: 2 to do" in output  # the driver's log is the task's
    rows = [path for path in on_spark.rglob("*.parquet") if ".clicks." not in path.name]
    assert len(rows) == 3
    assert [ref.version for ref in pods.store.versions("spark", "cpm")] == ["v0001"]
    assert "s3cr3t" not in json.dumps(pods.cluster.submitted) + output
    assert pods.cluster.applications == {}
    assert pods.cluster.pods == {}


def test_a_refused_command_fails_the_task_with_its_sentence(pods, tpm):
    config = load_config(Path(pods.airflow.environment["ECDCTR_CONFIG"]))
    train_cpm(Request(config, pods.store, DATE))  # with snapshots, which the variant is without
    done = pods.run("actr", experiment="refused", variant="no_tpm")
    assert done.returncode != 0
    assert "train cpm with the same variant first" in done.stdout + done.stderr
    assert pods.cluster.pods == {}


def test_the_manifests_of_the_documentation_are_kubernetes_objects():
    from kubernetes.client import ApiClient

    from tests.airflow.cluster import _Body

    text = (REPOSITORY / "docs" / "kubernetes.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    objects = [
        one
        for block in blocks
        for one in yaml.safe_load_all(block)
        if isinstance(one, dict) and "kind" in one
    ]
    kinds = {
        "Namespace": "V1Namespace",
        "PersistentVolumeClaim": "V1PersistentVolumeClaim",
        "Secret": "V1Secret",
        "ServiceAccount": "V1ServiceAccount",
        "Service": "V1Service",
        "Role": "V1Role",
        "RoleBinding": "V1RoleBinding",
        "Pod": "V1Pod",
    }
    assert {one["kind"] for one in objects} >= {
        "PersistentVolumeClaim",
        "Role",
        "RoleBinding",
        "ServiceAccount",
    }
    for one in objects:
        ApiClient().deserialize(_Body(one), kinds[one["kind"]])
