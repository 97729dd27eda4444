"""The command line and the configuration: results, refusals in one sentence, exit codes."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import ecdctr as ecdctr_package
from ecdctr.cli import app, run
from ecdctr.config import load_config
from ecdctr.errors import ConfigError, StoreError
from ecdctr.levels.request import Request
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate
from tests.conftest import DATE, REPOSITORY
from tests.make import forked, write_config

Ecdctr = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def ecdctr(warm: Path) -> Ecdctr:
    return partial(forked, warm)


@pytest.fixture
def options(world: Path, tmp_path: Path) -> list[str]:
    config = write_config(tmp_path / "config.yaml", world)
    return ["--config", str(config), "--store", str(tmp_path / "store")]


def test_the_version_is_told():
    said = CliRunner().invoke(app, ["--version"])
    assert (said.exit_code, said.output) == (0, f"ecdctr {ecdctr_package.__version__}\n")


def test_train_starts_from_older_versions_where_it_is_told_to(options, monkeypatch):
    asked = []

    def stop(level: str, request: Request) -> None:
        asked.append(request.from_older)
        raise StoreError("enough")

    monkeypatch.setattr("ecdctr.levels.train", stop)
    for more in ([], ["--from-older"]):
        CliRunner().invoke(app, [*options, "train", "cpm", "--date", str(DATE), *more])
    assert asked == [False, True]


def test_a_day_from_the_command_line(ecdctr, options, tmp_path):
    prepared = ecdctr(*options, "--json", "prepare", "--date", str(DATE), "--validate")
    said = json.loads(prepared.stdout)
    assert said["violations"] == 0
    assert said["impressions"] > said["days"] > 1
    for level, date in (("tpm", DATE - dt.timedelta(days=1)), ("cpm", DATE), ("actr", DATE)):
        done = ecdctr(*options, "--json", "train", level, "--date", str(date))
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["version"] == f"production/{level}/{date}/v0001"
    again = json.loads(ecdctr(*options, "--json", "train", "actr", "--date", str(DATE)).stdout)
    assert again["reused"] is True
    evaluate = ("--json", "evaluate", "--date", "2026-01-19")
    said = json.loads(ecdctr(*options, *evaluate, "--gate").stdout)
    assert said["promoted"] is True
    assert 0 < said["metrics"]["all"]["gauc"] < said["metrics"]["oracle"]["gauc"]
    version = f"production/actr/{DATE}/v0001"
    gate = json.loads(
        ecdctr(*options, "--json", "gate", "--version", version, "--date", "2026-01-19").stdout
    )
    assert gate["outcome"] == "serves already"
    out = ("report", "--floor", "--out", str(tmp_path / "report.html"))
    report = ecdctr(*options, *out, "--experiments", "production")
    assert report.returncode == 0, report.stderr
    first, *others = [line for line in report.stdout.splitlines() if "0." in line]
    assert first.split()[0] == "floor:", "the better floor stands above the experiments"
    assert not any("floor:" in line for line in others)
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "<td>floor: " in page
    verified = json.loads(ecdctr(*options, "--json", "store", "verify").stdout)
    assert verified == {"versions": 3, "problems": "none"}


def test_the_command_line_starts_without_the_libraries_of_its_commands():
    """They are what a start costs: --help takes a third of a second, torch alone one and a half."""
    code = "import sys; import ecdctr.cli; print(*{n.partition('.')[0] for n in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "duckdb", "pyarrow", "numpy", "airflow", "matplotlib", "fsspec", "jinja2"}
    assert not heavy & set(done.stdout.split())


def test_every_line_of_a_log_says_what_it_is_about(ecdctr, options, monkeypatch):
    done = ecdctr(*options, "train", "tpm", "--date", str(DATE), "--experiment", "x")
    about = f"[level=tpm experiment=x data_date={DATE}"
    assert [line for line in done.stderr.splitlines() if about not in line] == []
    assert f"published  {about} version=v0001]" in done.stderr
    monkeypatch.setenv("ECDCTR_LOG", "json")
    again = ecdctr(*options, "train", "tpm", "--date", str(DATE), "--experiment", "x")
    lines = [json.loads(line) for line in again.stderr.splitlines()]
    assert {(line["level"], line["experiment"], line["data_date"]) for line in lines} == {
        ("tpm", "x", str(DATE))
    }
    assert lines[-1]["event"] == "found again"
    assert lines[-1]["version"] == "v0001"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["train", "actr", "--date", "2026-01-18"],
            "No cpm version with data date on or before 2026-01-18",
        ),
        (["train", "tpm", "--date", "2026-02-30"], "expected YYYY-MM-DD"),
        (["train", "xyz", "--date", "2026-01-18"], "is not one of 'tpm', 'cpm', 'actr'"),
        (["train", "tpm", "--date", "2026-01-30"], "days are missing"),
        (["train", "cpm", "--date", "2026-01-18", "--variant", "nope"], "known variants: ads_only"),
        (["train", "cpm", "--date", "2026-01-18", "--variant", "no_tpm"], "name an experiment"),
        (["store", "show", "nonsense"], "expected experiment/level/YYYY-MM-DD"),
        (["simulate", "--world", "huge"], "No world 'huge'; expected one of daily, demo, "),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_one_or_two(ecdctr, options, arguments, words):
    done = ecdctr(*options, *arguments)
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"snapshots": {"count": "many"}}, "snapshots.count"),
        ({"snapshot": {"count": 1}}, "snapshot: there is no such key; did you mean 'snapshots'"),
        (
            {"features": [{"name": "click", "side": "user", "kind": "categorical"}]},
            "column of the contract",
        ),
        (
            {"features": [{"name": "p", "side": "item", "kind": "numeric", "tpm": True}]},
            "categorical features only",
        ),
        ({"network": {"embedding_dim": 7}}, "not a multiple"),
        ({"variants": {"odd": {"cpm": {"window_days": 0}}}}, "variant 'odd'"),
    ],
)
def test_a_bad_configuration_names_the_key(tmp_path, change, words):
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(change))
    with pytest.raises(ConfigError, match=words):
        load_config(path)


def test_the_presets_in_configs_load():
    for name in ("tiny", "daily", "demo", "large"):
        load_config(REPOSITORY / "configs" / f"{name}.yaml")


def test_two_worlds_never_mix_in_one_folder(tmp_path):
    sim = load_world("tiny").settings.model_copy(update={"days": 1})
    simulate(sim, 1, tmp_path, workers=1)
    simulate(sim, 1, tmp_path, workers=1)
    with pytest.raises(ConfigError, match="another simulated world"):
        simulate(sim, 2, tmp_path, workers=1)


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"seed": 1', b"\xff\xfe", None])
@pytest.mark.parametrize("command", ["simulate", "ablation", "forgetting", "tune"])
def test_a_damaged_description_of_a_world_is_told(tmp_path, monkeypatch, capfd, command, damage):
    """As a process that was killed leaves it; None is a folder in its place."""
    monkeypatch.chdir(tmp_path)
    where = {"simulate": ["--out", str(tmp_path / "made")]}.get(
        command, ["--work", "made", "--seeds", "1", "--rows", "ads_only"]
    )
    root = tmp_path / "made" / ("" if command == "simulate" else "tiny-1/data")
    root.mkdir(parents=True)
    path = root / "world.json"
    path.mkdir() if damage is None else path.write_bytes(damage)
    config = ["--config", str(REPOSITORY / "configs" / "tiny.yaml")]
    assert run(app, [*config, command, "--world", "tiny", *where]) == 1
    said = capfd.readouterr().err
    assert f"{path} is damaged (" in said
    assert f"or delete {root} and simulate the world again" in said
