"""ecdctr doctor: what is missing, each with the mend."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from ecdctr.cli.base import app
from tests.conftest import REPOSITORY
from tests.make import write_config


def test_data_are_measured_and_placed_on_the_map(world: Path, tmp_path: Path, store: Path):
    config = write_config(tmp_path / "config.yaml", world)
    options = ["--config", str(config), "--store", str(store), "doctor", "--data"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "visits_per_month" in done.output
    assert "map" in done.output or "Nearest measured world" in done.output
    machine = CliRunner().invoke(app, ["--json", *options])
    assert json.loads(machine.output)["statistics"]["days"] == 24


def doctor(world: Path, tmp_path: Path, store: Path, **environment: str) -> dict[str, str]:
    """Texts by their first word: 'ok' or 'mend', all lines of a kind together."""
    config = write_config(tmp_path / "config.yaml", world)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "ECDCTR"))
    }
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ecdctr.cli",
            "--config",
            str(config),
            "--store",
            str(store),
            "doctor",
        ],
        env=clean | {"AIRFLOW_HOME": str(tmp_path / "home")} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    said: dict[str, str] = {"code": str(done.returncode)}
    for line in done.stdout.splitlines():
        kind, _, text = line.partition(" ")
        said[kind] = said.get(kind, "") + text.strip() + "\n"
    return said


def test_a_machine_that_is_ready(world, tmp_path):
    said = doctor(
        world,
        tmp_path,
        tmp_path / "store",
        ECDCTR_CONFIG="c",
        ECDCTR_STORE="s",
        AIRFLOW__CORE__DAGS_FOLDER=str(REPOSITORY / "dags"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql+psycopg2://u@h/d",
    )
    assert "mend" not in said, said["mend"]
    assert said["code"] == "0"
    assert "natural: 24 days, 2026-01-01 to 2026-01-24" in said["ok"]


def test_what_is_missing_is_named_with_the_mend(world, tmp_path):
    said = doctor(
        world,
        tmp_path,
        tmp_path / "store",
        AIRFLOW__API__PORT="8090",
        AIRFLOW__API__HOST="0.0.0.0",  # noqa: S104  # what doctor must warn of
        AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS="True",
    )
    assert said["code"] == "1"
    for words in (
        "everybody is admin, on 0.0.0.0; bind to loopback",
        "set it to http://HOST:8090/execution/",
    ):
        assert words in said["mend"]
    for words in ("ECDCTR_CONFIG is not set", "no ecdctr DAGs in", "use PostgreSQL for a team"):
        assert words in said["note"]


def test_a_fresh_clone_is_healthy(tmp_path):
    """No data, no Airflow of its own yet: to be set up, not to be mended."""
    said = doctor(tmp_path / "no-world", tmp_path, tmp_path / "store")
    assert said["code"] == "0", said.get("mend")
    assert "natural: 0 days; deliver Parquet files" in said["note"]
