"""`./run demo` and `./run ui`: a local Airflow on the demo's configuration and store."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from ecdctr.airflow.postgres import missing
from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.config import Snapshots, load_config
from ecdctr.errors import EcdctrError
from ecdctr.files.durable import locked
from ecdctr.impressions.days import available_dates

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "demo"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
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


def trigger_all(airflow: Airflow, runs: list[Run]) -> None:
    """Trigger each run as soon as those before it are done; raises EcdctrError when one fails."""
    waiting = {run.key: run for run in runs}
    done: set[str] = set()
    while len(done) < len(runs):
        for key, run in list(waiting.items()):
            if done.issuperset(run.after):
                conf = {
                    "data_date": str(run.date),
                    "experiment": run.experiment,
                    "variant": run.variant,
                }
                airflow.api.trigger(f"ecdctr_{run.level}", key, conf)
                del waiting[key]
        for level in ("tpm", "cpm", "actr"):
            for key, run_seen in airflow.api.runs(f"ecdctr_{level}").items():
                if run_seen["state"] == "failed" and key.startswith("demo_"):
                    raise EcdctrError(
                        f"The run {key} failed; look at it with: ./run ui (DAG ecdctr_{level})"
                    )
                if run_seen["state"] == "success" and key.startswith("demo_") and key not in done:
                    done.add(key)
                    console.print(
                        f"  [{len(done):2d}/{len(runs)}] {key.removeprefix('demo_')}",
                        highlight=False,
                    )
        airflow.check_alive()
        time.sleep(0.5)


def demo(home: Path, days: int) -> None:
    """Simulate, run the DAGs, print the table, write the report and how long each step took."""
    config_path, store = ROOT / "configs" / "demo.yaml", home / "store"
    airflow = Airflow(home / "airflow", config_path, store, free_port())
    airflow.kill()  # what a demo that was killed has left
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(airflow.home, ignore_errors=True)
    config = load_config(config_path)
    steps = Steps()
    with steps.step("1/4  Simulate two domains, 120 days"):
        _ecdctr(config_path, store, "simulate", "--preset", "demo")
    with contextlib.ExitStack() as stack:
        with steps.step("2/4  Start Airflow"):
            stack.enter_context(airflow.running())
            airflow.api.pool(config.airflow.pool, 2)
            airflow.wait_for_dags()
        with steps.step(f"3/4  Run the three DAGs ({airflow.url} shows them now)"):
            last = available_dates(config.data.root, "ads")[-1]
            trigger_all(airflow, plan_runs(last, days, config.snapshots))
    with steps.step("4/4  Report"):
        _ecdctr(config_path, store, "report", "--out", str(home / "report.html"))
    (home / "timings.json").write_text(json.dumps(steps.seconds, indent=1))
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


def ui(home: Path, port: int) -> None:
    """Start Airflow's web UI on the demo's store and stay until interrupted."""
    airflow = Airflow(home / "airflow", ROOT / "configs" / "demo.yaml", home / "store", port)
    with airflow.running():
        airflow.api.pool("gpu", 2)
        console.print(
            f"Airflow's web UI: [bold]{airflow.url}[/]  (Ctrl+C stops it; no login, loopback only)"
        )
        while True:
            time.sleep(2)
            airflow.check_alive()


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
    for command in (run, show):
        command.add_argument("--home", type=Path, default=HOME, help="folder of store and Airflow")
    arguments = parser.parse_args()
    for name in SIGNALS:
        signal.signal(name, _stopped)
    try:
        if reason := missing():
            console.print(
                f"Airflow's metadata are on SQLite, which is slower and may stall: {reason}.",
                style="yellow",
            )
        home = arguments.home.resolve()
        with alone(home):
            demo(home, arguments.days) if arguments.command == "run" else ui(home, arguments.port)
    except EcdctrError as error:
        print(f"./run: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\n./run: stopped; nothing of it is running any more.", file=sys.stderr)
        sys.exit(130)


@contextlib.contextmanager
def alone(home: Path) -> Iterator[None]:
    """Hold the demo's folder for the block; raises EcdctrError when another ./run demo or ui is at work in it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(home / ".lock", wait=False))
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
