"""The local Airflow of demo and tests.

Its database, its patience with the API, and that nothing of it is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import psutil
import psycopg2
import pytest

from ecdctr.airflow.api import Api, RefusedError
from ecdctr.airflow.postgres import _programs, missing, postgres, running_url
from ecdctr.airflow.standalone import MARK, Airflow, free_port
from ecdctr.console import log_to_stderr
from ecdctr.errors import EcdctrError
from ecdctr.files.durable import locked
from tests.conftest import REPOSITORY
from tests.make import until

needs_wheel = pytest.mark.skipif(
    missing() is not None, reason="PostgreSQL from the wheel does not run here"
)


@contextlib.contextmanager
def server(
    answer: Callable[[BaseHTTPRequestHandler, list[str]], None],
) -> Iterator[tuple[str, list[str]]]:
    """Yield an HTTP server that answers as told, and the requests that it got."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def respond(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path == "/auth/token":
                return say(self, 200, b'{"access_token": "t"}')
            asked.append(f"{self.command} {self.path}")
            return answer(self, asked)

        do_GET = do_POST = do_PATCH = respond

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}", asked
        http.shutdown()


def say(handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def test_a_request_is_repeated_while_the_server_fails_or_hangs_up():
    def answer(handler: BaseHTTPRequestHandler, asked: list[str]) -> None:
        if len(asked) == 1:
            say(handler, 503, b"busy")
        elif len(asked) == 2:
            handler.close_connection = True  # no answer at all
        else:
            say(handler, 200, b'{"state": "success"}')

    with server(answer) as (url, asked):
        assert Api(url).call("GET", "/api/v2/x") == {"state": "success"}
    assert asked == ["GET /api/v2/x"] * 3


def test_a_server_that_never_answers_well_ends_in_one_sentence():
    sentence = r"did not do GET /api/v2/x within 1 s \(ServerError: 500 no luck\)"
    with (
        server(lambda handler, _: say(handler, 500, b"no luck")) as (url, _),
        pytest.raises(EcdctrError, match=sentence),
    ):
        Api(url, patience=1).call("GET", "/api/v2/x")
    with pytest.raises(EcdctrError, match="Connection refused"):
        Api(url, patience=1).call("GET", "/api/v2/x")


def test_an_airflow_has_nothing_of_another_one_that_the_shell_is_set_up_for(
    tmp_path, monkeypatch, capsys
):
    """A colleague's shell points at the team's database; a demo must not write there."""
    foreign = "postgresql+asyncpg://team@database/airflow"
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC", foreign)
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    monkeypatch.setenv("AIRFLOW_CONFIG", "/etc/airflow/airflow.cfg")
    log_to_stderr()
    made = Airflow(tmp_path, tmp_path / "config.yaml", tmp_path / "store", free_port())
    assert foreign not in made.environment.values()
    assert "AIRFLOW__CORE__EXECUTOR" not in made.environment
    assert made.environment["AIRFLOW_CONFIG"] == str(tmp_path / "airflow.cfg")
    said = capsys.readouterr().err
    assert "AIRFLOW__CORE__EXECUTOR, AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC" in said


def test_nobody_waits_for_an_airflow_that_has_ended():
    def ended() -> None:
        raise EcdctrError("Airflow's scheduler has ended")

    with pytest.raises(EcdctrError, match="scheduler has ended"):
        Api(f"http://127.0.0.1:{free_port()}", alive=ended).call("GET", "/api/v2/x")


def test_a_refusal_is_not_repeated_and_says_what_airflow_said():
    with (
        server(lambda handler, _: say(handler, 422, b'{"detail": "no such param"}')) as (
            url,
            asked,
        ),
        pytest.raises(RefusedError, match=r"422 .*no such param"),
    ):
        Api(url).trigger("d", "r", {})
    assert len(asked) == 1


@pytest.mark.parametrize(("conf", "same"), [(b'{"a": 1}', True), (b'{"a": 2}', False)])
def test_a_run_that_exists_already_is_taken_as_triggered_if_it_is_the_same(conf, same):
    """The first trigger's answer was lost, its run is there."""

    def answer(handler: BaseHTTPRequestHandler, asked: list[str]) -> None:
        if len(asked) == 1:
            handler.close_connection = True
        elif handler.command == "POST":
            say(handler, 409, b'{"detail": "exists"}')
        else:
            say(handler, 200, b'{"conf": ' + conf + b"}")

    outcome = contextlib.nullcontext() if same else pytest.raises(RefusedError, match="exists")
    with server(answer) as (url, asked), outcome:
        Api(url).trigger("d", "r", {"a": 1})
    assert asked[-1] == "GET /api/v2/dags/d/dagRuns/r"


def test_all_pages_of_a_collection_are_read():
    def answer(handler: BaseHTTPRequestHandler, asked: list[str]) -> None:
        offset = int(handler.path.rpartition("=")[2])
        entries = ",".join(
            f'{{"dag_run_id": "{k}"}}' for k in range(offset, min(offset + 100, 250))
        )
        say(handler, 200, f'{{"dag_runs": [{entries}], "total_entries": 250}}'.encode())

    with server(answer) as (url, _):
        assert list(Api(url).runs("d")) == [str(k) for k in range(250)]


@needs_wheel
def test_the_database_lives_on_a_socket_of_its_own_keeps_its_rows_and_leaves_nothing(tmp_path):
    data = tmp_path / ("long-" * 30) / "postgres"  # a socket inside would have too long a path
    for expected in (0, 1):
        with (
            postgres(data) as url,
            contextlib.closing(connect(url)) as connection,
            connection.cursor() as cursor,
        ):
            sockets = Path(connection.get_dsn_parameters()["host"])
            assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
            cursor.execute("show listen_addresses")
            assert cursor.fetchone() == ("",)
            cursor.execute("create table if not exists t (a int)")
            cursor.execute("select count(*) from t")
            assert cursor.fetchone() == (expected,)
            cursor.execute("insert into t values (1)")
            connection.commit()
            assert running_url(data) == url  # as another process finds it: ./run airflow
        assert servers_of(data) == []
        assert running_url(data) is None
        assert not sockets.exists()


def connect(url: str) -> psycopg2.extensions.connection:
    return psycopg2.connect(url.replace("+psycopg2", ""))


def servers_of(data: Path) -> list[int]:
    return [
        p.pid for p in psutil.process_iter(["cmdline"]) if str(data) in (p.info["cmdline"] or [])
    ]


@needs_wheel
@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts it as another user")
def test_the_database_runs_where_the_installation_lies_in_a_home_that_is_closed(
    tmp_path, monkeypatch
):
    home = tmp_path / "root"
    home.mkdir(mode=0o700)
    wheel = _programs().parents[1]
    for folder in (wheel, wheel.with_name(f"{wheel.name}.libs")):
        shutil.copytree(folder, home / folder.name)
    moved = home / wheel.name / _programs().relative_to(wheel)
    monkeypatch.setattr("ecdctr.airflow.postgres._programs", lambda: moved)
    with postgres(home / "postgres") as url, contextlib.closing(connect(url)) as connection:
        assert connection.info.server_version


@needs_wheel
def test_a_database_that_does_not_start_says_why(tmp_path):
    with postgres(tmp_path / "postgres"):
        pass
    shutil.rmtree(tmp_path / "postgres" / "global")
    with (
        pytest.raises(EcdctrError, match=r"(?s)PostgreSQL did not start; the end of .*global"),
        postgres(tmp_path / "postgres"),
    ):
        pass


class Started:
    """`./run ui` in a process of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.log = home, home.with_suffix(".log")
        command = [
            sys.executable,
            "-m",
            "ecdctr.demo.run",
            "ui",
            "--port",
            str(free_port()),
            "--home",
            str(home),
        ]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=REPOSITORY, start_new_session=True
            )

    def left(self) -> list[str]:
        """Return what is alive of it.

        Airflow's processes by their mark, the database by its folder.
        """
        marked = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == str(self.home / "airflow"):
                    marked.append(" ".join(process.cmdline()))
        return marked + [
            f"postgres {pid}" for pid in servers_of(self.home / "airflow" / "postgres")
        ]

    def until(self, what: str, ready: Callable[[], bool]) -> None:
        # 0.5: a look at all processes of a machine costs some
        until(ready, lambda: f"{what}: {self.log.read_text()[-2000:]}", pause=0.5)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    made = Started(tmp_path / "home")
    yield made
    with contextlib.suppress(ProcessLookupError):
        os.killpg(made.process.pid, signal.SIGKILL)
    made.process.wait()
    Airflow(made.home / "airflow", Path(), Path(), 0).kill()


@needs_wheel
@pytest.mark.airflow
def test_an_impatient_second_interrupt_prints_no_traceback_and_leaves_no_process(started):
    started.until(
        "the scheduler's start", lambda: any("scheduler" in line for line in started.left())
    )
    started.process.send_signal(signal.SIGINT)
    started.until(
        "the end",
        lambda: started.process.poll() is not None or started.process.send_signal(signal.SIGINT),
    )
    assert started.process.returncode == 130
    said = started.log.read_text()
    assert "Traceback" not in said
    assert "stopped; nothing of it is running any more" in said
    assert started.left() == []


@needs_wheel
@pytest.mark.airflow
def test_what_is_killed_takes_its_database_and_its_airflow_with_it(started):
    started.until("the start", lambda: "Ctrl+C stops it" in started.log.read_text())
    started.process.kill()
    started.process.wait()
    started.until("the end of all processes", lambda: started.left() == [])


def test_a_second_demo_in_the_same_folder_is_refused(tmp_path):
    home = tmp_path / "home"
    with locked(home / ".lock"):
        second = Started(home)
        assert second.process.wait() == 1
    assert f"Another ./run demo or ./run ui is at work in {home}" in second.log.read_text()


@needs_wheel
def test_a_database_is_migrated_once_by_each_version_of_airflow(tmp_path, monkeypatch):
    made = Airflow(tmp_path / "home", tmp_path / "config.yaml", tmp_path / "store", free_port())
    asked: list[tuple[str, ...]] = []
    monkeypatch.setattr(made, "command", lambda *arguments: asked.append(arguments))
    for version, times in (("3.3.2", 1), ("3.3.2", 1), ("3.4.0", 2)):
        monkeypatch.setattr(metadata, "version", lambda _, version=version: version)
        with made.database():
            made.migrate()
        assert asked == [("db", "migrate")] * times
    shutil.rmtree(made.home / "postgres")  # a database made anew has no tables
    with made.database():
        made.migrate()
    assert len(asked) == 3
