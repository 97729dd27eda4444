"""docker-compose.yaml: valid for Compose, safe by default, and its services run the three DAGs with PostgreSQL.

There is no container engine here, so the same commands with the same environment run as local processes; host names,
ports and paths of the containers are replaced.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecdctr.demo.run import free_port
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY
from tests.make import write_config

SECRETS = {
    "POSTGRES_PASSWORD": "pg-secret",
    "AIRFLOW_ADMIN_PASSWORD": "admin-secret",
    "AIRFLOW_FERNET_KEY": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "AIRFLOW_JWT_SECRET": "jwt-secret-of-a-test-of-thirty-two-bytes-or-more-for-hs512-0123456789",
    "ECDCTR_CONFIG_FILE": "./configs/compose.yaml",
}
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
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
    for missing in SECRETS:
        env.write_text(
            "".join(f"{name}={value}\n" for name, value in SECRETS.items() if name != missing)
        )
        done = compose_config(env)
        assert done.returncode != 0, missing
        assert missing in done.stderr


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
def postgres(port: int) -> Iterator[None]:
    """A PostgreSQL of its own on loopback, with a password; it refuses to run as root."""
    assert POSTGRES is not None
    become = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    folder = Path(tempfile.mkdtemp())  # pytest's folders are closed to the user postgres
    password = folder / "password"
    password.write_text(SECRETS["POSTGRES_PASSWORD"])
    if become:
        shutil.chown(folder, "postgres")
        shutil.chown(password, "postgres")
    data = folder / "data"
    subprocess.run(
        [*become, POSTGRES / "initdb", "-D", data, "-U", "airflow", "-A", "scram-sha-256", f"--pwfile={password}"],
        check=True, capture_output=True,
    )  # fmt: skip
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    )
    control = [*become, POSTGRES / "pg_ctl", "-D", data, "-w", "-l", folder / "log"]
    subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True)
    try:
        environment = os.environ | {"PGPASSWORD": SECRETS["POSTGRES_PASSWORD"]}
        create = [
            POSTGRES / "createdb",
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-U",
            "airflow",
            "airflow",
        ]
        subprocess.run(create, env=environment, check=True, capture_output=True)
        yield
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)
        shutil.rmtree(folder)


class Api:
    """Airflow's REST API as the admin."""

    def __init__(self, url: str) -> None:
        self.url, self.token = url, ""

    def text(self, path: str) -> str:
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.read().decode()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read() or b"null")

    def until(self, what: str, ready: Any, seconds: float = 240) -> Any:
        deadline, last = time.monotonic() + seconds, None
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                last = ready()
                if last:
                    return last
            time.sleep(0.5)
        pytest.fail(f"{what} did not happen within {seconds} s")


@pytest.mark.airflow
@pytest.mark.skipif(POSTGRES is None, reason="PostgreSQL's Debian package is not installed")
def test_the_services_of_compose_run_the_three_dags_with_postgresql(world, tmp_path):
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
        own = {
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
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_SERVER_PORT": str(ports["scheduler"]),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(ports["triggerer"]),
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(ports["worker"]),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        return os.environ | image | own | only_here

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

    with postgres(ports["postgres"]), contextlib.ExitStack() as stack:
        assert start("init").wait(120) == 0, (tmp_path / "init.log").read_text()[-2000:]
        assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
        for service in ("api-server", "scheduler", "dag-processor", "triggerer"):
            process = start(service)
            stack.callback(process.wait)
            stack.callback(os.killpg, process.pid, 9)
        api = Api(f"http://127.0.0.1:{ports['api']}")
        api.until("the API server's start", lambda: api.call("GET", "/api/v2/monitor/health"))
        for closed in ("/api/v2/dags", "/ecdctr/overview", "/ecdctr/experiments.csv"):
            with pytest.raises(urllib.error.HTTPError, match="401"):
                api.call("GET", closed)
        login = {"username": "admin", "password": SECRETS["AIRFLOW_ADMIN_PASSWORD"]}
        api.token = api.call("POST", "/auth/token", login)["access_token"]
        assert api.call("GET", "/api/v2/pools/gpu")["slots"] == 1
        names = [f"ecdctr_{level}" for level in ("tpm", "cpm", "actr")]
        api.until(
            "parsing",
            lambda: (
                {dag["dag_id"] for dag in api.call("GET", "/api/v2/dags")["dags"]} >= set(names)
            ),
        )
        for name in names:
            api.call("PATCH", f"/api/v2/dags/{name}", {"is_paused": False})
            run = {"dag_run_id": "compose", "logical_date": None, "conf": {"data_date": str(DATE)}}
            api.call("POST", f"/api/v2/dags/{name}/dagRuns", run)

            def ended(dag: str = name) -> str | None:
                state = api.call("GET", f"/api/v2/dags/{dag}/dagRuns/compose")["state"]
                return state if state in ("success", "failed") else None

            assert api.until(f"the run of {name}", ended) == "success"
        link = api.call(
            "GET", "/api/v2/dags/ecdctr_actr/dagRuns/compose/taskInstances/train/links"
        )["extra_links"]
        assert link == {"Version": f"/ecdctr/version/production/actr/{DATE}/v0001"}
        assert "dags/ecdctr_actr/runs/compose" in api.text(link["Version"])
        assert f"production/actr/{DATE}/v0001" in api.text("/ecdctr/overview")
    serving = Store(tmp_path / "store").alias("serving")
    assert serving is not None
    assert serving.date == DATE
