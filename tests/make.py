"""What several test modules need: configurations, and what a real Airflow says of a failed run."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ecdctr.airflow.commands import Forked
from ecdctr.airflow.standalone import Airflow
from ecdctr.config import Config
from tests.conftest import REPOSITORY

# Ten rows are not worth what makes millions fast: Java's second compiler, and tasks that share the work
QUICK_SPARK = """
spark.master local[1]
spark.sql.shuffle.partitions 2
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""


def quick_spark(folder: Path) -> Path:
    """Return the folder, with defaults for SPARK_CONF_DIR that start quickly and share nothing out."""
    (folder / "spark-defaults.conf").write_text(QUICK_SPARK)
    return folder


def write_config(target: Path, world: Path, **airflow: Any) -> Path:
    """Write tiny.yaml on a world, whose days are prepared once, beside it."""
    raw = yaml.safe_load((REPOSITORY / "configs" / "tiny.yaml").read_text())
    raw["data"] |= {"root": str(world), "prepared": str(world.parent / "prepared")}
    raw["airflow"] |= airflow
    raw["evaluation"] = {"gate_calibration": [0.0, 100.0]}
    target.write_text(yaml.safe_dump(raw))
    return target


def changed(config: Config, section: str, **values: Any) -> Config:
    """Return the configuration with some settings of a section changed."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def delivered_again(config: Config, target: Path, date: dt.date) -> Config:
    """Return the configuration on a copy of its world with one ad more on a day.

    By a user who is the first of all.
    """
    root = target / "world"
    shutil.copytree(config.data.root, root)
    folder = root / "domain=ads" / f"date={date}"
    paths = sorted(folder.glob("*.parquet"))
    table = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
    table = table.sort_by("ts")
    extra = table.slice(0, 1)
    for name, value in {"user_id": -1, "click": 0, "impression_id": 10**12}.items():
        column = pa.array([value], table.schema.field(name).type)
        extra = extra.set_column(table.column_names.index(name), name, column)
    for path in paths:
        path.unlink()
    pq.write_table(pa.concat_tables([extra, table]), folder / "again.parquet")
    return changed(config, "data", root=root, prepared=target / "prepared")


def answer_of(app: Any, method: str, path: str, json: Any = None) -> httpx.Response:
    """Return what an ASGI application answers to a request, without a body or with one of JSON."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=json)

    return asyncio.run(ask())


def wait_for_backfills(airflow: Airflow, dag_id: str) -> None:
    """Airflow ends a backfill some seconds after its last run.

    And refuses another one until then.
    """
    deadline, path = time.monotonic() + 600, f"/api/v2/backfills?dag_id={dag_id}"
    while any(one["completed_at"] is None for one in airflow.api.call("GET", path)["backfills"]):
        assert time.monotonic() < deadline, "a backfill does not end"
        time.sleep(0.5)


def failed_logs(airflow: Airflow, dag_id: str, run_id: str) -> str:
    """States of a run's tasks and the last lines of the log of those that failed.

    For the message of a failed test.
    """
    run = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
    instances = airflow.api.call("GET", f"{run}/taskInstances")["task_instances"]
    lines = [f"{one['task_id']}: {one['state']}, try {one['try_number']}" for one in instances]
    folder = airflow.home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
    for one in instances:
        if one["state"] == "failed":
            for log in sorted(folder.glob(f"task_id={one['task_id']}/**/attempt=*.log")):
                lines += [str(log), log.read_text()[-2500:]]
            scheduler = airflow.log.read_text().splitlines()
            lines += [line[:400] for line in scheduler if one["id"] in line][-8:]
    return "\n".join(lines)


def forked(
    warm: Path, *arguments: object, folder: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run `ecdctr` in a process of its own that need not load torch: the warm process forks it."""
    said = []
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        files = output.fileno(), errors.fileno()
        words = [str(word) for word in arguments]
        code = Forked(warm, words, os.environ | environment, *files, folder or REPOSITORY).wait()
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(words, code, *said)
