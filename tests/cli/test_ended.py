"""A command that is ended by a signal, that cannot print, or whose environment is half said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecdctr.cli import app
from ecdctr.cli.ended import ENDING, sentence, telling_signals
from ecdctr.cli.net import explained, run
from ecdctr.errors import ConfigError
from ecdctr.files.cache import Cache
from tests.conftest import REPOSITORY

BUSY = """
import hashlib, signal
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests may run under nohup
from ecdctr.cli.ended import telling_signals
from ecdctr.console import Bars
with telling_signals():
    Bars().start("train", 7)
    print("ready", flush=True)
    hashlib.pbkdf2_hmac("sha1", b"", b"", 10**8)  # Python's own handlers would wait for its end
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


def test_who_handles_a_signal_later_is_not_cut_short():
    """As a server does, which finishes what it was asked for."""
    code = """
import os, signal, time
from ecdctr.cli.ended import telling_signals
with telling_signals():
    signal.signal(signal.SIGTERM, lambda *_: print("handled"))
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.5)
    print("finished")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\nfinished\n")


FEW = """
import runpy, sys, threading
threading.Thread.start = lambda _: (_ for _ in ()).throw(
    RuntimeError("can't start new thread"))
sys.argv = ["ecdctr", *sys.argv[1:]]
runpy.run_module("ecdctr.cli", run_name="__main__", alter_sys=True)
"""


def without_threads(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command where no thread can be started."""
    return subprocess.run(
        [sys.executable, "-c", FEW, *words],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
        timeout=120,
    )


def test_a_limit_of_threads_is_told_before_any_work():
    done = without_threads("validate")
    assert done.returncode == 75
    assert "This process may start 0 threads, expected" in done.stderr
    assert "raise the limit of processes and threads (ulimit -u" in done.stderr
    assert without_threads("schema").returncode == 0  # nor does the one that hears signals hinder


def test_a_thread_that_cannot_be_started_is_told_whatever_comes_of_it():
    def start() -> None:
        try:
            raise RuntimeError("can't start new thread")
        except RuntimeError:
            raise ValueError("cannot join it")  # noqa: B904  # as libraries do

    with pytest.raises(ValueError, match="join") as raised:
        start()
    code, words = explained(raised.value, ["train"])
    assert code == 75
    assert words.startswith("can't start new thread")


def test_the_processes_that_work_for_one_end_with_it():
    """Also one that does not listen, as in its first moments after the fork."""
    code = """
import multiprocessing, signal, time
from ecdctr.cli.ended import telling_signals
fork = multiprocessing.get_context("fork")
deaf = fork.Event()
def work():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    deaf.set()
    time.sleep(600)
with telling_signals():
    fork.Process(target=work).start()
    deaf.wait()
    print("ready", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(60) == 143
        assert process.stdout.read() == ""  # which the worker held open


@pytest.fixture
def _default_signals() -> Iterator[None]:
    """Have the signals as the system has them; the tests may run under nohup."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in ENDING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_default_signals")
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
