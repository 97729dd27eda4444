"""docker-compose.yaml: valid for Compose, safe by default.

And its services run the three DAGs with PostgreSQL. There is no container engine here, so the same
commands with the same environment run as local processes; host names, ports and paths of the
containers are replaced.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg2
import pytest
import yaml

from ecdctr.airflow.api import ENDED, Api
from ecdctr.airflow.commands import WARM
from ecdctr.airflow.postgres import missing, postgres
from ecdctr.airflow.standalone import free_port
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY
from tests.make import logs_of_failed, until, write_config

SECRETS = {
    "POSTGRES_PASSWORD": "pg-secret",
    "AIRFLOW_ADMIN_PASSWORD": "admin-secret",
    "AIRFLOW_FERNET_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "AIRFLOW_JWT_SECRET": "jwt-secret-of-a-test-of-thirty-two-bytes-or-more-for-hs512-0123456789",
    "ECDCTR_CONFIG_FILE": "./configs/compose.yaml",
}
COMPOSE = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())


def compose_config(env: Path) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in SECRETS}
    command = [
        "docker-compose",
        "-f",
        str(REPOSITORY / "docker-compose.yaml"),
        "--env-file",
        str(env),
        "config",
    ]
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="docker-compose is not installed")
def test_compose_accepts_the_file_and_asks_for_every_secret(tmp_path):
    env = tmp_path / "env"
    env.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
    done = compose_config(env)
    assert done.returncode == 0, done.stderr
    for name_left_out in SECRETS:
        env.write_text(
            "".join(f"{name}={value}\n" for name, value in SECRETS.items() if name != name_left_out)
        )
        done = compose_config(env)
        assert done.returncode != 0, name_left_out
        assert name_left_out in done.stderr


def test_compose_opens_ports_on_loopback_only_and_holds_no_secret():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    text = (REPOSITORY / "docker-compose.yaml").read_text()
    for line in re.findall(r".*(?:PASSWORD|SECRET|FERNET_KEY|SQL_ALCHEMY_CONN):.*", text):
        assert ":?see .env.example}" in line, line
    example = (REPOSITORY / ".env.example").read_text()
    assert {name for name in SECRETS if f"{name}=" in example} == set(SECRETS)
    assert not re.search(r"^(?!ECDCTR_CONFIG_FILE)\w+=.+$", example, re.MULTILINE)
    assert re.search(r"^USER (?!root)\w+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)


@contextlib.contextmanager
def with_password(data: Path, port: int) -> Iterator[None]:
    """Yield a PostgreSQL on loopback that asks for a password, as the one of Compose does."""
    with (
        postgres(data, port) as url,
        contextlib.closing(psycopg2.connect(url.replace("+psycopg2", ""))) as connection,
    ):
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("alter role airflow password %s", (SECRETS["POSTGRES_PASSWORD"],))
            cursor.execute("create database airflow")
            (data / "pg_hba.conf").write_text(
                "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
            )
            cursor.execute("select pg_reload_conf()")
        yield


@pytest.mark.airflow
@pytest.mark.skipif(missing() is not None, reason="PostgreSQL from the wheel does not run here")
def test_the_services_of_compose_run_the_three_dags_with_postgresql(world, warm, tmp_path):
    ports = {name: free_port() for name in ("postgres", "api", "scheduler", "triggerer", "worker")}
    home = tmp_path / "airflow"
    home.mkdir()
    config = write_config(tmp_path / "config.yaml", world)

    def local(text: str) -> str:
        for name, value in SECRETS.items():
            text = re.sub(rf"\$\{{{name}:[^}}]*\}}", value, text)
        text = text.replace("@postgres:5432", f"@127.0.0.1:{ports['postgres']}")
        text = text.replace("http://api-server:8080", f"http://127.0.0.1:{ports['api']}")
        return text.replace("/ecdctr/config.yaml", str(config)).replace("/ecdctr/", f"{tmp_path}/")

    def environment(service: str) -> dict[str, str]:
        of_service = {
            name: local(value)
            for name, value in COMPOSE["services"][service]["environment"].items()
        }
        image = dict(re.findall(r"(AIRFLOW__\w+)=(\S+)", (REPOSITORY / "Dockerfile").read_text()))
        image = {
            name: value.replace("/opt/ecdctr", str(REPOSITORY)) for name, value in image.items()
        }
        only_here = {
            "AIRFLOW__API__PORT": str(ports["api"]),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__WORKERS": "1",
            WARM: str(warm),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(ports["scheduler"]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["triggerer"]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["worker"]),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return os.environ | image | of_service | only_here

    def start(service: str) -> subprocess.Popen:
        log = (tmp_path / f"{service}.log").open("w")
        command = COMPOSE["services"][service]["command"]
        return subprocess.Popen(
            command,
            env=environment(service),
            cwd=REPOSITORY,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    with with_password(tmp_path / "postgres", ports["postgres"]), contextlib.ExitStack() as stack:
        assert start("init").wait(900) == 0, (tmp_path / "init.log").read_text()[-2000:]
        assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
        for service in ("api-server", "scheduler", "dag-processor", "triggerer"):
            process = start(service)
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, 9)
        url = f"http://127.0.0.1:{ports['api']}"
        api = Api(
            url, {"username": "admin", "password": SECRETS["AIRFLOW_ADMIN_PASSWORD"]}, patience=900
        )
        api.text("/api/v2/monitor/health")
        for closed in ("/api/v2/dags", "/ecdctr/overview", "/ecdctr/experiments.csv"):
            assert httpx.get(url + closed, trust_env=False, timeout=60).status_code == 401
        assert api.call("GET", "/api/v2/pools/gpu")["slots"] == 1
        dates = {"ecdctr_tpm": DATE - dt.timedelta(days=1), "ecdctr_cpm": DATE, "ecdctr_actr": DATE}

        def parsed() -> bool:
            return {dag["dag_id"] for dag in api.all("/api/v2/dags", "dags")} >= set(dates)

        def state(name: str) -> str:
            return str(api.runs(name)["compose"]["state"])

        until(parsed, "the DAGs were not parsed", pause=0.5)
        for name, date in dates.items():
            api.unpause([name])
            api.trigger(name, "compose", {"data_date": str(date)})
            until(lambda name=name: state(name) in ENDED, f"the run of {name} goes on", pause=0.5)
            log = tmp_path / "scheduler.log"
            assert state(name) == "success", logs_of_failed(api, home, log, name, "compose")
        link = api.call(
            "GET", "/api/v2/dags/ecdctr_actr/dagRuns/compose/taskInstances/train/links"
        )["extra_links"]
        assert link["Version"] == f"/ecdctr/version/production/actr/{DATE}/v0001"
        assert "dags/ecdctr_actr/runs/compose" in api.text(link["Version"])
        assert f"production/actr/{DATE}/v0001" in api.text("/ecdctr/overview")
    serving = Store(tmp_path / "store").alias("serving")
    assert serving is not None
    assert serving.date == DATE
