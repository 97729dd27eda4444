"""`./run demo` and `./run ui`: a local Airflow on the demo's configuration and store."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from ecdctr.config import Snapshots, load_config
from ecdctr.errors import EcdctrError
from ecdctr.impressions.days import available_dates

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "demo"
TRIES = 5
console = Console()


class Run(NamedTuple):
    """One DAG run of the demo and the runs that must be done before it."""

    level: str
    experiment: str
    variant: str
    date: dt.date
    after: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the run in the UI."""
        return f"demo_{self.level}_{self.experiment}_{self.date}"


def plan_runs(last: dt.date, days: int, wanted: Snapshots) -> list[Run]:
    """Every run of the demo: three levels for the full method, and A-CTR without TPM and without any transfer.

    CPM runs one day after the other, since it goes on from the day before.
    """
    dates = [last - dt.timedelta(days=back) for back in range(days, 0, -1)]
    first = dates[0]
    runs: list[Run] = []
    previous: tuple[str, ...] = ()
    for date in reversed(wanted.as_of(first)):
        run = Run("tpm", "production", "default", date, previous)
        previous = (run.key,)
        runs.append(run)
    before: dict[str, tuple[str, ...]] = {"no_tpm": (), "production": previous}
    for date in dates:
        runs.append(Run("actr", "ads_only", "ads_only", date, ()))
        for experiment, variant in (("no_tpm", "no_tpm"), ("production", "default")):
            cpm = Run("cpm", experiment, variant, date, before[experiment])
            runs += [cpm, Run("actr", experiment, variant, date, (cpm.key,))]
            before[experiment] = (cpm.key,)
    return runs


class Airflow:
    """A standalone Airflow on loopback with the project's DAGs."""

    def __init__(self, home: Path, config: Path, store: Path, port: int) -> None:
        self.home, self.port = home, port
        self.url = f"http://127.0.0.1:{port}"
        self.environment = os.environ | {
            # standalone starts its parts by the name "airflow"
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(home),
            # SQLite has one writer at a time: let the others wait for their turn
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=60",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",  # local demo, loopback only
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "ECDCTR_CONFIG": str(config),
            "ECDCTR_STORE": str(store),
        }

    def command(self, *arguments: str) -> None:
        """Run an airflow command, quiet unless it fails."""
        done = subprocess.run(  # noqa: S603
            [_airflow(), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EcdctrError(
                f"'airflow {' '.join(arguments)}' failed: {(done.stderr or done.stdout).strip()[-2000:]}"
            )

    def prepare(self) -> None:
        """Migrate the metadata database and create the training pool."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.command("db", "migrate")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start all components, wait until they are healthy, stop them at the end."""
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", self.port))
            except OSError:
                raise EcdctrError(
                    f"Port {self.port} is taken by another program; stop it, or choose another: ./run ui --port 8081"
                ) from None
        log = self.home / "standalone.log"
        with log.open("w") as file:
            process = subprocess.Popen(  # noqa: S603
                [_airflow(), "standalone"],
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            self._wait_healthy(process, log)
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """A request to Airflow's public API; raises EcdctrError with what it answers."""
        headers = {"Content-Type": "application/json"}
        if path != "/auth/token":
            headers["Authorization"] = f"Bearer {self._token()}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310  # loopback http
        for attempt in range(TRIES):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                if error.code != 500 or attempt == TRIES - 1:
                    said = error.read().decode()[:500]
                    raise EcdctrError(
                        f"Airflow refused {method} {path}: {error.code} {said}"
                    ) from None
                time.sleep(
                    1
                )  # SQLite was locked by another writer, and the transaction rolled back
        return None

    def _token(self) -> str:
        if not hasattr(self, "_cached"):
            self._cached = self.call("GET", "/auth/token")["access_token"]
        return self._cached

    def _wait_healthy(self, process: subprocess.Popen, log: Path) -> None:
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError, ValueError):
                address = f"{self.url}/api/v2/monitor/health"
                with urllib.request.urlopen(address, timeout=5) as answer:  # noqa: S310
                    health = json.loads(answer.read())
                if (
                    health["scheduler"]["status"] == "healthy"
                    and health["dag_processor"]["status"] == "healthy"
                ):
                    return
            time.sleep(1)
        raise EcdctrError(f"Airflow did not come up; its log is {log}:\n" + log.read_text()[-1500:])


def trigger_all(airflow: Airflow, runs: list[Run]) -> None:
    """Trigger each run as soon as those before it are done; raises EcdctrError when one fails."""
    waiting = {run.key: run for run in runs}
    state: dict[str, str] = {}
    moment = dt.datetime.now(dt.UTC)
    while len(state) < len(runs) or any(
        value not in ("success", "failed") for value in state.values()
    ):
        for key, run in list(waiting.items()):
            if all(state.get(before) == "success" for before in run.after):
                moment += dt.timedelta(milliseconds=1)
                conf = {
                    "data_date": str(run.date),
                    "experiment": run.experiment,
                    "variant": run.variant,
                }
                body = {"dag_run_id": key, "logical_date": moment.isoformat(), "conf": conf}
                airflow.call("POST", f"/api/v2/dags/ecdctr_{run.level}/dagRuns", body)
                state[key] = "queued"
                del waiting[key]
        for level in ("tpm", "cpm", "actr"):
            answer = airflow.call(
                "GET", f"/api/v2/dags/ecdctr_{level}/dagRuns?limit=100&order_by=-run_after"
            )
            for found in answer["dag_runs"]:
                key, value = found["dag_run_id"], found["state"]
                if key in state and state[key] != value:
                    state[key] = value
                    if value == "success":
                        done = sum(v == "success" for v in state.values())
                        console.print(
                            f"  [{done:2d}/{len(runs)}] {key.removeprefix('demo_')}",
                            highlight=False,
                        )
                    if value == "failed":
                        raise EcdctrError(
                            f"The run {key} failed; look at it with: ./run ui (DAG ecdctr_{level})"
                        )
        time.sleep(1)


def demo(days: int) -> None:
    """Simulate, run the DAGs, print the table, write the report and how long each step took."""
    config_path, store = ROOT / "configs" / "demo.yaml", HOME / "store"
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(HOME / "airflow", ignore_errors=True)
    config = load_config(config_path)
    steps = Steps()
    with steps.step("1/4  Simulate two domains, 120 days"):
        _ecdctr(config_path, store, "simulate", "--preset", "demo")
    with contextlib.ExitStack() as stack:
        with steps.step("2/4  Start Airflow"):
            airflow = Airflow(HOME / "airflow", config_path, store, free_port())
            airflow.prepare()
            stack.enter_context(airflow.running())
            airflow.call("POST", "/api/v2/pools", {"name": config.airflow.pool, "slots": 2})
            wait_for_dags(airflow)
        with steps.step(f"3/4  Run the three DAGs ({airflow.url} shows them now)"):
            last = available_dates(config.data.root, "ads")[-1]
            trigger_all(airflow, plan_runs(last, days, config.snapshots))
    with steps.step("4/4  Report"):
        _ecdctr(config_path, store, "report", "--out", str(HOME / "report.html"))
    (HOME / "timings.json").write_text(json.dumps(steps.seconds, indent=1))
    total = sum(steps.seconds.values())
    console.print(f"Done in {total:.0f} s. Airflow's web UI with these runs: [bold]./run ui[/]")


class Steps:
    """The demo's steps, named as they begin and timed."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Announce a step, and say how long it took."""
        console.print(title, style="bold", highlight=False)
        started = time.perf_counter()
        yield
        self.seconds[title.split("(")[0].strip()] = time.perf_counter() - started
        console.print(f"       {time.perf_counter() - started:.0f} s", style="dim")


def wait_for_dags(airflow: Airflow) -> None:
    """Wait until the three DAGs are parsed, then let them run when triggered."""
    deadline = time.monotonic() + 120
    wanted = {"ecdctr_tpm", "ecdctr_cpm", "ecdctr_actr"}
    while time.monotonic() < deadline:
        found = {dag["dag_id"] for dag in airflow.call("GET", "/api/v2/dags?limit=100")["dags"]}
        if wanted <= found:
            for dag_id in wanted:
                airflow.call(
                    "PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": False}
                )
            return
        time.sleep(1)
    errors = airflow.call("GET", "/api/v2/importErrors")["import_errors"]
    raise EcdctrError(
        f"Airflow did not find the DAGs in {ROOT / 'dags'}: {[e['stack_trace'][-400:] for e in errors]}"
    )


def ui(port: int) -> None:
    """Start Airflow's web UI on the demo's store and stay until interrupted."""
    airflow = Airflow(HOME / "airflow", ROOT / "configs" / "demo.yaml", HOME / "store", port)
    airflow.prepare()
    with airflow.running():
        names = [pool["name"] for pool in airflow.call("GET", "/api/v2/pools")["pools"]]
        if "gpu" not in names:
            airflow.call("POST", "/api/v2/pools", {"name": "gpu", "slots": 2})
        console.print(
            f"Airflow's web UI: [bold]{airflow.url}[/]  (Ctrl+C stops it; no login, loopback only)"
        )
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()


def free_port() -> int:
    """A port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _airflow() -> str:
    return str(Path(sys.executable).parent / "airflow")


def _ecdctr(config: Path, store: Path, *arguments: str) -> None:
    command = [
        sys.executable,
        "-m",
        "ecdctr.cli",
        "--config",
        str(config),
        "--store",
        str(store),
        *arguments,
    ]
    if subprocess.run(command, check=False).returncode:  # noqa: S603
        raise EcdctrError(f"'ecdctr {' '.join(arguments)}' failed; its message stands above.")


def main() -> None:
    """Entry point of ./run demo and ./run ui."""
    parser = argparse.ArgumentParser(prog="./run", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="the demo")
    run.add_argument("--days", type=int, default=3, help="evaluation days")
    show = commands.add_parser("ui", help="the web UI")
    show.add_argument("--port", type=int, default=8080)
    arguments = parser.parse_args()
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that a stopped demo stops its Airflow, too
    try:
        demo(arguments.days) if arguments.command == "run" else ui(arguments.port)
    except EcdctrError as error:
        print(f"./run: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
