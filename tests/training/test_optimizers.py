"""The optimizer of the dense parameters against PyTorch's own, and what training imports."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from ecdctr.training.optimizers import DenseAdam
from tests.conftest import DATE, REPOSITORY
from tests.make import write_config


def test_dense_adam_makes_the_steps_of_torch_adam_and_leaves_alone_what_has_no_gradient():
    torch.manual_seed(1)
    ours = [nn.Parameter(torch.randn(shape)) for shape in ((4, 3), (3,), (2, 2))]
    theirs = [nn.Parameter(parameter.detach().clone()) for parameter in ours]
    adam = DenseAdam([(ours[:1], 0.01), (ours[1:], 0.1), ([], 1.0)])
    peer = torch.optim.Adam(
        [{"params": theirs[:1], "lr": 0.01}, {"params": theirs[1:], "lr": 0.1}], fused=True
    )
    for step in range(5):
        adam.zero_grad()
        for mine, other in zip(ours, theirs, strict=True):
            other.grad = None if step == 2 and mine is ours[1] else torch.randn(mine.shape)
            mine.grad = other.grad
        adam.step(adam.begin(1.0))
        peer.step()
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.equal(mine, other)
        for key, value in peer.state[other].items():
            assert torch.equal(adam.state[mine][key], value), key


def test_a_training_does_not_import_the_compiler(world, tmp_path):
    """It takes a second, in each process that Airflow starts, and is used with `compile` alone."""
    config = write_config(tmp_path / "config.yaml", world)
    arguments = ["--config", str(config), "--store", str(tmp_path / "store")]
    arguments += ["train", "tpm", "--date", str(DATE)]
    code = f"""
import sys
from ecdctr.cli.base import app
import ecdctr.cli
sys.argv = ["ecdctr", *{arguments!r}]
try:
    app()
except SystemExit:
    print(sorted(name for name in ("torch", "torch._dynamo", "sympy") if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['torch']"
