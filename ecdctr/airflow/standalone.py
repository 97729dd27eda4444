"""A local Airflow with the project's DAGs, for `./run demo`, `./run ui` and the tests.

Started, driven, ended. Its metadata is a PostgreSQL from a wheel. On SQLite, which has one writer
at a time, Airflow's own parts block each other ("database is locked", an API that is silent for a
minute, schedulers that end); it is left for `airflow dags test`, which has one process, and for
machines without a wheel.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import httpx
import psutil

from ecdctr.airflow.api import ENDED, Api
from ecdctr.airflow.commands import WARM
from ecdctr.airflow.polling import poll
from ecdctr.airflow.postgres import missing, postgres, running_url
from ecdctr.config.terms import LEVELS, dag_of
from ecdctr.console import log
from ecdctr.errors import EcdctrError

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = {
    "api-server": [],
    "scheduler": [
        "--skip-serve-logs"
    ],  # the API server reads the files; a log server would need a fixed port
    "dag-processor": [],
    "triggerer": ["--skip-serve-logs"],
}
# what it forks tasks with knows the DAGs' modules, which each task would load
OF_PART = {"scheduler": {"AIRFLOW__CORE__LAZY_LOAD_PLUGINS": "False"}}
START_SECONDS = 600  # a busy machine takes minutes; what ends is noticed at once
MARK = "ECDCTR_STANDALONE"  # in the environment of every process of a running Airflow: its home


class Airflow:
    """A local Airflow on loopback. `api` drives it while it is running.

    Without `scheduled` its DAGs have no runs but those that somebody starts. With `warm` its steps
    are forked by a process that has loaded their libraries, which sees no code changed meanwhile.
    Its settings are its own, and what `airflow.cfg` in its home says: those of another Airflow that
    this shell may have (AIRFLOW__…) would take it to that one's database.
    """

    def __init__(
        self,
        home: Path,
        config: Path,
        store: Path,
        port: int,
        scheduled: bool = True,
        warm: bool = False,
    ) -> None:
        self.home, self.port, self.warm = home, port, warm
        self.url = f"http://127.0.0.1:{port}"
        self.api = Api(self.url, alive=self.check_alive)
        self.log = home / "standalone.log"
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = _without_other_airflows() | {
            "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout=5",
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PARALLELISM": "4",
            # a local demo, loopback only
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE": str(scheduled),
            # 5: as long does a task that is done hold its slot
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            # on a busy machine the API answers late: a task waits instead of failing (5 s, 5
            # times)
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "60",
            "AIRFLOW__WORKERS__EXECUTION_API_RETRIES": "10",
            "ECDCTR_CONFIG": str(config),
            "ECDCTR_STORE": str(store),
            # Airflow renames its processes; this keeps their environment readable (MARK)
            "SPT_NOENV": "1",
        }

    def command(self, *arguments: str) -> None:
        """Run an airflow command, quiet unless it fails; raises EcdctrError with what it said."""
        done = subprocess.run(  # a list, no shell
            [_airflow(), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise EcdctrError(
                f"'airflow {' '.join(arguments)}' failed: "
                f"{(done.stderr or done.stdout).strip()[-2000:]}"
            )

    def call(self, arguments: list[str]) -> int:
        """Run an airflow command with this terminal; return its exit code."""
        command = [_airflow(), *arguments]
        return subprocess.run(
            command, env=self.environment, check=False
        ).returncode  # a list, no shell

    def migrate(self) -> None:
        """Make the metadata database, or bring it up to date.

        On SQLite unless the Airflow is running. A PostgreSQL that this version of Airflow has
        migrated says so in a file of its own, which saves each later start some seconds.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        note, version = self.home / "postgres" / "migrated-by", metadata.version("apache-airflow")
        if self.on_postgres and note.exists() and note.read_text("utf-8") == version:
            return
        self.command("db", "migrate")
        if self.on_postgres:
            note.write_text(version, "utf-8")

    @property
    def on_postgres(self) -> bool:
        """Tell whether the metadata are on PostgreSQL now, not on SQLite."""
        return self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].startswith("postgresql")

    @contextlib.contextmanager
    def database(self) -> Iterator[None]:
        """Have the metadata database at hand for `command`, a running Airflow's or started here."""
        data = self.home / "postgres"
        with contextlib.ExitStack() as stack:
            if missing() is None:
                url = running_url(data) or stack.enter_context(postgres(data))
                self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
            yield

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Start database and components, wait until they are healthy.

        At the end stop all they have started. Raises EcdctrError when the port is taken, or with
        the end of the log when something does not come up.
        """
        _refuse_taken(self.port)
        self.home.mkdir(parents=True, exist_ok=True)
        self.kill()  # of one that was killed
        stack = contextlib.ExitStack()
        try:
            stack.enter_context(self.database())
            stack.callback(self.stop)
            if self.warm:  # begun first: it loads its libraries while the database is made
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ecdctr-"))
                self.environment[WARM] = f"{folder}/warm"
                self._start(
                    "warm process", sys.executable, "-P", "-m", "ecdctr.cli.warm", f"{folder}/warm"
                )
            self.migrate()
            for name, options in COMPONENTS.items():
                self._start(name, _airflow(), name, *options)
            self._wait_healthy()
            yield
        finally:
            with uninterrupted():
                stack.close()

    def _start(self, name: str, *command: str) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            self._parts[name] = subprocess.Popen(  # a list, no shell
                [*_ending_with_us(), *command],
                env=self.environment | OF_PART.get(name, {}) | {MARK: str(self.home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def stop(self, patience: float = 5) -> None:
        """End every process of this Airflow, also those in sessions of their own.

        Kill what does not listen.
        """
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.terminate()
        psutil.wait_procs(self.processes(), timeout=patience)
        self.kill()

    def processes(self) -> list[psutil.Process]:
        """Return every living process of this Airflow, by the mark in its environment."""
        marked = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if (
                    process.environ().get(MARK) == str(self.home)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    marked.append(process)
        return marked

    def wait_for_dags(self, *names: str) -> None:
        """Wait until these DAGs (by default the levels') are parsed, then unpause them.

        Raises EcdctrError with the import errors when one does not appear.
        """
        dag_ids = {dag_of(name) for name in names or LEVELS}
        if poll(lambda: self._parsed(dag_ids), START_SECONDS, 0.5, self.check_alive):
            self.api.unpause(sorted(dag_ids))
            return
        errors = self.api.all("/api/v2/importErrors", "import_errors")
        reasons = [error["stack_trace"][-400:] for error in errors]
        raise EcdctrError(
            f"Airflow did not find the DAGs {sorted(dag_ids)} in {ROOT / 'dags'}: {reasons}"
        )

    def wait_for_run(self, dag_id: str, run_id: str, seconds: float = 600) -> str:
        """Wait until a run has ended; return its state.

        Raises EcdctrError when it has not after `seconds`, or when Airflow has ended meanwhile.
        """
        path = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"

        def ended() -> str | None:
            state = str(self.api.call("GET", path)["state"])
            return state if state in ENDED else None

        if state := poll(ended, seconds, 1, self.check_alive):
            return state
        raise EcdctrError(
            f"The run {run_id} of {dag_id} has not ended after {seconds:.0f} s; its log: {self.log}"
        )

    def check_alive(self) -> None:
        """Raise EcdctrError if a component has ended."""
        for name, process in self._parts.items():
            if process.poll() is not None:
                raise EcdctrError(
                    f"Airflow's {name} has ended (exit code {process.returncode}); the end of "
                    f"{self.log}:\n{self.log.read_text('utf-8', 'replace')[-1500:]}"
                )

    def kill(self) -> None:
        """End everything at once and without warning."""
        while (
            alive := self.processes()
        ):  # again, until none of them has started another one meanwhile
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(alive, timeout=5)
        for part in self._parts.values():
            part.kill()
            part.wait()
        self._parts.clear()

    def _parsed(self, dag_ids: set[str]) -> bool | None:
        there = {dag["dag_id"] for dag in self.api.all("/api/v2/dags", "dags")}
        return dag_ids <= there or None

    def _wait_healthy(self) -> None:
        if poll(self._healthy, START_SECONDS, 0.25, self.check_alive):
            return
        tail = self.log.read_text("utf-8", "replace")[-1500:]
        raise EcdctrError(
            f"Airflow did not come up within {START_SECONDS} s; the end of {self.log}:\n{tail}"
        )

    def _healthy(self) -> bool | None:
        with contextlib.suppress(httpx.HTTPError, ValueError, KeyError):
            url = f"{self.url}/api/v2/monitor/health"
            health = httpx.get(url, timeout=10, trust_env=False).json()
            parts = ("scheduler", "dag_processor", "triggerer")
            return all(health[part]["status"] == "healthy" for part in parts) or None
        return None


def _without_other_airflows() -> dict[str, str]:
    """Return this shell's environment without settings of Airflow, which are told if there are."""
    settings = sorted(name for name in os.environ if name.startswith("AIRFLOW__"))
    if settings:
        said = "settings of another Airflow are left out (use airflow.cfg in this one's home)"
        log(f"{said}: {', '.join(settings)}")
    return {name: value for name, value in os.environ.items() if name not in settings}


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let an impatient second Ctrl+C or SIGTERM not break into the block, which must be short."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        name: signal.signal(name, signal.SIG_IGN)
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def free_port() -> int:
    """Return a port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _refuse_taken(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise EcdctrError(
                f"Port {port} is taken by another program; stop it, or choose another: ./run ui "
                "--port 8081"
            ) from None


def _ending_with_us() -> list[str]:
    """Return what makes a child end when this process is killed, where the system can."""
    return ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []


def _airflow() -> str:
    return str(Path(sys.executable).parent / "airflow")
