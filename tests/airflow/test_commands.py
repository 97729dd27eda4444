"""A command that a warm process forks is like one in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from ecdctr.airflow.commands import WARM, Forked, start


def test_a_file_beside_the_log_is_no_module_of_a_command(tmp_path, monkeypatch):
    """A script named http.py or random.py in the folder that somebody works in."""
    for name in ("http", "random", "json"):
        (tmp_path / f"{name}.py").write_text("raise ConnectionRefusedError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(WARM, "")
    made = start(["--store", "store", "--json", "store", "list"], dict(os.environ))
    with made.stdout as output:
        assert output.read() == '{"versions": [], "unreadable": []}\n'
    assert made.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--json", "store", "list"], 0, "[]"),
        (["store", "show", "nonsense"], 1, "expected experiment/level/YYYY-MM-DD"),
        (["train", "tpm", "--date", "2026-02-30"], 2, "is not a date; expected YYYY-MM-DD"),
    ],
)
def test_it_ends_and_says_as_a_process_of_its_own(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments, code, words
):
    monkeypatch.chdir(tmp_path)  # the store's name is read from there
    said = {}
    for kind, path in ((Forked, str(warm)), (subprocess.Popen, "")):
        monkeypatch.setenv(WARM, path)
        made = start(["--store", "store", *arguments], dict(os.environ))
        assert isinstance(made, kind)
        with made.stdout as output:
            said[kind] = output.read()
        assert made.wait() == code, said
        assert made.poll() is not None
    assert words in said[Forked]
    assert said[Forked] == said[subprocess.Popen]


def test_its_environment_is_that_of_who_asks_and_it_leads_a_session(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(WARM, str(warm))
    elsewhere = {"ECDCTR_CONFIG": str(tmp_path / "none.yaml")}
    made = start(["validate", "--date", "2026-01-18"], dict(os.environ) | elsewhere)
    assert os.getsid(made.pid) == made.pid
    with made.stdout as output:
        assert str(tmp_path / "none.yaml") in output.read()
    made.wait()


def test_one_that_is_killed_is_told_from_one_that_ends(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(WARM, str(warm))
    made = start(["--store", str(tmp_path), "store", "list"], dict(os.environ))
    os.killpg(made.pid, signal.SIGKILL)
    assert made.wait() == -signal.SIGKILL


def test_where_nobody_listens_it_is_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(WARM, str(tmp_path / "nobody"))
    with start(["schema"], dict(os.environ)) as made:
        assert isinstance(made, subprocess.Popen)
        assert "snapshots" in made.stdout.read()


def test_who_goes_away_before_he_has_asked_disturbs_nobody(
    warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(str(warm))
        asking.sendall(b'{"arguments": [')
    monkeypatch.setenv(WARM, str(warm))
    made = start(["train", "tpm", "--date", "never"], dict(os.environ))
    with made.stdout as output:
        assert "'never' is not a date" in output.read()
    assert made.wait() == 2
