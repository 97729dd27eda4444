"""The demo's configuration, and where its runs come from."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import yaml

from ecdctr.config import load_config
from ecdctr.demo import run
from ecdctr.demo.run import write_config
from tests.conftest import REPOSITORY


def test_the_ui_makes_the_pool_that_the_configuration_names(tmp_path, monkeypatch):
    pools: dict[str, int] = {}

    def stopped() -> None:
        raise KeyboardInterrupt

    airflow = SimpleNamespace(
        running=contextlib.nullcontext,
        api=SimpleNamespace(pool=pools.__setitem__),
        url="",
        check_alive=stopped,
    )
    config = write_config(tmp_path)
    raw = yaml.safe_load(config.read_text())
    raw["airflow"]["pool"] = "trainings"
    config.write_text(yaml.safe_dump(raw))
    monkeypatch.setattr(run, "write_config", lambda home: config)
    monkeypatch.setattr(run, "Airflow", lambda *_, **__: airflow)
    monkeypatch.setattr(run.time, "sleep", lambda _: None)
    with pytest.raises(KeyboardInterrupt):
        run.ui(tmp_path, 1)
    assert pools == {"trainings": run.SLOTS}


def test_the_demo_differs_from_its_configuration_in_its_places_alone(tmp_path):
    ours = load_config(write_config(tmp_path))
    shipped = load_config(REPOSITORY / "configs" / "demo.yaml")
    assert ours.data.root == tmp_path / "data"
    places = {"root": shipped.data.root, "prepared": shipped.data.prepared}
    data = ours.data.model_copy(update=places)
    assert ours.model_copy(update={"data": data}) == shipped
