"""A dataclass of options: the command line that says the same is read back as the same."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.core import TyperOption
from typer.testing import CliRunner

from ecdctr.cli import app, net
from ecdctr.cli.ablation import AblationOptions, TuningOptions
from ecdctr.cli.base import Seeds
from ecdctr.cli.options import grouped
from ecdctr.cli.sparsity import SparsityOptions
from tests.cli.commands import ALL

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


def value_of(option: TyperOption) -> str:
    """Return a value that an option takes, of those that are checked while they are parsed."""
    return "2026-01-01" if option.metavar == "YYYY-MM-DD" else "1"


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_an_option_of_one_value_is_refused_when_it_is_given_twice(capsys, words):
    """Of two dates, the first would be dropped without a word."""
    options = [one for one in ALL[words].params if isinstance(one, TyperOption)]
    for option in options:
        if option.is_flag and not option.secondary_opts:
            continue
        first, again = option.opts[0], (option.secondary_opts or option.opts)[0]
        values = [] if option.is_flag else [value_of(option)]
        code = net.run(app, [*words, first, *values, again, *values])
        said = capsys.readouterr().err
        told = f"Invalid value for '{first}'" in said and "given 2 times, expected once" in said
        assert told is not option.multiple, said
        assert code != 0
        assert option.multiple or (code, said.count("\n")) == (2, 1), said


@pytest.mark.parametrize("option", ["--config", "--store"])
def test_a_global_option_is_given_once(capsys, option):
    assert net.run(app, [option, "a", option, "b", "schema"]) == 2
    assert "given 2 times, expected once" in capsys.readouterr().err


def test_a_flag_that_is_given_twice_says_the_same():
    assert net.run(app, ["--json", "--json", "schema"]) == 0
