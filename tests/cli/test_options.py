"""A dataclass of options: the command line that says the same is read back as the same."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from ecdctr.cli.ablation import AblationOptions, TuningOptions
from ecdctr.cli.base import Seeds
from ecdctr.cli.options import grouped
from ecdctr.cli.sparsity import SparsityOptions

ABLATIONS = [
    AblationOptions(),
    AblationOptions(
        seeds=Seeds((7, 8)),
        rows="full,paper@7",
        eval_days=9,
        chain_days=0,
        base="full_window",
        world="my worlds/a.yaml",
        changes=["users=60000", "name=a b"],
        work=Path("some where"),
        own_data=True,
        eval_every=5,
    ),
]
TUNINGS = [TuningOptions(), TuningOptions(level="cpm", chain_days=3, world="tiny", changes=["a=1"])]
SPARSITIES = [SparsityOptions(), SparsityOptions(base="full,tenth", own_data=True)]


@pytest.mark.parametrize("options", [*ABLATIONS, *TUNINGS, *SPARSITIES], ids=repr)
def test_the_command_that_a_page_prints_asks_for_what_was_run(options):
    read: list[object] = []

    def command(options):
        read.append(options)

    command.__annotations__ = {"options": type(options), "return": None}
    app = typer.Typer(add_completion=False)
    app.command()(grouped(command))
    program, _, *arguments = shlex.split(options.command)
    assert program == "ecdctr"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert read == [options]


def test_a_page_always_names_seeds_rows_and_days():
    said = replace(ABLATIONS[0], world="tiny").command
    assert said == (
        "ecdctr ablation --seeds 1,2,3 --rows ads_only,tpm_only,no_tpm,full --eval-days 4 "
        "--world tiny"
    )
