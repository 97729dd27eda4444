"""One A-CTR day of the `large` world, all its data prepared: what Airflow adds to the commands that it runs.

The five commands of the day, each in its process, by hand; then the same day by `airflow dags test`, in an experiment
of its own, so that it trains again. TPM and CPM before it read few days: they are not measured. At first some twenty
minutes and 10 GB go into the world and its preparation, which are kept in build/bench.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import RESULTS, ROOT, Row, Timing, report
from ecdctr.data.simulate import PRESETS, simulate
from ecdctr.demo import Airflow, free_port

REPEATS = 5
FOLDER = RESULTS / "large"


def configuration(root: Path, tpm_days: int = 3) -> Path:
    """The demo's, on the large world, with short windows for what is not measured."""
    raw = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    raw["data"] |= {"root": str(root), "prepared": str(FOLDER / "prepared"), "duckdb_memory": "6GB", "lookback_days": 3}
    raw |= {"tpm": {"window_days": tpm_days}, "snapshots": {"count": 1}, "variants": {}}
    raw["cpm"]["window_days"], raw["actr"]["window_days"] = 2, 45
    raw["airflow"]["retries"] = 0
    path = FOLDER / f"config-{tpm_days}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def ecdctr(config: Path, *arguments: str, store: str = "store") -> str:
    """Run the command line; returns what it prints."""
    command = [sys.executable, "-m", "ecdctr.cli", "--config", str(config), "--store", str(FOLDER / store), "--json"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(f"ecdctr {' '.join(arguments)} failed: {done.stderr[-1000:]}")
    return done.stdout.strip()


def ecdctr_json(config: Path, *arguments: str, store: str = "store") -> dict[str, Any]:
    """The result of a command."""
    found: dict[str, Any] = json.loads(ecdctr(config, *arguments, store=store).splitlines()[-1])
    return found


def by_hand(config: Path, date: dt.date, experiment: str) -> float:
    """Seconds of the day's commands, one after another."""
    day, following = str(date), str(date + dt.timedelta(days=1))
    began = time.perf_counter()
    ecdctr(config, "validate", "--domain", "ads", "--date", day, "--days", "45")
    ecdctr(config, "prepare", "--level", "actr", "--date", day)
    version = ecdctr_json(config, "train", "actr", "--date", day, "--experiment", experiment)["version"]
    ecdctr(config, "evaluate", "--version", version, "--date", following)
    ecdctr(config, "gate", "--version", version, "--date", following)
    return time.perf_counter() - began


def by_airflow(airflow: Airflow, date: dt.date, experiment: str) -> float:
    """Seconds of the same day as a DAG run."""
    conf = json.dumps({"data_date": str(date), "experiment": experiment})
    began = time.perf_counter()
    airflow.command("dags", "test", "ecdctr_actr", str(date), "--conf", conf)
    return time.perf_counter() - began


def main() -> None:
    """Generate, prepare and train what the day needs, then measure in turns."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sim = PRESETS["large"]
    config = configuration(FOLDER / "world")
    if not (FOLDER / "world").exists():
        simulate(sim, 1, FOLDER / "world")
    date = sim.start + dt.timedelta(days=sim.days - 2)
    ecdctr(config, "train", "tpm", "--date", str(date))
    ecdctr(config, "train", "cpm", "--date", str(date))
    airflow = Airflow(FOLDER / "airflow", config, FOLDER / "store", free_port())
    airflow.prepare()
    stamp = f"{time.time():.0f}"
    by_hand(config, date, f"warm-{stamp}")
    hand, dag = [], []
    for i in range(REPEATS):
        hand.append(by_hand(config, date, f"hand-{stamp}-{i}"))
        dag.append(by_airflow(airflow, date, f"dag-{stamp}-{i}"))
        print(hand[-1], dag[-1], file=sys.stderr)
    commands, whole = Timing(hand), Timing(dag)
    overhead = 1 - commands.median / whole.median
    work = f"orchestration: {overhead:.1%} of the day's wall time (asked: under 10 %)"
    report("day", [Row(work, "the commands by hand", str(whole), str(commands), commands.median / whole.median, 0.9)])


if __name__ == "__main__":
    main()
