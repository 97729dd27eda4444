"""Labels and nulls as the world writes them.

Each word that is none is named, with its first line, and with a rule that the import then takes.
"""

from __future__ import annotations

import datetime as dt
import gzip
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ContractError
from tests.impressions.imported import START, column, rows, run


def labelled(labels: list[str], start: int = START) -> str:
    """Return a log with each of these words as the label of 20 rows, of both domains in turn."""
    head, *lines = rows(n=20 * len(labels), start=start).splitlines()
    cells = [line.split(",") for line in lines]
    made = [",".join([*c[:3], labels[i // 2 % len(labels)], c[4]]) for i, c in enumerate(cells)]
    return "\n".join([head, *made]) + "\n"


def refused(folder, files: dict[str, str | bytes], **changes) -> str:
    with pytest.raises(ContractError) as error:
        run(folder, files, click="clicked", **changes)
    return str(error.value)


def suggested(sentence: str) -> tuple[str, str | None]:
    """Return the rule for click that a sentence writes, and the one for domain if it has one."""
    told = re.fullmatch(
        r".* such as click: (.*?)(?: if what says nothing .* by domain: (.*))?\.", sentence
    )
    assert told, sentence
    return told[1], told[2]


@pytest.mark.parametrize(
    ("labels", "clicks"),
    [
        (["f", "t"], 20),
        (["no", "yes"], 20),
        (["N", "Y"], 20),
        (["off", "ON", "Off"], 20),
        (["0", "Y", "n", "1"], 40),
        (["-1", "1"], 20),
        (["1", "2", "3", "0"], 60),
    ],
)
def test_words_for_a_click_are_named_and_the_rule_that_is_written_reads_them(
    tmp_path, labels, clicks
):
    sentence = refused(tmp_path / "a", {"a.csv": labelled(labels)})
    odd = [(i, word) for i, word in enumerate(labels) if word not in ("0", "1")]
    for i, word in odd:
        assert f"'{word}' (20 rows, first in a.csv, line {2 * i + 2})" in sentence
    rule, domain = suggested(sentence)
    assert domain is None
    run(tmp_path / "b", {"a.csv": labelled(labels)}, click=rule)
    assert sum(column(tmp_path / "b", "click")) == clicks


@pytest.mark.parametrize(
    "labels",
    [
        ["yes", "no", "NA", "NULL", r"\N", "-"],
        ["1", "0", "NA", "", "null", "0"],
        ["1", "", "0", "", "0", ""],
        ["2", "-1", "NA", "2", "-1", "N/A"],
    ],
)
def test_words_for_nothing_are_named_beside_each_other_with_what_to_do(tmp_path, labels):
    sentence = refused(tmp_path / "a", {"a.csv": labelled(labels)})
    for word in set(labels) - {"0", "1"}:
        shown = f"'{word}'" if word else "null"
        assert re.search(rf"{re.escape(shown)} \(\d+ rows, first in a.csv, line", sentence), word
    rule, domain = suggested(sentence)
    run(tmp_path / "b", {"a.csv": labelled(labels)}, click=rule)
    clicks = sum(column(tmp_path / "b", "click"))
    assert clicks == 20 * sum(word in ("yes", "1", "2") for word in labels)
    assert domain is not None
    done = run(tmp_path / "c", {"a.csv": labelled(labels)}, click=rule, domain=domain)
    assert done.left_out == 20 * sum(
        word not in ("0", "1", "2", "-1", "yes", "no") for word in labels
    )
    assert sum(column(tmp_path / "c", "click")) == clicks


def test_words_of_later_files_are_told_at_once(tmp_path):
    files = {
        "a/log.csv": labelled(["f", "t"]),
        "b/log.csv": labelled(["f", "NA"], start=START + 86400),
    }
    for name in files:
        (tmp_path / "logs" / name).parent.mkdir(parents=True)
    sentence = refused(tmp_path, files, log={"files": ["*/log.csv"]})
    assert "'f' (40 rows, first in a/log.csv, line 2)" in sentence
    assert "'t' (20 rows, first in a/log.csv, line 4)" in sentence
    assert "'NA' (20 rows, first in b/log.csv, line 4)" in sentence


def test_a_label_that_no_one_knows_is_named_and_of_many_the_most_frequent(tmp_path):
    sentence = refused(tmp_path, {"a.csv": labelled([f"w{i}" for i in range(9)])})
    assert "'w0' (20 rows, first in a.csv, line 2)" in sentence
    assert "and others, expected 0 or 1" in sentence
    assert "clicked = 'the text of a click'" in sentence


@pytest.mark.parametrize("form", ["quoted", "utf-16", "gz", "comments", "no header", "two bytes"])
def test_the_line_is_the_line_of_the_file_as_it_is_written(tmp_path, form):
    """Not the record's number, which is another where cells hold ends of lines."""
    head, *lines = labelled(["1", "0"]).splitlines()
    lines[7] = lines[7].replace(",0,", ",maybe,")
    assert "maybe" in lines[7]
    log: dict[str, object] = {"files": ["a.*"]}
    name, line = "a.csv", 9
    text = "\n".join([head, *lines]) + "\n"
    if form == "quoted":
        text = "\n".join([f"{head},x", *(f'{one},"a\n\nb"' for one in lines)]) + "\n"
        line = 1 + 7 * 3 + 1
    if form == "comments":
        text, line = "# of a tool\n\n" + text, 11
    if form == "no header":
        text, line = text.partition("\n")[2], 8
        log["names"] = head.split(",")
    if form == "two bytes":
        text = text.replace(",", "||")
        log["delimiter"] = "||"
    content: str | bytes = text
    if form == "utf-16":
        content = text.encode("utf-16")
        log["encoding"] = "utf-16"
    if form == "gz":
        name, content = "a.csv.gz", gzip.compress(text.encode(), mtime=0)
    assert f"'maybe' (1 rows, first in {name}, line {line})" in refused(
        tmp_path, {name: content}, log=log
    )


def write_parquet(folder, labels: list) -> None:
    """Write a log whose labels are these in turn, twice each: of both domains."""
    table = pa.table(
        {
            "user": [1, 2] * 20,
            "item": [5] * 40,
            "t": [START + i for i in range(40)],
            "clicked": [labels[i // 2 % len(labels)] for i in range(40)],
            "kind": ["ads", "natural"] * 20,
        }
    )
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "a.parquet", row_group_size=3)


def test_of_parquet_the_row_is_named(tmp_path):
    write_parquet(tmp_path / "logs", ["1", "0", "0", "no"])
    sentence = refused(tmp_path, {}, log={"files": ["a.parquet"]})
    assert "'no' (10 rows, first in a.parquet, row 7)" in sentence


@pytest.mark.parametrize(
    ("labels", "shown"),
    [
        ([0.0, 1.0, 0.0, float("nan")], "'nan' (10 rows"),
        ([False, True, False, None], "null (10 rows"),
        (["0", "1", "0", ""], "'' (10 rows"),
        (["0", "2", "0", "0"], "'2' (10 rows"),
        ([None, dt.datetime(2026, 1, 1, 8), None, None], "'2026-01-01 08:00:00' (10 rows"),
        (["", "2026-01-01 08:00:00", "0000-00-00 00:00:00", r"\N"], "'2026-01-01 08:00:00' (10"),
    ],
    ids=["doubles", "booleans", "empty text", "numbers as text", "times", "times as text"],
)
def test_the_rule_that_is_written_reads_labels_of_each_type_that_parquet_has(
    tmp_path, labels, shown
):
    for name in "abc":
        write_parquet(tmp_path / name / "logs", labels)
    log = {"files": ["a.parquet"]}
    sentence = refused(tmp_path / "a", {}, log=log)
    assert shown in sentence
    rule, domain = suggested(sentence)
    run(tmp_path / "b", {}, log=log, click=rule)
    assert sum(column(tmp_path / "b", "click")) == 10
    if domain:
        assert run(tmp_path / "c", {}, log=log, click="clicked", domain=domain).left_out == 10


def test_ids_and_times_that_are_missing_are_refused_with_the_first_line(tmp_path):
    text = rows().splitlines()
    text[5] = text[5].replace("2,", ",", 1)
    assert text[5].startswith(",")
    with pytest.raises(
        ContractError, match="1 of 40 rows without user or item id, first in line 6"
    ):
        run(tmp_path / "a", {"a.csv": "\n".join(text) + "\n"})
    with pytest.raises(ContractError, match="39 of 40 rows have no time, first in line 3"):
        run(
            tmp_path / "b",
            {"a.csv": rows()},
            ts=f"CASE WHEN t = {START} THEN to_timestamp(t) END",
        )


def test_every_word_for_nothing_in_ids_and_features_is_said(tmp_path):
    head, *lines = rows(["1", "NA", "NULL", "7"]).splitlines()
    words = ["red", "-", r"\N", "None", "red"]
    text = "\n".join([f"{head},colour", *(f"{x},{words[i % 5]}" for i, x in enumerate(lines))])
    heard: list[str] = []
    run(tmp_path, {"a.csv": text + "\n"}, on_file=heard.append, features={"colour": "colour"})
    assert heard[1] == (
        "a.csv: user_id is 'NA' in 10 rows and 'NULL' in 10 rows; colour is '-' in 8 rows and "
        r"'None' in 8 rows and '\N' in 8 rows, values like others; if they mean none: nulls: "
        r"['NA', 'NULL', '-', 'None', '\N']"
    )
