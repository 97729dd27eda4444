"""A command that is ended by a signal, that cannot print, or whose environment is half said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ecdctr.cli import app
from ecdctr.cli.ended import ENDING, sentence, telling_signals
from ecdctr.cli.net import run
from ecdctr.errors import ConfigError
from ecdctr.files.cache import Cache
from tests.conftest import REPOSITORY

BUSY = """
import hashlib
from ecdctr.cli.ended import telling_signals
from ecdctr.console import Bars
with telling_signals():
    Bars().start("train", 7)
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha1", b"", b"", 10**9)  # Python's own handlers would wait for its end
"""


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_is_told_at_once_and_ends_the_process(number):
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    name = signal.Signals(number).name
    assert process.returncode == 128 + number
    assert f"ecdctr: ended by {name} at the step 'train'. Nothing was published in part" in said


def test_signals_are_left_as_they_were():
    before = [signal.getsignal(number) for number in ENDING]
    threads = threading.active_count()
    with telling_signals():
        assert all(signal.getsignal(number) != signal.SIG_DFL for number in ENDING)
        child = os.fork()  # has no thread that hears, so that a signal ends it as ever
        if child == 0:
            os._exit(sum(signal.getsignal(number) != signal.SIG_DFL for number in ENDING))
        assert os.waitpid(child, 0)[1] == 0
    assert [signal.getsignal(number) for number in ENDING] == before
    for thread in threading.enumerate():
        if thread.name.endswith("(_end)"):
            thread.join(10)
    assert threading.active_count() <= threads


def test_an_ignored_signal_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with telling_signals():
            os.kill(os.getpid(), signal.SIGHUP)  # as under nohup
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_sentence_says_how_to_go_on():
    assert sentence(signal.SIGTERM).endswith("run the same command again to go on.")


@pytest.mark.parametrize("words", [["schema"], ["--help"], ["--version"]])
def test_an_output_that_is_full_is_named(words):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ecdctr.cli", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            check=False,
        )
    assert done.returncode == 75
    assert "No space left on device at standard output: free some space" in done.stderr


@pytest.mark.parametrize("name", ["ECDCTR_STORE", "ECDCTR_CONFIG", "ECDCTR_LOG"])
def test_a_variable_that_is_set_but_empty_is_refused(monkeypatch, capsys, name):
    monkeypatch.setenv(name, "")
    assert run(app, ["schema"]) == 1
    assert f"{name} is set but empty; set it to a value, or unset it." in capsys.readouterr().err
    option = {"ECDCTR_STORE": "--store", "ECDCTR_CONFIG": "--config"}.get(name)
    if option:  # what the command line says goes before the environment
        assert run(app, [option, "x", "schema"]) == 0


@pytest.mark.parametrize("name", ["ECDCTR_CACHE", "ECDCTR_CACHE_GB"])
def test_a_cache_that_is_set_but_empty_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "")
    with pytest.raises(ConfigError, match=f"{name} is set but empty"):
        Cache.of("s3://bucket")


def test_another_form_of_the_log_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("ECDCTR_LOG", "xml")
    assert run(app, ["schema"]) == 1
    assert "ECDCTR_LOG is 'xml', expected json" in capsys.readouterr().err
