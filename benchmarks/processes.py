"""Peak memory of each process when 1, 2 and 4 of them train one CPM together.

A CPM that goes on from its parent, with the parent's moments and two TPM snapshots, as
`ecdctr train cpm` does it: it builds, trains and saves. The parents were trained on the world tiny;
their users are extended by made-up ones until ECDCTR_BENCH_IDS (3 million) are there, and the users
of the new day are drawn from all of them. Few rows are trained, so seconds are those of tables that
are read, moved and written. What a training of the same day takes with the world's own few ids is
taken off, so that what is left is that of the ids. On Linux only.

python -m benchmarks.processes
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file, save_file

from benchmarks.common import ONE_ROW, RESULTS, ROOT, machine
from ecdctr.airflow.standalone import free_port
from ecdctr.config import load_config
from ecdctr.levels import run
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.training.process import peak_memory_mb
from ecdctr.training.workers import join
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate

IDS = int(os.environ.get("ECDCTR_BENCH_IDS", "3000000"))
PROCESSES = (1, 2, 4)
FOLDER = RESULTS / "processes"
FIRST, STEP = 1_000_000_007, 3  # of the made-up ids, beyond those of the world
PHASES = ("build", "_fit", "write", "publish")  # of levels/run.py


def configuration() -> Path:
    """Write the world tiny, and its configuration with tables of 16 numbers a row."""
    simulate(load_world("tiny").settings, 1, FOLDER / "data")
    raw = yaml.safe_load((ROOT / "configs" / "tiny.yaml").read_text())
    raw["data"] |= {"root": str(FOLDER / "data"), "prepared": str(FOLDER / "prepared")}
    raw["tpm"]["embedding_dim"] = raw["network"]["embedding_dim"] = 16
    shared = {"shards": max(PROCESSES), "save_optimizer": True, "carry_optimizer": True}
    raw["cpm"] |= shared
    raw |= ONE_ROW
    path = FOLDER / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def parents(config: Path, date: dt.date) -> tuple[Path, Path]:
    """Train two TPM and the CPM of the day before.

    Returns their store, and one with their users extended.
    """
    settings, small = load_config(config), Store(FOLDER / "small")
    refs = [
        train_tpm(Request(settings, small, date - dt.timedelta(days=back))).manifest.ref
        for back in (13, 6)
    ]
    refs.append(train_cpm(Request(settings, small, date - dt.timedelta(days=1))).manifest.ref)
    large = Store(FOLDER / "store")
    for ref in refs:
        with large.staging() as folder:
            for name in small.manifest(ref).files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(small.path(ref) / name, folder / name)
            extend_users(folder)
            large.publish(folder, small.manifest(ref))
    return FOLDER / "small", FOLDER / "store"


def extend_users(folder: Path) -> None:
    """Give a version IDS users; its files are replaced."""
    path = folder / "vocabulary" / "user_id.parquet"
    ids = pq.read_table(path, partitioning=None)["id"].to_numpy()
    ids = np.concatenate([ids, made_up(np.arange(IDS - len(ids)))])
    pq.write_table(pa.table({"id": ids, "row": np.arange(1, IDS + 1)}), path, compression="zstd")
    tables = {"embeddings": ["user_id"], "merged": ["user"]}
    tables["optimizer"] = ["tables/user_id/exp_avg", "tables/user_id/exp_avg_sq"]
    for name, keys in tables.items():
        file = folder / f"{name}.safetensors"
        if file.exists():
            tensors = load_file(file)
            tensors |= {key: extended(tensors[key], IDS + 1) for key in keys}
            save_file(tensors, file)
    path = folder / "snapshot" / "user.parquet"
    if path.exists():
        learned = pq.read_table(path)["vector"].combine_chunks().flatten().to_numpy()
        vectors = extended(torch.from_numpy(learned.copy()).view(-1, 16), IDS).flatten().numpy()
        columns = {"id": ids, "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors), 16)}
        pq.write_table(pa.table(columns), path, compression="zstd")


def made_up(numbers: np.ndarray) -> np.ndarray:
    """Return the ids of made-up users."""
    return FIRST + STEP * numbers.astype(np.int64)


def extended(table: torch.Tensor, rows: int) -> torch.Tensor:
    """Return a table [n, d] with so many rows, the others drawn at random."""
    drawn = torch.empty(rows - len(table), table.shape[1]).normal_(std=0.01).square_()
    return torch.cat([table, drawn])


def draw_users(date: dt.date) -> None:
    """Let the users of a day be any of all."""
    rng = np.random.default_rng(1)
    for path in (FOLDER / "data").rglob(f"domain=natural/date={date}/*.parquet"):
        table = pq.read_table(path, partitioning=None)
        users = made_up(rng.integers(0, IDS // 2, table.num_rows))
        place = table.schema.get_field_index("user_id")
        pq.write_table(table.set_column(place, "user_id", pa.array(users)), path)


def one(config: Path, store: Path, date: dt.date) -> dict[str, Any]:
    """Train in this process, alone or with others; return its peaks in MiB, and seconds."""
    if join().world > 1:
        import_module("torchrec")  # what it takes is no part of the tables
    phases: dict[str, float] = {}
    for name in PHASES:
        setattr(run, name, measured(name, getattr(run, name), phases))
    began = time.perf_counter()
    train_cpm(Request(load_config(config), Store(store), date, force=True))
    return {**phases, "peak": max(phases.values()), "seconds": time.perf_counter() - began}


def measured(name: str, function: Callable[..., Any], into: dict[str, float]) -> Callable[..., Any]:
    """Return a function that notes the peak of the process while it runs."""

    def wrapped(*arguments: Any) -> Any:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        result = function(*arguments)
        into[name] = peak_memory_mb()
        return result

    return wrapped


def together(processes: int, config: Path, store: Path, date: dt.date) -> list[dict[str, Any]]:
    """Return what each of some processes measured, the first one first; the version is removed."""
    place = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    place |= {"MASTER_PORT": str(free_port()), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", "benchmarks.processes", str(config), str(store), str(date)]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | place | {"RANK": str(rank)},
        )
        for rank in range(processes)
    ]
    said = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit(f"{processes} processes failed, as they said above.")
    shutil.rmtree(store / str(Ref("production", "cpm", date, "v0001")))
    return [json.loads(text.strip().splitlines()[-1]) for text in said]


def show(results: dict[int, list[dict[str, Any]]], small: dict[int, float]) -> None:
    """Print the table and write build/bench/processes.json."""
    columns = ("processes", "process", *(name.strip("_") for name in PHASES), "peak")
    table = Table(*columns, "peak, few ids", "of the ids", "seconds", title="MiB of each process")
    for processes, each in results.items():
        for rank, figures in enumerate(each, 1):
            peaks = [figures.get(name, math.nan) for name in (*PHASES, "peak")]
            fixed = small[processes]
            shown = [*peaks, fixed, figures["peak"] - fixed, figures["seconds"]]
            table.add_row(str(processes), str(rank), *(f"{value:,.0f}" for value in shown))
    console = Console(width=120)
    console.print(table)
    console.print(f"{IDS:,} ids, 16 numbers a row, two moments, two snapshots")
    content = {"machine": machine(), "ids": IDS, "results": results, "few_ids": small}
    (RESULTS / "processes.json").write_text(json.dumps(content, indent=1))


def main() -> None:
    """Make the parents, then train with each number of processes, on few ids and on many."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    sim, config = load_world("tiny").settings, configuration()
    date = sim.start + dt.timedelta(days=sim.days - 2)
    few, many = parents(config, date)
    draw_users(date)
    results, small = {}, {}
    for processes in PROCESSES:
        small[processes] = max(one["peak"] for one in together(processes, config, few, date))
        results[processes] = together(processes, config, many, date)
        print(processes, results[processes], file=sys.stderr)
    show(results, small)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    if sys.argv[1:]:
        where, date = map(Path, sys.argv[1:3]), dt.date.fromisoformat(sys.argv[3])
        print(json.dumps(one(*where, date)))
    else:
        main()
