"""One running Airflow for all tests of this folder, or one in each worker that runs a file of it.

A start takes half a minute of a processor; but these tests mostly wait, and one after another they
waited as long as all others worked. They keep apart by experiment and, where Airflow knows a run
by its date, by date.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.store.store import Store
from tests.make import write_config


@pytest.fixture(scope="package")
def kept() -> Iterator[contextlib.ExitStack]:
    """Yield what keeps the Airflow running until the last test of the folder."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="package")
def live(
    world: Path,
    parents: Path,
    tmp_path_factory: pytest.TempPathFactory,
    kept: contextlib.ExitStack,
) -> Airflow:
    """Return it; its store has TPM and CPM of the day before the backfills."""
    folder = tmp_path_factory.mktemp("live")
    shutil.copytree(world, folder / "world")  # a test delivers further days
    settings = {"deadline_hours": 30 / 3600, "retries": 4, "retry_seconds": 1}
    config = write_config(folder / "config.yaml", folder / "world", **settings)
    store = shutil.copytree(parents, folder / "store")
    made = Airflow(folder / "home", config, store, free_port(), scheduled=False, warm=True)
    made.environment |= {  # a test kills it, and what it was doing is soon found
        "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "5",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
    }
    kept.enter_context(made.running())
    made.api.pool("gpu", 2)
    made.wait_for_dags()
    return made


@pytest.fixture
def versions(live: Airflow) -> Store:
    """Return its store."""
    return Store(live.environment["ECDCTR_STORE"])
