"""Benches that no test can run whole: their refusals, and what they count."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmarks import day, tpm
from benchmarks.demos import left_running
from benchmarks.gpu import cost_of, main, moved
from ecdctr.airflow.standalone import MARK
from ecdctr.config import load_config
from tests.conftest import REPOSITORY

BENCHES = sorted((REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("path", BENCHES, ids=lambda path: path.stem)
def test_what_a_bench_takes_from_the_project_is_there(path):
    """A bench runs rarely: it must not be left behind when something moves."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ecdctr"):
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                assert hasattr(module, alias.name) or importlib.util.find_spec(whole), whole


def test_the_configurations_that_benches_write_are_valid(tmp_path, monkeypatch):
    monkeypatch.setattr(day, "FOLDER", tmp_path)
    monkeypatch.setattr(tpm, "FOLDER", tmp_path)
    for path in (day.configuration(tmp_path / "world"), tpm.configuration(90, "incremental")):
        load_config(path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_bench_for_a_gpu_refuses_in_one_sentence_where_there_is_none():
    with pytest.raises(SystemExit) as refused:  # of a text: exit code 1, on stderr
        main()
    assert str(refused.value).startswith("./run bench gpu: torch finds no GPU")
    assert len(str(refused.value).splitlines()) == 1


def test_products_are_counted_as_by_hand():
    layer, rows = nn.Linear(8, 4, bias=False), torch.randn(16, 8)
    forward = 2 * 16 * 8 * 4
    assert cost_of(lambda: layer(rows).sum().backward()).flops == 2 * forward  # and the weights'


def test_of_a_table_only_the_rows_that_are_touched_are_counted():
    table, index, rows = torch.zeros(1000, 4), torch.tensor([1, 5, 7]), torch.ones(3, 4)
    gathered = cost_of(lambda: table.index_select(0, index)).bytes
    assert gathered == 2 * 3 * 4 * 4 + 3 * 8  # read, written, and the index
    assert cost_of(lambda: table.index_copy_(0, index, rows)).bytes == gathered


def test_another_view_of_a_tensor_moves_nothing_and_a_sum_in_place_reads_and_writes():
    tensor = torch.zeros(10, 4)
    assert cost_of(lambda: tensor.view(4, 10).t()).bytes == 0
    assert moved("add_", (tensor, tensor), tensor) == 3 * 10 * 4 * 4


def test_a_process_that_a_demo_left_is_found_by_its_mark_or_by_its_folder(tmp_path):
    wait = "import sys; print(flush=True); sys.stdin.read()"
    marked, named = [sys.executable, "-c", wait], [sys.executable, "-c", wait, str(tmp_path / "db")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    assert left_running(tmp_path) == []
    with (
        subprocess.Popen(marked, env=os.environ | {MARK: str(tmp_path / "a")}, **pipes) as one,
        subprocess.Popen(named, **pipes) as other,
    ):
        for process in (one, other):
            process.stdout.readline()
        assert len(left_running(tmp_path)) == 2
        for process in (one, other):
            process.stdin.close()
    assert left_running(tmp_path) == []
