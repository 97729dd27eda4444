"""One A-CTR day of the `large` world, all its data prepared.

What Airflow adds to the commands that it runs. The three commands of the day, each in its process,
by hand; then the same day by `airflow dags test`, in an experiment of its own, so that it trains
again. TPM and CPM before it read few days: they are not measured. At first some twenty minutes and
10 GB go into the world and its preparation, which are kept in build/bench.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from pathlib import Path

import yaml

from benchmarks.common import (
    ONE_ROW,
    RESULTS,
    ROOT,
    Row,
    Timing,
    ecdctr,
    json_of,
    output_of,
    report,
)
from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate

REPEATS = 5
FOLDER = RESULTS / "large"


def configuration(root: Path, tpm_days: int = 3) -> Path:
    """Return the demo's, on the large world, with short windows for what is not measured."""
    raw = yaml.safe_load((ROOT / "configs" / "daily.yaml").read_text())
    raw["data"] |= {
        "root": str(root),
        "prepared": str(FOLDER / "prepared"),
        "duckdb_memory": "6GB",
        "lookback_days": 3,
    }
    raw |= {"tpm": {"window_days": tpm_days}, "snapshots": {"count": 1}} | ONE_ROW
    raw["cpm"]["window_days"], raw["actr"]["window_days"] = 2, 45
    raw["airflow"]["retries"] = 0
    path = FOLDER / f"config-{tpm_days}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def world() -> Path:
    """Return the large world, generated once."""
    root = FOLDER / "world"
    if not root.exists():
        simulate(load_world("large").settings, 1, root)
    return root


def by_hand(config: Path, date: dt.date, experiment: str) -> float:
    """Return seconds of the day's commands, one after another."""
    store, day, following = FOLDER / "store", str(date), str(date + dt.timedelta(days=1))
    began = time.perf_counter()
    output_of(ecdctr(config, store, "prepare", "--level", "actr", "--date", day, "--validate"))
    made = json_of(
        ecdctr(config, store, "train", "actr", "--date", day, "--experiment", experiment)
    )
    scored = ["--version", made["version"], "--date", following]
    output_of(ecdctr(config, store, "evaluate", *scored, "--gate"))
    return time.perf_counter() - began


def by_airflow(airflow: Airflow, date: dt.date, experiment: str) -> float:
    """Return seconds of the same day as a DAG run."""
    conf = json.dumps({"data_date": str(date), "experiment": experiment})
    began = time.perf_counter()
    airflow.command("dags", "test", "ecdctr_actr", str(date), "--conf", conf)
    return time.perf_counter() - began


def main() -> None:
    """Generate, prepare and train what the day needs, then measure in turns."""
    sim, config = load_world("large").settings, configuration(world())
    date = sim.start + dt.timedelta(days=sim.days - 2)
    for level, day in (("tpm", date - dt.timedelta(days=1)), ("cpm", date)):  # as is known then
        output_of(ecdctr(config, FOLDER / "store", "train", level, "--date", str(day)))
    airflow = Airflow(FOLDER / "airflow", config, FOLDER / "store", free_port())
    airflow.migrate()
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
    report(
        "day",
        [
            Row(
                work,
                "the commands by hand",
                str(whole),
                str(commands),
                commands.median / whole.median,
                0.9,
            )
        ],
    )


if __name__ == "__main__":
    main()
