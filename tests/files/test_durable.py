"""Folders to work in, of which killed processes leave some."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from ecdctr.files import durable

WORKS = """
import os, signal, sys
from pathlib import Path
from ecdctr.files import durable
with durable.scratch(Path(sys.argv[1]), ".export-") as place:
    (place / "half").write_text("half")
    print(place.name, flush=True)
    signal.pause()
"""


@pytest.fixture
def at_work(tmp_path):
    """Return a process that works in a folder, and the folder."""
    command = [sys.executable, "-c", WORKS, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process, tmp_path / process.stdout.readline().strip()
        process.kill()


def test_what_a_killed_process_left_goes_with_the_next_one_and_what_is_in_use_stays(
    at_work, tmp_path
):
    """Each export that a machine killed for its memory left a bundle, and was tried each minute."""
    process, folder = at_work
    with durable.scratch(tmp_path, ".export-") as ours:
        assert (folder / "half").exists()
        assert ours != folder
    assert not ours.exists()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert folder.exists()
    with durable.scratch(tmp_path, ".patch-"):
        assert folder.exists()  # of others
    with durable.scratch(tmp_path, ".export-") as ours:
        assert [ours] == list(tmp_path.iterdir())


def test_a_folder_that_was_taken_for_a_left_one_before_it_was_locked_is_made_again(
    tmp_path, monkeypatch
):
    made = durable.tempfile.mkdtemp
    names: list[str] = []

    def removed_at_once(**where):
        names.append(made(**where))
        if len(names) == 1:
            os.rmdir(names[0])
        return names[-1]

    monkeypatch.setattr(durable.tempfile, "mkdtemp", removed_at_once)
    with durable.scratch(tmp_path, ".export-") as folder:
        assert [str(folder)] == names[1:]
        assert folder.exists()
