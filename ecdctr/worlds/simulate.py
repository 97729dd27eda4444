"""Write a simulated world, day by day, by several processes.

The same bytes for a seed whatever their number.
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.code import code_digest
from ecdctr.config import DOMAINS, Simulation, Visits
from ecdctr.errors import ConfigError
from ecdctr.files import durable
from ecdctr.impressions.layout import HELD_OUT, day_folder
from ecdctr.processes import end_with_parent
from ecdctr.worlds.daily import Daily
from ecdctr.worlds.feed import Feed

COLUMNS_OF_FEW_VALUES = ["age_band", "city", "category", "tags.list.element", "slot", "price"]


def open_world(sim: Simulation | Visits, seed: int) -> Daily | Feed:
    """Return the world of these settings; days are made on demand."""
    return Feed(sim, seed) if isinstance(sim, Visits) else Daily(sim, seed)


def simulate(
    sim: Simulation | Visits,
    seed: int,
    root: Path,
    workers: int = 2,
    on_day: Callable[[int], None] | None = None,
) -> int:
    """Write all days under `root`; returns the impressions written.

    Days already there are left as they are. Same settings and seed give the same bytes, whatever
    the number of workers.
    """
    _claim_root(sim, seed, root)
    total = 0
    with ProcessPoolExecutor(
        workers, initializer=_start_worker, initargs=(sim, seed, root)
    ) as pool:
        for rows in pool.map(_write_day, range(sim.days), chunksize=2):
            total += rows
            if on_day:
                on_day(rows)
    return total


def _claim_root(sim: Simulation | Visits, seed: int, root: Path) -> None:
    """Refuse to mix two worlds in one folder."""
    root.mkdir(parents=True, exist_ok=True)
    code = code_digest(["worlds.simulate"], ["worlds"])
    described = {"seed": seed, "code": code, **sim.model_dump(mode="json", exclude={"kind"})}
    path = root / "world.json"
    if path.exists():
        if json.loads(path.read_text("utf-8")) != described:
            raise ConfigError(
                f"{root} holds another simulated world, or one that another version of ecdctr made "
                f"(see {path}); name another --out, or delete it."
            )
    elif any(root.glob("domain=*")):
        raise ConfigError(f"{root} holds impressions that were not simulated; name another --out.")
    else:
        path.write_text(json.dumps(described, indent=1), "utf-8")


_worker: list[tuple[Simulation | Visits, Daily | Feed, Path]] = []  # of a process of the pool


def _start_worker(sim: Simulation | Visits, seed: int, root: Path) -> None:
    end_with_parent()
    _worker[:] = [(sim, open_world(sim, seed), root)]


def _write_day(day: int) -> int:
    """Write what is missing of a day; returns its impressions, the held-out ones not counted."""
    sim, world, root = _worker[0]
    date = sim.start + dt.timedelta(days=day)
    targets: dict[str, Path] = {
        name: day_folder(root, name, date) / "part-0.parquet" for name in DOMAINS
    }
    held_out = day_folder(root / HELD_OUT, "ads", date) / "part-0.parquet"
    held_out_days = sim.held_out_days if isinstance(sim, Visits) else 0
    there = list(targets.values()) + ([held_out] if day >= sim.days - held_out_days else [])
    if all(target.exists() for target in there):
        return sum(pq.read_metadata(target).num_rows for target in targets.values())
    tables = world.tables(day)
    for name, table in tables.items():
        target = held_out if name == HELD_OUT else targets[name]
        if table.num_rows and not target.exists():
            _write(table, target)
    return sum(tables[name].num_rows for name in DOMAINS)


def _write(table: pa.Table, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with durable.replacing(target) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=1,
            use_dictionary=COLUMNS_OF_FEW_VALUES,
            row_group_size=262_144,
        )
