"""ecdctr doctor: what is missing, each with the mend."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from typer.testing import CliRunner

from ecdctr.cli.base import app
from ecdctr.config import load_config
from ecdctr.doctor import examine
from ecdctr.store import places
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import REPOSITORY
from tests.make import DAY, forked, write_config


def test_data_are_measured_and_placed_on_the_map(world: Path, tmp_path: Path, store: Path):
    config = write_config(tmp_path / "config.yaml", world)
    options = ["--config", str(config), "--store", str(store), "doctor", "--data"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "visits_per_month" in done.output
    assert "map" in done.output or "Nearest measured world" in done.output
    told = json.loads(CliRunner().invoke(app, ["--json", *options]).output)
    assert told["statistics"]["days"] == 24
    days = sorted(world.glob("domain=ads/date=*"))[-load_config(config).actr.window_days :]
    ads = sum(pq.read_table(day, partitioning=None).num_rows for day in days)
    assert told["ads_in_window"] == ads
    assert f"holds {ads:,} ads, fewer than" in done.output, "with few ads a longer window"
    assert "try up to 24 days" in done.output, "no longer than the log"


@pytest.mark.parametrize("actr", [{"window_days": 24}, {"policy": "continue"}])
def test_no_longer_window_is_advised_where_it_would_read_nothing_more(
    world: Path, tmp_path: Path, store: Path, actr: dict[str, object]
):
    config = write_config(tmp_path / "config.yaml", world)
    raw = yaml.safe_load(config.read_text())
    raw["actr"] |= actr
    config.write_text(yaml.safe_dump(raw))
    options = ["--config", str(config), "--store", str(store), "doctor", "--data"]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 0, done.output
    assert "By the rule of thumb" in done.output
    assert "actr.window_days" not in done.output


Doctor = Callable[..., dict[str, str]]


@pytest.fixture
def doctor(warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """What doctor says in an environment, by the first word: 'ok' or 'mend', all lines together."""
    for name in [name for name in os.environ if name.startswith(("AIRFLOW", "ECDCTR"))]:
        monkeypatch.delenv(name)

    def say(world: Path, **environment: str) -> dict[str, str]:
        config = write_config(tmp_path / "config.yaml", world)
        options = "--config", config, "--store", tmp_path / "store"
        home = str(tmp_path / "home")
        done = forked(warm, *options, "doctor", AIRFLOW_HOME=home, **environment)
        said: dict[str, str] = {"code": str(done.returncode)}
        for line in done.stdout.splitlines():
            kind, _, text = line.partition(" ")
            said[kind] = said.get(kind, "") + text.strip() + "\n"
        return said

    return say


def test_a_machine_that_is_ready(doctor, world):
    said = doctor(
        world,
        ECDCTR_CONFIG="c",
        ECDCTR_STORE="s",
        AIRFLOW__CORE__DAGS_FOLDER=str(REPOSITORY / "dags"),
        AIRFLOW__DATABASE__SQL_ALCHEMY_CONN="postgresql+psycopg2://u@h/d",
    )
    assert "mend" not in said, said["mend"]
    assert said["code"] == "0"
    assert "natural: 24 days, 2026-01-01 to 2026-01-24" in said["ok"]


def test_what_is_missing_is_named_with_the_mend(doctor, world):
    said = doctor(
        world,
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


@pytest.mark.parametrize("capable", [True, False])
def test_bfloat16_without_the_hardware_for_it_is_told(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capable: bool
):
    """On a processor with AVX2 alone a training took twenty times as long, without a word."""
    config = write_config(tmp_path / "config.yaml", world)
    raw = yaml.safe_load(config.read_text())
    raw.setdefault("cpm", {})["precision"] = "bfloat16"
    config.write_text(yaml.safe_dump(raw))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": capable})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    told = [finding for finding in examine(config, tmp_path) if "is bfloat16" in finding.text]
    assert [finding.kind for finding in told] == ([] if capable else ["note"])
    assert all("precision of cpm is bfloat16" in finding.text for finding in told)


def test_a_fresh_clone_is_healthy(doctor, tmp_path):
    """No data, no Airflow of its own yet: to be set up, not to be mended."""
    said = doctor(tmp_path / "no-world")
    assert said["code"] == "0", said.get("mend")
    assert "natural: 0 days; deliver Parquet files" in said["note"]


def test_a_check_that_cannot_be_made_is_told_and_the_others_are_made(tmp_path):
    """One damaged record, or a folder that cannot be looked into, ended the whole command."""
    data, root = tmp_path / "data", tmp_path / "store"
    data.mkdir()
    (data / "domain=natural").symlink_to("domain=natural")
    config = write_config(tmp_path / "config.yaml", data)
    store = Store(root)
    ref = Ref("production", "actr", DAY, "v0001")
    with store.staging() as folder:
        (folder / "evaluation.json").write_text("{}")
        store.save_evaluation(folder, ref, DAY)
    store.storage.append(places.verdicts(ref), b"{")
    texts = [one.text for one in examine(config, root) if one.kind == "mend"]
    assert any("mend the link that points to itself" in text for text in texts)
    assert any("is damaged" in text and "put it back from a copy" in text for text in texts)
    assert any("AIRFLOW_HOME" in one.text for one in examine(config, root))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS", "maybe"),
        ("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "nonsense"),
    ],
)
def test_a_setting_that_airflow_cannot_use_is_a_finding(doctor, world, name, value):
    said = doctor(world, **{name: value})
    assert said["code"] == "1"
    assert "Airflow cannot use its settings (" in said["mend"]
    assert "look at the variables AIRFLOW__… and at airflow.cfg" in said["mend"]
