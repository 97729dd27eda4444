"""The DAGs in a real Airflow: `dags test`, import cost, pod specification.

Backfills: live/test_backfill.py.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from ecdctr.airflow.commands import WARM
from ecdctr.airflow.dates import data_date, next_day
from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.config import Snapshots
from ecdctr.demo.run import plan_runs
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.airflow.dags_test import DagsTest, dags_test
from tests.conftest import DATE, REPOSITORY
from tests.make import write_config


@pytest.fixture(scope="module")
def heard() -> Iterator[tuple[int, list[str]]]:
    """Yield a port on loopback and what was sent there."""
    with statsd() as listening:
        yield listening


@pytest.fixture(scope="module")
def airflow(
    world: Path, warm: Path, database: Path, tmp_path_factory: pytest.TempPathFactory, heard
) -> Airflow:
    """Return one with a database, which tells a StatsD of its metrics; its steps are forked."""
    folder = tmp_path_factory.mktemp("airflow")
    config = write_config(folder / "config.yaml", world)
    made = Airflow(folder / "home", config, folder / "store", free_port())
    made.environment |= {
        WARM: str(warm),
        "AIRFLOW__METRICS__STATSD_ON": "True",
        "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
        "AIRFLOW__METRICS__STATSD_PORT": str(heard[0]),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(made.home / "plugins"),  # none: only DAGs are given
    }
    made.home.mkdir()
    shutil.copy(database, made.home)
    return made


@pytest.fixture(scope="module")
def dags(airflow: Airflow) -> Iterator[DagsTest]:
    """Yield what runs its DAGs as `airflow dags test` does."""
    with dags_test(airflow) as made:
        yield made


@pytest.fixture(scope="module")
def versions(airflow: Airflow) -> Store:
    return Store(airflow.environment["ECDCTR_STORE"])


@contextlib.contextmanager
def statsd() -> Iterator[tuple[int, list[str]]]:
    """Yield a port on loopback and what was sent there."""
    heard: list[str] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def listen() -> None:
            while (line := server.recv(65536).decode()) != "end":
                heard.append(line)

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], heard
        server.sendto(b"end", server.getsockname())
        thread.join()


@pytest.mark.airflow
def test_dags_test_runs_the_three_levels_the_gate_promotes_and_statsd_hears_of_it(
    airflow, dags, versions, heard
):
    """The first in a process of its own, as somebody types it; each is about the day it names."""
    airflow.command("dags", "test", "ecdctr_tpm", str(DATE - dt.timedelta(days=1)))
    for level in ("cpm", "actr"):
        done = dags.run(level, {})
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    gauges = {line.split(":")[0] for line in heard[1] if line.startswith("airflow.ecdctr.")}
    assert {
        "airflow.ecdctr.actr.gauc",
        "airflow.ecdctr.actr.promoted",
        "airflow.ecdctr.tpm.train_seconds",
    } <= gauges
    serving = versions.alias("serving")
    assert serving == Ref("production", "actr", DATE, "v0001")
    assert [ref.level for ref in versions.lineage(serving)] == ["actr", "cpm", "tpm"]


@pytest.mark.airflow
def test_dags_test_fails_with_the_reason_when_a_step_fails(dags, versions):
    done = dags.run("actr", {"data_date": str(DATE), "experiment": "empty", "variant": "no_tpm"})
    assert done.returncode != 0
    assert "train cpm with the same variant first" in done.stdout + done.stderr
    assert f"ECDCTR ALERT actr {DATE} in empty: train failed: " in done.stdout + done.stderr
    assert versions.versions("empty", "actr") == []


@pytest.mark.airflow
def test_an_ablation_runs_from_its_form(airflow, dags):
    conf = {
        "rows": ["ads_only", "full"],
        "seeds": "3",
        "eval_days": 1,
        "chain_days": 0,
        "world": "tiny",
        "workers": 1,
    }
    done = dags.run("ablation", conf)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    page = Store(airflow.environment["ECDCTR_STORE"]).study("ablation") / "study.md"
    assert "| full E-CDCTR |" in page.read_text()
    said = done.stdout + done.stderr
    assert re.search(r"name +ablation", said), "the task's button Study needs it"


@pytest.mark.airflow
def test_importing_the_dags_loads_nothing_heavy(airflow):
    code = """
import runpy, sys
for name in ("tpm", "cpm", "actr", "ablation", "forgetting"):
    runpy.run_path(f"dags/ecdctr_{name}.py")
heavy = ("torch", "duckdb", "pyarrow", "numpy", "kubernetes")
print([name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=airflow.environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.airflow
def test_kubernetes_execution_builds_a_pod_with_gpu_volume_and_the_same_command(world, tmp_path):
    config = write_config(
        tmp_path / "config.yaml",
        world,
        execution="kubernetes",
        kubernetes={"gpus": 2, "image": "r/e:1"},
    )
    code = """
import json
from ecdctr.airflow.pipeline import build_dag
dag = build_dag("actr")
pods = {}
for name in ("train", "validate_and_prepare"):
    operator = dag.get_task(name)
    pods[name] = operator.build_pod_request_obj().to_dict()["spec"] | {"pool": operator.pool}
print(json.dumps(pods, default=str))
"""
    cluster = {
        "name": "c",
        "cluster": {"server": "http://127.0.0.1:9"},
    }  # building a pod asks no server
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    access = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster]}
    access |= {"contexts": [context], "users": [{"name": "u", "user": {}}]}
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(access))
    environment = os.environ | {
        "KUBECONFIG": str(tmp_path / "kubeconfig"),
        "ECDCTR_CONFIG": str(config),
        "ECDCTR_STORE": str(tmp_path / "store"),
        "AIRFLOW_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pods = json.loads(done.stdout.splitlines()[-1])
    container = pods["train"]["containers"][0]
    assert container["image"] == "r/e:1"
    assert container["command"] == ["ecdctr"]
    assert container["args"][4:6] == ["train", "actr"]
    assert container["args"][-2:] == ["--result", "/airflow/xcom/return.json"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
    assert pods["train"]["pool"] == "gpu"
    volumes = {volume["name"]: volume for volume in pods["train"]["volumes"]}
    assert volumes["ecdctr"]["persistent_volume_claim"]["claim_name"] == "ecdctr"
    assert pods["train"]["security_context"]["run_as_non_root"] is True
    assert (
        "nvidia.com/gpu" not in pods["validate_and_prepare"]["containers"][0]["resources"]["limits"]
    )


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        taken = Airflow(tmp_path / "home", tmp_path / "config.yaml", tmp_path / "store", port)
        with pytest.raises(EcdctrError, match=f"Port {port} is taken"), taken.running():
            pass


def test_the_data_date_is_the_last_day_of_the_interval_unless_given():
    week = SimpleNamespace(data_interval_end=dt.datetime(2026, 1, 12, tzinfo=dt.UTC))
    assert data_date({"data_date": None}, week) == "2026-01-11"
    assert next_day({"data_date": None}, week) == "2026-01-12"
    assert data_date({"data_date": "2026-03-01"}, week) == "2026-03-01"
    with pytest.raises(ConfigError, match="set the param data_date"):
        data_date({}, SimpleNamespace(data_interval_end=None))


@pytest.mark.parametrize("param", [{"variant": "no_tpm"}, {"seed": 0}, {"hold_out_every": 5}])
def test_a_run_that_would_mix_other_models_into_production_is_refused_at_once(param):
    params = {"data_date": "2026-03-01", "experiment": "production", **param}
    with pytest.raises(ConfigError, match=f"{next(iter(param))}=.* cannot run in 'production'"):
        data_date(params, None)
    assert data_date(params | {"experiment": "mine"}, None) == "2026-03-01"


def test_the_demo_plan_has_every_parent_before_its_children():
    seen: set[str] = set()
    for run in plan_runs(dt.date(2026, 4, 30), 3, Snapshots()):
        assert set(run.after) <= seen
        seen.add(run.key)
    assert len(seen) == 18
