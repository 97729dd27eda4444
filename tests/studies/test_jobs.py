"""The jobs of a stage: the same results in the same order, here and in several processes."""

from __future__ import annotations

import operator
import os
import subprocess
import sys

import pytest

from ecdctr.levels.request import Silent
from ecdctr.studies.jobs import stages


@pytest.mark.parametrize("workers", [1, 2])
def test_a_stage_returns_results_in_the_order_of_its_jobs_and_ends_with_the_first_error(workers):
    with stages(workers, Silent()) as stage:
        assert stage("first", operator.floordiv, [(7, 2), (9, 3), (8, 1)]) == [3, 3, 8]
        with pytest.raises(ZeroDivisionError):
            stage("second", operator.floordiv, [(1, 0), (7, 2)])


def test_a_single_worker_is_this_process_and_several_are_others():
    for workers, here in ((1, True), (2, False)):
        with stages(workers, Silent()) as stage:
            assert (stage("who", os.getpid, [()]) == [os.getpid()]) == here


DIES = """
import os
from ecdctr.levels.request import Silent
from ecdctr.studies.jobs import stages

if __name__ == "__main__":
    with stages(2, Silent()) as stage:
        print(stage("who", os.getpid, [()]), flush=True)
        os._exit(9)  # as when it is killed
"""


def test_processes_of_a_study_end_with_it_however_it_ends(tmp_path):
    """One that lived on would hold the memory, and the pipe to whoever reads what it says."""
    program = tmp_path / "dies.py"
    program.write_text(DIES)
    died = subprocess.run(
        [sys.executable, program], stdout=subprocess.PIPE, timeout=120, check=False
    )
    assert (died.returncode, died.stdout[:1]) == (9, b"[")
