"""`./run demo` and `./run ui`: a local Airflow on the demo's configuration and store."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml
from rich.console import Console

from ecdctr.airflow.postgres import missing
from ecdctr.airflow.standalone import ROOT, Airflow, free_port
from ecdctr.config import Snapshots, load_config
from ecdctr.config.terms import DEFAULT, PRODUCTION, dag_of
from ecdctr.console import log_to_stderr
from ecdctr.demo.arguments import read_arguments
from ecdctr.errors import UNFORESEEN, EcdctrError, first_line, machine_end
from ecdctr.files import durable
from ecdctr.impressions.impressions import open_impressions
from ecdctr.store.store import Store

HOME = ROOT / "demo"
MADE = ("config.yaml", "store", "airflow")  # in its folder, and made anew
VARIANTS = {"ads_only": "ads_only", "no_tpm": "no_tpm", PRODUCTION: DEFAULT}  # by experiment
# Airflow's answers cost it as much as a step; the store's folders tell more at once
ASK_SECONDS = 2
SLOTS = 2  # trainings at once
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NOTE = "# Written by ./run demo"  # how its configuration begins
console = Console()


class Run(NamedTuple):
    """One DAG run of the demo and the runs whose versions must be there before it."""

    level: str
    experiment: str
    variant: str
    date: dt.date
    after: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the run in the UI."""
        return f"demo_{self.level}_{self.experiment}_{self.date}"

    def has_trained(self, store: Store) -> bool:
        """Tell whether its version is stored, from when on the next level can start from it."""
        newest = store.newest(self.experiment, self.level, self.date)
        return newest is not None and newest.date == self.date


def plan_runs(last: dt.date, days: int, settings: Snapshots) -> list[Run]:
    """Return every run of the demo.

    Three levels for the full method, A-CTR without TPM and without transfer. CPM's and A-CTR's runs
    come one day after the other: CPM goes on from the day before, and the gate compares with the
    champion of the day before.
    """
    dates = [last - dt.timedelta(days=back) for back in range(days, 0, -1)]
    runs: list[Run] = []
    snapshots: tuple[str, ...] = ()
    for date in reversed(settings.as_of(settings.needed(dates[0]))):
        runs.append(Run("tpm", PRODUCTION, DEFAULT, date, snapshots))
        snapshots = (runs[-1].key,)
    actr_before: dict[str, tuple[str, ...]] = {}
    cpm_before = {"no_tpm": (), PRODUCTION: snapshots}
    for date in dates:
        for experiment, variant in VARIANTS.items():
            after = actr_before.get(experiment, ())
            if experiment in cpm_before:
                cpm = Run("cpm", experiment, variant, date, cpm_before[experiment])
                runs.append(cpm)
                cpm_before[experiment] = (cpm.key,)
                after = (cpm.key, *after)
            runs.append(Run("actr", experiment, variant, date, after))
            actr_before[experiment] = (runs[-1].key,)
    return runs


def trigger_all(airflow: Airflow, store: Store, runs: list[Run]) -> None:
    """Trigger each run as soon as those before it have trained.

    Raises EcdctrError when one fails.
    """
    waiting = {run.key: run for run in runs}
    started: dict[str, Run] = {}
    trained: set[str] = set()
    done: set[str] = set()
    asked = 0.0
    while len(done) < len(runs):
        for key, run in list(waiting.items()):
            if trained.issuperset(run.after):
                conf = {"data_date": str(run.date), "experiment": run.experiment}
                airflow.api.trigger(dag_of(run.level), key, conf | {"variant": run.variant})
                started[key] = waiting.pop(key)
        time.sleep(0.5)
        trained |= {key for key in started.keys() - trained if started[key].has_trained(store)}
        if time.monotonic() - asked < ASK_SECONDS:
            continue
        asked = time.monotonic()
        for key, state in airflow.api.states().items():
            if state == "failed" and key in started:
                dag = dag_of(started[key].level)
                raise EcdctrError(f"The run {key} failed; look at it with: ./run ui (DAG {dag})")
            if state == "success" and key in started and key not in done:
                done.add(key)
                name = key.removeprefix("demo_")
                console.print(f"  [{len(done):2d}/{len(runs)}] {name}", highlight=False)
        airflow.check_alive()


def write_config(home: Path) -> Path:
    """Write configs/demo.yaml into the demo's folder, with the places there.

    Raises EcdctrError where something lies that no demo made: it would be written over.
    """
    path = home / "config.yaml"
    made_here = path.is_file() and path.read_text("utf-8", "replace").startswith(NOTE)
    others = [name for name in MADE if not made_here and os.path.lexists(home / name)]
    if others:
        raise EcdctrError(
            f"{home} holds {' and '.join(others)}, which no ./run demo made and which it would "
            "write over; name another folder with --home, or move that away."
        )
    raw = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text("utf-8"))
    raw["data"] |= {"root": str(home / "data"), "prepared": str(home / "prepared")}
    text = yaml.safe_dump(raw, sort_keys=False, width=1000)
    durable.replace_text(path, f"{NOTE}: configs/demo.yaml with its places\n{text}")
    return path


def demo(home: Path, days: int) -> None:
    """Simulate, run the DAGs, print the table, write the report and how long each step took."""
    config_path, store = write_config(home), home / "store"
    airflow = Airflow(home / "airflow", config_path, store, free_port(), scheduled=False, warm=True)
    airflow.kill()  # what a demo that was killed has left
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(airflow.home, ignore_errors=True)
    config = load_config(config_path)
    steps = Steps()
    with contextlib.ExitStack() as stack:
        with (
            steps.step("1/3  Simulate two domains, 120 days, and start Airflow meanwhile"),
            _beside(config_path, store, "simulate", "--world", "demo"),
        ):
            stack.enter_context(airflow.running())
            airflow.api.pool(config.airflow.pool, SLOTS)
            airflow.wait_for_dags()
        with steps.step(f"2/3  Run the three DAGs ({airflow.url} shows them now)"):
            last = open_impressions(config.data.root).dates("ads")[-1]
            trigger_all(airflow, Store(store), plan_runs(last, days, config.snapshots))
    with steps.step("3/3  Report"):
        _ecdctr(config_path, store, "report", "--floor", "--out", str(home / "report.html"))
    (home / "timings.json").write_text(json.dumps(steps.seconds, indent=1), "utf-8")
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
        self.seconds[title.partition("(")[0].strip()] = time.perf_counter() - started
        console.print(f"       {time.perf_counter() - started:.0f} s", style="dim")


def ui(home: Path, port: int) -> None:
    """Start Airflow's web UI on the demo's store and stay until interrupted."""
    config, store = write_config(home), home / "store"
    airflow = Airflow(home / "airflow", config, store, port, scheduled=False)
    with airflow.running():
        airflow.api.pool(load_config(config).airflow.pool, SLOTS)
        console.print(
            f"Airflow's web UI: [bold]{airflow.url}[/]  (Ctrl+C stops it; no login, loopback only; "
            "nothing runs by its schedule: the demo's days lie in the past)"
        )
        while True:
            time.sleep(2)
            airflow.check_alive()


def airflow(home: Path, arguments: list[str]) -> int:
    """Run an airflow command on the demo's database and DAGs; return its exit code."""
    config, folder = write_config(home), home / "airflow"
    folder.mkdir(parents=True, exist_ok=True)
    made = Airflow(folder, config, home / "store", 8080, scheduled=False)
    with made.database():
        made.migrate()
        return made.call(arguments)


def _ecdctr(config: Path, store: Path, *arguments: str) -> None:
    with _beside(config, store, *arguments):
        pass


@contextlib.contextmanager
def _beside(config: Path, store: Path, *arguments: str) -> Iterator[None]:
    """Run an ecdctr command beside the block, and wait for it; none of it is left after it.

    Raises EcdctrError if it fails.
    """
    places = ["--config", str(config), "--store", str(store)]
    command = subprocess.Popen([sys.executable, "-P", "-m", "ecdctr.cli", *places, *arguments])
    try:
        yield
        failed = command.wait()
    finally:
        command.kill()
        command.wait()
    if failed:
        raise EcdctrError(f"'ecdctr {' '.join(arguments)}' failed; its message stands above.")


def main() -> None:
    """Be the entry point of ./run demo, ./run ui and ./run airflow.

    Exit codes are those of `ecdctr` (ecdctr/cli/net.py).
    """
    arguments = read_arguments(HOME)
    log_to_stderr()
    for name in SIGNALS:
        signal.signal(name, _stopped)
    try:
        sys.exit(_run(arguments))
    except KeyboardInterrupt:
        print("\n./run: stopped; nothing of it is running any more.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if arguments.debug:
            traceback.print_exception(error)
        code, said = _explained(error)
        print(f"./run: {said}", file=sys.stderr)
        sys.exit(code)


def _explained(error: Exception) -> tuple[int, str]:
    """Return the exit code and the sentence of what ended a command."""
    if isinstance(error, EcdctrError):
        return 1, str(error)
    return machine_end(error) or (
        UNFORESEEN,
        f"ended with an error that nobody foresaw: {type(error).__name__}: {first_line(error)}. "
        "Give --debug, too, for the traceback, and report it.",
    )


def _run(arguments: argparse.Namespace) -> int:
    if reason := missing():
        console.print(
            f"Airflow's metadata are on SQLite, which is slower and may stall: {reason}.",
            style="yellow",
        )
    home = arguments.home.resolve()
    if arguments.command == "airflow":
        return airflow(home, arguments.arguments)
    with alone(home):
        demo(home, arguments.days) if arguments.command == "run" else ui(home, arguments.port)
    return 0


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold the demo's folder for the block.

    Raises EcdctrError when another ./run demo or ui is at work in it.
    """
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(durable.locked(home / ".lock", wait=False))
        except BlockingIOError:
            raise EcdctrError(
                f"Another ./run demo or ./run ui is at work in {home}; stop it first."
            ) from None
        yield


def _stopped(_number: int, _frame: object) -> None:
    """Stop the Airflow in order; a second Ctrl+C meanwhile changes nothing."""
    for name in SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    console.print("Stopping ...", style="dim")
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
