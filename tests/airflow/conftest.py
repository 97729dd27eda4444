"""What the tests of Airflow share."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdctr.airflow.standalone import Airflow
from tests.conftest import once


@pytest.fixture(scope="session")
def database(shared: Path) -> Path:
    """Return an empty metadata database on SQLite, to be copied."""

    def make(home: Path) -> None:
        Airflow(home, home / "config.yaml", home / "store", 0).migrate()

    return once(shared / "database", make) / "airflow.db"
