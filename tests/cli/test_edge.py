"""The outer edge: however a command ends.

One sentence and an exit code that says what kind of end it is.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from typer.main import get_command

from ecdctr.cli import app, base, net
from ecdctr.cli.data import _without_clicks
from ecdctr.cli.levels import SHOWN_METRICS
from ecdctr.console import (
    Bars,
    JsonLines,
    Lines,
    labelled,
    table,
    table_of_words,
    terminal,
    writing_what_fits,
)
from ecdctr.errors import StoreError
from ecdctr.impressions.contract import DayReport
from tests.cli.commands import ALL, commands
from tests.conftest import REPOSITORY
from tests.make import write_config


def ends(monkeypatch, words: tuple[str, ...], error: BaseException, *before: str) -> int:
    """Return the exit code of a command whose body raises."""

    def body(**_: object) -> None:
        raise error

    group = get_command(app)
    command = dict(commands(group))[words]
    monkeypatch.setattr(command, "params", [])
    monkeypatch.setattr(command, "callback", body)
    monkeypatch.setattr(net, "get_command", lambda _: group)
    return net.run(app, [*before, *words])


def test_there_are_all_commands():
    assert len(ALL) > 20


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams_are_no_error(closed):
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m ecdctr.cli schema {closed}', sys.executable],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("store list", 0),
        ("store list 1>&2", 75),
        ("train tpm --date 2020-01-01", 1),
        ("train tpm", 2),
    ],
)
def test_a_log_on_a_full_disk_changes_no_end(tmp_path, world, command, code):
    """What is said is lost there; a training was given up for it, and each refusal was 1."""
    settings = write_config(tmp_path / "c.yaml", world)
    line = f'exec 2> /dev/full; exec "$0" -m ecdctr.cli --config {settings} --store {tmp_path}/s '
    done = subprocess.run(
        ["/bin/sh", "-c", line + command, sys.executable],
        capture_output=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.returncode == code


def test_a_log_that_cannot_be_written_ends_no_work_but_that_nobody_reads_it_does():
    for error in (OSError(28, "No space left on device"), OSError(5, "Input/output error")):
        with writing_what_fits():
            raise error
    with pytest.raises(BrokenPipeError), writing_what_fits():
        raise BrokenPipeError


def test_requests_are_not_read_of_what_was_opened_for_writing(tmp_path, shipped):
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$0" -m ecdctr.cli score --bundle {shipped} 0> {tmp_path}/x',
         sys.executable],
        capture_output=True, text=True, cwd=REPOSITORY, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Standard input cannot be read; give it a file, or name --requests." in done.stderr


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_an_error_that_nobody_foresaw_is_one_sentence_and_exit_70(monkeypatch, capsys, words):
    assert ends(monkeypatch, words, ZeroDivisionError("by nothing [at all]\nand more")) == 70
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"ecdctr: 'ecdctr {' '.join(words)}' ended")
    assert "ZeroDivisionError: by nothing [at all]" in said
    assert f"'ecdctr --debug {' '.join(words)} …' for the traceback" in said


def test_debug_shows_the_traceback_and_keeps_the_sentence(monkeypatch, capsys):
    assert ends(monkeypatch, ("schema",), ZeroDivisionError("x"), "--debug") == 70
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said
    assert said.splitlines()[-1].startswith("ecdctr: 'ecdctr schema' ended")


def test_the_sentence_names_the_step_the_file_and_the_place_in_the_code(monkeypatch, capsys):
    def nobody_foresaw(_: Path) -> None:
        Bars().start("read the stars", 3)
        raise OSError(5000, "odd", "/some/where.parquet")

    monkeypatch.setattr(base, "load_config", nobody_foresaw)
    monkeypatch.setattr(Bars, "step", "")
    assert net.run(app, ["prepare", "--date", "2026-01-18"]) == 70
    said = capsys.readouterr().err.splitlines()[-1]
    assert "at the step 'read the stars', with the file /some/where.parquet" in said
    assert re.search(r"in ecdctr/cli/base\.py, line \d+", said)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (StoreError("The store says no."), 1, "ecdctr: The store says no.\n"),
        (OSError(28, "No space left on device", "/x"), 75, "MB are free there): free some space"),
        (OSError(27, "File too large", "/x"), 75, "File too large at /x: raise the limit"),
        (OSError(36, "File name too long", "/x"), 1, "File name too long: /x; look at the name."),
        (NotADirectoryError(20, "Not a directory", "/x/y"), 1, "Not a directory: /x/y; look at"),
        (OSError(40, "Too many levels of symbolic links", "/x"), 1, "at /x: mend the link that"),
        (
            PermissionError(1, "Operation not permitted", "/x"),
            75,
            "Operation not permitted at /x: look whether the file may be changed at all",
        ),
        (IsADirectoryError(21, "Is a directory", "/x"), 1, "at /x: expected a file there; take"),
        (
            PermissionError(13, "Permission denied", "/x"),
            75,
            "at /x: give this user the right to read",
        ),
        (FileExistsError(17, "File exists", "/x"), 1, "at /x: expected a folder there; take"),
        (RuntimeError("Symlink loop from '/x'"), 1, "mend the link that points to itself"),
        (
            UnicodeEncodeError("utf-8", "/x/\udcff.parquet", 3, 4, "surrogates not allowed"),
            1,
            r"The name '/x/\udcff.parquet' is no UTF-8; rename the file or folder.",
        ),
        (
            UnicodeEncodeError("utf-8", "a" * 10_000 + "\udcff", 10_000, 10_001, "surrogates"),
            1,
            f"The name '{'a' * 150}\\udcff' is no UTF-8",
        ),
        (OSError(24, "Too many open files", "/x"), 75, "at /x: raise the limit of open files"),
        (
            duckdb.OutOfMemoryException("Out of Memory Error: no block"),
            75,
            "raise data.duckdb_memory, which it has reached, or lower data.threads",
        ),
        (MemoryError(), 75, "too little memory"),
        (ImportError("x.so: failed to map segment from shared object"), 75, "free some memory"),
        (RuntimeError("Query interrupted"), 130, "interrupted"),
        (duckdb.InterruptException("INTERRUPT Error: Interrupted!"), 130, "interrupted"),
        (KeyboardInterrupt(), 130, None),
        (BrokenPipeError(32, "Broken pipe"), 141, None),
        (SystemExit(3), 3, None),
    ],
)
def test_each_kind_of_end_has_its_exit_code_and_no_traceback(
    monkeypatch, capfd, error, code, words
):
    monkeypatch.setattr(net, "_nobody_reads", lambda: net.BROKEN_PIPE)
    assert ends(monkeypatch, ("store", "list"), error) == code
    said = capfd.readouterr().err
    assert words is None or words in said
    assert "Traceback" not in said


def test_an_interruption_while_modules_load_is_one_line_and_exit_130():
    code = """
import runpy, sys
class Interrupted:
    def find_spec(name, *_):
        if name == "ecdctr.cli.base":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted)
sys.argv = ["ecdctr", "schema"]
runpy.run_module("ecdctr.cli", run_name="__main__", alter_sys=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, check=False
    )
    assert (done.returncode, done.stderr) == (130, "ecdctr: interrupted.\n")


def test_a_reader_that_goes_away_is_no_error():
    command = [sys.executable, "-m", "ecdctr.cli", "schema"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait() == 141


@pytest.mark.parametrize(
    "arguments",
    [
        ["--config", "NAME", "validate"],
        ["import", "log", "--mapping", "NAME"],
        ["import", "kuairand", "--from", "NAME"],
        ["import", "completejourney", "--from", "NAME"],
        ["score", "--bundle", "NAME"],
        ["score", "--bundle", "NAME", "--requests", "NAME"],
        ["score", "--bundle", "bundle", "--examples", "NAME", "--out", "scores.parquet"],
        ["serve", "--bundle", "NAME"],
        [
            "--store",
            "FILE/store",
            "--config",
            "configs/tiny.yaml",
            "train",
            "tpm",
            "--date",
            "2026-01-05",
        ],
        ["--store", "FILE", "store", "list"],
    ],
)
def test_a_name_that_is_mistyped_is_a_refusal_with_the_name(tmp_path, capsys, arguments):
    name, file = str(tmp_path / "typo"), tmp_path / "file"
    file.touch()
    code = net.run(
        app, [word.replace("NAME", name).replace("FILE", str(file)) for word in arguments]
    )
    said = capsys.readouterr().err
    assert code in (1, 2), said
    assert name in said or str(file) in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "xyz", "--date", "2026-01-18"], "'xyz' is not one of 'tpm', 'cpm', 'actr'"),
        (
            ["train", "tpm", "--date", "2026-02-30"],
            "'2026-02-30' is not a date; expected YYYY-MM-DD",
        ),
        (["train", "tpm", "--date", "0001-01-01"], "not a day between 1970 and 2199"),
        (["train", "tpm", "--date", "20260118"], "expected YYYY-MM-DD"),
        (["train", "tpm"], "Missing option '--date'"),
        (["train", "tpm", "--date", "2026-01-18", "--seed", "-1"], "--seed"),
        (["train", "tpm", "--date", "2026-01-18", "--seed", "many"], "expected a whole number"),
        (["train", "tpm", "--date", "2026-01-18", "--hold-out-every", "1.5"], "whole number"),
        (["train", "tpm", "--date", "2026-01-18", "--chain-start", "soon"], "is not a date"),
        (["simulate", "--world", "huge"], "No world 'huge'; expected one of daily, demo, "),
        (["simulate", "--seed", "99999999999"], "--seed"),
        (["validate", "--domain", "both"], "'both' is not one of 'natural', 'ads'"),
        (["store", "rollback", "--level", "all"], "is not one of"),
        (["traine"], "No such command 'traine'"),
        (["train", "--nope"], "No such option: --nope"),
        (["ablation", "--seeds", "1,x"], "'--seeds': '1,x': expected whole numbers"),
        (["ablation", "--seeds", "1,99999999999"], "--seeds"),
    ],
)
def test_a_wrong_command_line_is_one_sentence(capsys, arguments, words):
    assert net.run(app, arguments) in (1, 2)
    said = capsys.readouterr().err
    assert words in said
    assert said.count("\n") == 1
    assert said.startswith("ecdctr: ")
    assert "Value error" not in said


def test_no_command_shows_the_help_and_no_sentence(capsys):
    assert net.run(app, []) == 2
    assert "ecdctr:" not in capsys.readouterr().err


HOSTILE = "timestamp[us, tz=UTC] [bold]x[/bold] [/] :smile: [link=http://x]"


def test_text_is_shown_as_it_is(capsys):
    terminal().print(HOSTILE, soft_wrap=True)
    terminal().print(labelled("ads", "red", HOSTILE), soft_wrap=True)
    shown = table("a [b] c")
    shown.add_row(HOSTILE)
    terminal().print(shown)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == HOSTILE
    assert lines[1] == f"ads  {HOSTILE}"
    assert "a [b] c" in lines[2] + lines[3]
    assert any(HOSTILE in line for line in lines[3:])


def test_the_package_makes_its_consoles_in_one_place():
    """Markup is on in every other console, and takes what stands in brackets away."""
    makers = {
        str(path.relative_to(REPOSITORY))
        for path in (REPOSITORY / "ecdctr").rglob("*.py")
        if re.search(r"\bConsole\((?!\))|\bConsole\(\)", path.read_text())
    }
    assert makers == {
        "ecdctr/console.py",
        "ecdctr/demo/run.py",
    }  # the demo prints fixed texts alone


def test_a_violation_keeps_its_brackets(world, tmp_path, capsys):
    root = tmp_path / "[raw]"
    day = root / "domain=ads" / "date=2026-01-18"
    day.mkdir(parents=True)
    part = next((world / "domain=ads" / "date=2026-01-18").glob("*.parquet"))
    read = pq.read_table(part, partitioning=None)
    place = read.schema.get_field_index("ts")
    wrong = read.set_column(place, "ts", read["ts"].cast(pa.timestamp("ms", "UTC"), safe=False))
    pq.write_table(wrong, day / "part-0.parquet")
    path = write_config(tmp_path / "c.yaml", root)
    code = net.run(
        app, ["--config", str(path), "validate", "--domain", "ads", "--date", "2026-01-18"]
    )
    said = capsys.readouterr().err
    assert code == 1
    assert len(said.splitlines()) >= 2
    for line in said.splitlines():
        assert "timestamp[ms, tz=UTC]" in line
        assert "[raw]" in line


@pytest.fixture
def rewritten(world, tmp_path):
    """Validate a day of ads with a column changed, in a log of its own."""
    shutil.copytree(world, tmp_path / "world")
    path = write_config(tmp_path / "c.yaml", tmp_path / "world")

    def validate(column: str, change: Callable[[Any], Any], *more: str) -> int:
        for part in (tmp_path / "world" / "domain=ads" / "date=2026-01-18").glob("*.parquet"):
            read = pq.read_table(part, partitioning=None)
            place = read.schema.get_field_index(column)
            pq.write_table(read.set_column(place, column, change(read[column])), part)
        options = ["--domain", "ads", "--date", "2026-01-18"]
        return net.run(app, ["--config", str(path), "--json", "validate", *options, *more])

    return validate


def test_a_day_whose_column_has_another_type_than_the_days_before_is_no_valid_day(
    rewritten, capsys
):
    assert rewritten("user_id", lambda ids: ids.cast("string")) == 1
    said = capsys.readouterr().err
    assert "user_id" in said
    assert "found text; a column has one type in the whole log" in said


def test_validate_says_that_training_refuses_a_day_without_clicks(rewritten, capsys):
    assert rewritten("click", lambda clicks: pc.multiply(clicks, pa.scalar(0, pa.int8()))) == 0
    warning = json.loads(capsys.readouterr().out)["warnings"][-1]
    assert warning.startswith("ads: no click among the ")
    assert "a training that reads no other day refuses" in warning


def test_validate_names_a_day_without_clicks_among_others_which_a_chain_would_refuse(
    rewritten, capsys
):
    nothing = pa.scalar(0, pa.int8())
    assert rewritten("click", lambda clicks: pc.multiply(clicks, nothing), "--days", "3") == 0
    warning = json.loads(capsys.readouterr().out)["warnings"][-1]
    assert warning.startswith("ads: no click among the ")
    assert (
        "impressions of 2026-01-18; a training that reads this day alone, as in a chain" in warning
    )


def test_days_without_a_click_are_named_until_they_are_many():
    first = dt.date(2026, 1, 1)
    days = [DayReport("ads", first + dt.timedelta(days=i), 1, int(i == 0), []) for i in range(30)]
    *named, rest = _without_clicks(days)
    assert [text.split(" of ")[1][:10] for text in named] == [str(r.date) for r in days[1:11]]
    assert rest == "ads: 19 more days without a click, 2026-01-12 to 2026-01-30."


def test_words_of_a_table_are_whole_at_80_columns():
    title = "production/actr/2026-01-18/v0001 on 2026-01-19"
    shown = table_of_words("cohort", *SHOWN_METRICS, title=title)
    shown.add_words("low_activity", "1,234,567", "0.1234", "0.1234", "12,345", *["0.1234"] * 4)
    wide = table("version", "variant", "MB", "aliases")
    wide.add_row(
        "a-rather-long-experiment-name/actr/2026-01-18/v0001",
        "continue_no_tpm",
        "12.3",
        "serving, candidate",
    )
    out = io.StringIO()
    for one in (shown, wide):
        Console(file=out, width=80, markup=False).print(one)
    text = out.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    words = {
        "cohort",
        "impressions",
        "log",
        "loss",
        "normalized",
        "entropy",
        "calibration",
        "low",
        "activity",
        "1,234,567",
    }
    assert words <= set(text.split())
    folded = re.sub(r"\s", "", text)
    assert all(word in folded for word in ("continue_no_tpm", "serving,", "candidate"))


@pytest.mark.parametrize("width", ["0", "1", "7"])
def test_a_width_that_no_terminal_has_is_forgotten(monkeypatch, capsys, width):
    """Containers set COLUMNS=0 where nobody looks: tables and help were empty."""
    monkeypatch.setenv("COLUMNS", width)
    assert net.run(app, ["store", "--help"]) == 0
    assert "Usage: ecdctr store" in capsys.readouterr().out


@pytest.mark.parametrize("width", ["20", "41", "79"])
def test_a_narrow_terminal_loses_no_column(monkeypatch, capsys, width):
    """At 20 columns Rich left the last ones of `store list` out, without a word."""
    monkeypatch.setenv("COLUMNS", width)
    listed = table("version", "variant", "MB", "aliases")
    listed.add_row("production/actr/2026-01-19/v0001", "default", "0.1", "candidate, serving")
    terminal().print(listed)
    assert {"version", "variant", "MB", "aliases", "serving"} <= {*capsys.readouterr().out.split()}


@pytest.mark.parametrize("size", ["0", "1", "-1", "abc", "²", "", "9" * 5000, "99999999999"])
@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
def test_tables_are_shown_whatever_size_the_environment_names(monkeypatch, name, size):
    """A console keeps what it finds when it is made: `store list` was empty with COLUMNS=0."""
    monkeypatch.setenv(name, size)
    console = terminal()
    assert 20 <= console.width <= 10_000
    assert 20 <= console.height <= 10_000


@pytest.mark.parametrize("size", ["abc", "-5", "0"])
def test_help_is_shown_whatever_width_typer_is_told(size):
    done = subprocess.run(
        [sys.executable, "-m", "ecdctr.cli", "store", "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"TERMINAL_WIDTH": size},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: ecdctr store" in done.stdout


def test_a_folder_that_is_gone_is_told_as_that(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    assert net.run(app, ["store", "list"]) == 1
    assert "this was started in is gone; change to another (cd)" in capsys.readouterr().err


def test_log_lines_for_people_and_for_machines():
    record = logging.LogRecord("ecdctr", logging.INFO, "", 0, "%s", ("100 % done [x]",), None)
    record.about = {"level": "tpm", "data_date": Path("2026-01-18")}
    assert Lines().format(record) == "100 % done [x]  [level=tpm data_date=2026-01-18]"
    made = json.loads(JsonLines().format(record))
    assert made.pop("time").endswith("+00:00")
    assert made == {"event": "100 % done [x]", "level": "tpm", "data_date": "2026-01-18"}


def test_json_for_machines_has_no_number_that_is_none():
    payload = {"gauc": float("nan"), "all": [1.5, float("inf")], "day": {"x": (True, None, 3)}}
    assert json.loads(base.as_json(payload), parse_constant=pytest.fail) == {
        "gauc": None,
        "all": [1.5, None],
        "day": {"x": [True, None, 3]},
    }
