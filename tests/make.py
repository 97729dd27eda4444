"""What several test modules need: configurations, and what a real Airflow says of a failed run."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ecdctr.airflow.api import ENDED, Api, RefusedError
from ecdctr.airflow.commands import Forked
from ecdctr.airflow.standalone import Airflow
from ecdctr.config import Config
from ecdctr.evaluation.basis import basis_now
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.date(2026, 1, 10)
USERS = 400
PATIENCE = 900  # seconds; an export on a busy machine takes minutes

# Ten rows are not worth what makes millions fast: Java's second compiler, tasks side by side.
# Nor is Spark's bytecode looked at each time
JAVA = (
    "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC "
    "-XX:+UnlockDiagnosticVMOptions -XX:-BytecodeVerificationRemote"
)
QUICK_SPARK = f"""
spark.master local[1]
spark.sql.shuffle.partitions 2
spark.driver.extraJavaOptions {JAVA}
"""


def quick_spark(folder: Path) -> Path:
    """Return the folder, with defaults for SPARK_CONF_DIR that start quickly in one thread."""
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


def made_before(folder: Path, config: Config) -> None:
    """Put the tiny world and its prepared days where a study would make its own of seed 1."""
    shutil.copytree(config.data.root, folder / "data")
    config.data.prepared.mkdir(exist_ok=True)
    (folder / "prepared").symlink_to(config.data.prepared)


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


def manifest(
    date: dt.date, fingerprint: str, experiment: str = "production", level: str = "cpm"
) -> Manifest:
    return Manifest(
        experiment=experiment, level=level, data_date=date, version="v0000", variant="default",
        window_start=date,
        window_end=date, fingerprint=fingerprint, parents={}, data_digests={}, config={},
        config_digest="",
        code_version="",
        code_digest="", packages={}, seed=1, optimizer_state="fresh",
        metrics={}, rows={}, files={}, started_at=NOW, finished_at=NOW, host="h",
    )  # fmt: skip


def publish(
    store: Store,
    date: dt.date,
    fingerprint: str,
    experiment: str = "production",
    force: bool = False,
) -> Manifest:
    with store.staging() as folder:
        (folder / "a").write_text(fingerprint)
        (folder / "b").write_text(fingerprint * 2)
        return store.publish(folder, manifest(date, fingerprint, experiment), force)


def evaluated(
    config: Config,
    store: Store,
    ref: Ref,
    gauc: float = 0.7,
    *dates: dt.date,
    calibration: float | None = 1.0,
    spread: float = 0.1,
    log_loss: float = 0.3,
    noise: float = 0.03,
    users: int = USERS,
    users_from: int = 0,
) -> Ref:
    """Stored evaluations whose users have an AUC around `gauc`.

    Each version and day with noise of its own.
    """
    for date in dates or (DATE + dt.timedelta(days=1),):
        rng = np.random.default_rng([ref.date.toordinal(), date.toordinal(), round(gauc * 1e6)])
        impressions = np.full(users, 10)
        table = {
            "user": np.arange(users_from, users_from + users),
            "impressions": impressions,
            "clicks": np.ones(users, np.int64),
            "auc": gauc + rng.normal(0, noise, users),
            "loss": impressions * log_loss * np.exp(rng.normal(0, noise, users)),
        }
        metrics = {"gauc": gauc, "impressions": float(impressions.sum())}
        if calibration is not None:
            metrics["calibration"] = calibration
        content = {
            "ref": str(ref),
            "date": str(date),
            **basis_now(config, ref, date)._asdict(),
            "judged_on": f"{users} users from {users_from}",
            "metrics": {"all": metrics},
            "score_spread": spread,
            "calibration_curve": [],
        }
        with store.staging() as folder:
            pq.write_table(pa.table(table), folder / "users.parquet")
            (folder / "evaluation.json").write_text(json.dumps(content))
            store.save_evaluation(folder, ref, date)
    return ref


def answer_of(app: Any, method: str, path: str, json: Any = None) -> httpx.Response:
    """Return what an ASGI application answers to a request, without a body or with one of JSON."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, json=json)

    return asyncio.run(ask())


def until(
    ready: Callable[[], object],
    late: str | Callable[[], str] = "it did not happen",
    pause: float = 0.1,
) -> None:
    """Wait until it is so.

    Raises TimeoutError with what is said of it, on a machine that stands still.
    """
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(late if isinstance(late, str) else late())
        time.sleep(pause)


def end_backfills(airflow: Airflow, dag_id: str) -> None:
    """End the backfills of a DAG, whose runs must end, and not wait until Airflow does.

    It looks each half minute whether a backfill has ended, and refuses another one until then.
    """

    def ended() -> bool:
        runs = airflow.api.runs(dag_id).values()
        return all(run["state"] in ENDED for run in runs if run["run_type"] == "backfill")

    until(ended, "the runs of a backfill do not end", pause=0.5)
    for made in airflow.api.call("GET", f"/api/v2/backfills?dag_id={dag_id}")["backfills"]:
        if not made["completed_at"]:
            with contextlib.suppress(RefusedError):  # Airflow has ended it meanwhile
                airflow.api.call("PUT", f"/api/v2/backfills/{made['id']}/cancel")


def failed_logs(airflow: Airflow, dag_id: str, run_id: str) -> str:
    """States of a run's tasks and the last lines of the log of those that failed.

    For the message of a failed test.
    """
    return logs_of_failed(airflow.api, airflow.home, airflow.log, dag_id, run_id)


def logs_of_failed(api: Api, home: Path, scheduler: Path, dag_id: str, run_id: str) -> str:
    """As `failed_logs`, for an Airflow whose parts were started one by one."""
    run = f"/api/v2/dags/{dag_id}/dagRuns/{run_id}"
    instances = api.call("GET", f"{run}/taskInstances")["task_instances"]
    lines = [f"{one['task_id']}: {one['state']}, try {one['try_number']}" for one in instances]
    folder = home / "logs" / f"dag_id={dag_id}" / f"run_id={run_id}"
    for one in instances:
        if one["state"] == "failed":
            for log in sorted(folder.glob(f"task_id={one['task_id']}/**/attempt=*.log")):
                lines += [str(log), log.read_text()[-2500:]]
            said = scheduler.read_text().splitlines()
            lines += [line[:400] for line in said if one["id"] in line][-8:]
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
