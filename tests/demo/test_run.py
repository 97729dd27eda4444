"""The demo's configuration, and where its runs come from."""

from __future__ import annotations

import contextlib
import sys
from types import SimpleNamespace

import pytest
import yaml

from ecdctr.config import load_config
from ecdctr.demo import run
from ecdctr.demo.run import write_config
from ecdctr.errors import EcdctrError
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


@pytest.mark.parametrize("name", ["config.yaml", "store", "airflow"])
def test_the_demo_writes_over_nothing_that_no_demo_made(tmp_path, name):
    """With --home of a folder of one's own it removed the store there, which was no demo's."""
    (tmp_path / name).mkdir()
    with pytest.raises(EcdctrError, match=rf"holds {name}.*--home"):
        write_config(tmp_path)
    (tmp_path / name).rmdir()
    write_config(tmp_path)
    if name != "config.yaml":
        (tmp_path / name).mkdir()
    assert load_config(write_config(tmp_path)).data.root == tmp_path / "data"


def ended(monkeypatch, *arguments: object) -> object:
    """Return the exit code of a command of ./run."""
    monkeypatch.setattr(sys, "argv", ["run", *map(str, arguments)])
    monkeypatch.setattr(run, "missing", lambda: None)
    monkeypatch.setattr(run.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        run.main()
    return end.value.code


@pytest.mark.parametrize(
    ("option", "value"),
    [("--days", "0"), ("--days", "-3"), ("--days", "31"), ("--days", "x"), ("--home", "")],
)
def test_what_the_demo_cannot_do_is_refused_at_once(monkeypatch, capsys, option, value):
    assert ended(monkeypatch, "run", f"{option}={value}") == 2
    assert f"argument {option}: " in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--help"], ["dags", "list", "-o", "json"], []])
def test_all_that_follows_airflow_is_airflows(monkeypatch, given):
    """Of `./run airflow --help` argparse took the option for one of its own, and refused it."""
    told: list[list[str]] = []
    monkeypatch.setattr(run, "airflow", lambda _home, arguments: told.append(arguments) or 0)
    assert ended(monkeypatch, "airflow", *given) == 0
    assert told == [given]


@pytest.mark.parametrize("port", ["-1", "0", "65536", "²", "http"])
def test_a_port_that_no_machine_has_is_refused_at_once(monkeypatch, capsys, port):
    assert ended(monkeypatch, "ui", f"--port={port}") == 2
    assert f"'{port}': expected a whole number, 1 to 65535" in capsys.readouterr().err


def test_whatever_ends_the_demo_is_one_sentence_with_the_exit_code_of_its_kind(
    monkeypatch, capsys, tmp_path
):
    (tmp_path / "file").touch()
    assert ended(monkeypatch, "ui", "--home", tmp_path / "file") == 1
    said = capsys.readouterr().err
    assert said.startswith(f"./run: File exists at {tmp_path / 'file'}: expected a folder there")
    for error, code, words in (
        (OSError(28, "No space left on device", "/x"), 75, "No space left on device at /x"),
        (IndexError("list index out of range"), 70, "IndexError: list index out of range. Give"),
    ):
        monkeypatch.setattr(run, "ui", lambda *_, error=error: (_ for _ in ()).throw(error))
        assert ended(monkeypatch, "ui", "--home", tmp_path) == code
        assert words in capsys.readouterr().err
    assert ended(monkeypatch, "ui", "--home", tmp_path, "--debug") == 70
    assert "Traceback" in capsys.readouterr().err
