"""Columns of any name: in double quotes they are read, without them a sentence writes the quotes.

No expression that is a column's name is silently something else, as null and a-b are.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from ecdctr.errors import ConfigError
from ecdctr.files.duck import identifier
from ecdctr.files.strict_yaml import in_yaml, parse_yaml
from tests.impressions.imported import column, rows, run

PLAIN = ["kind2", "Other", "date", "ä"]
ODD = [
    "a:b", "a,b", 'a"b', "a'b", "a[b]", "a b", "a.b", "a-b", "1a", "5", "select", "order", "null",
    "true", "a;b", "a\\b", "a{b}", "a/b", "$a", "a?", "#a", "a=b", "(a)", "a--b", "a/*b",
    "user+item", "*", "max(item)", "item::VARCHAR", '"q"', "log.x",
]  # fmt: skip


def log(folder: Path, names: list[str], form: str = "csv") -> dict[str, object]:
    """Write a log with these columns more, the i-th of values vi0 to vi3; return it as a table."""
    head, *lines = (line.split(",") for line in rows().splitlines())
    cells = [[*line, *(f"v{k}{i % 4}" for k in range(len(names)))] for i, line in enumerate(lines)]
    (folder / "logs").mkdir(parents=True)
    if form == "csv":
        text = io.StringIO()
        csv.writer(text).writerows([[*head, *names], *cells])
        (folder / "logs" / "a.csv").write_text(text.getvalue(), newline="")
    else:
        columns = zip(*cells, strict=True)
        typed = [[int(x) if x.isdigit() else x for x in values] for values in columns]
        table = pa.table(dict(zip([*head, *names], typed, strict=True)))
        pq.write_table(table, folder / "logs" / "a.parquet")
    return {"files": ["a.*"]}


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_of_any_name_is_read_in_double_quotes(tmp_path, form):
    names = [*PLAIN, *ODD]
    features = {f"f{k}": identifier(name) for k, name in enumerate(names)}
    run(tmp_path, {}, log(tmp_path, names, form), features=features)
    for k, name in enumerate(names):
        assert set(column(tmp_path, f"f{k}")) == {f"v{k}{i}" for i in range(4)}, name


def test_a_name_without_quotes_is_refused_with_what_to_write(tmp_path):
    table = log(tmp_path, ODD, "parquet")
    for name in ODD:
        with pytest.raises(ConfigError, match=r"features.f: .* is the name of a column") as error:
            run(tmp_path, {}, table, features={"f": name})
        told = str(error.value).partition(" in YAML ")[2].removesuffix(".")
        assert parse_yaml(f"{{f: {told}}}", "what is told") == {"f": identifier(name)}
        assert yaml.safe_load(f"{{f: {told}}}") == {"f": identifier(name)}


def test_a_plain_name_needs_no_quotes(tmp_path):
    features = {f"f{k}": name for k, name in enumerate(PLAIN)}
    run(tmp_path, {}, log(tmp_path, PLAIN), features=features)
    for k in range(len(PLAIN)):
        assert set(column(tmp_path, f"f{k}")) == {f"v{k}{i}" for i in range(4)}


def test_an_expression_around_such_a_name_is_refused_with_the_quotes(tmp_path):
    words = r'a:b.* does not fit .*, "a:b" VARCHAR .*; write "a:b" with the double quotes, and the'
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, {}, log(tmp_path, ["a:b"]), features={"f": "lower(a:b)"})
    run(tmp_path, {}, {"files": ["a.csv"]}, features={"f": 'upper("a:b")'})
    assert set(column(tmp_path, "f")) == {"V00", "V01", "V02", "V03"}


def test_joins_and_types_take_names_as_they_are(tmp_path):
    table = log(tmp_path, ["a:b"]) | {"types": {"a:b": "VARCHAR"}}
    joined = '"a:b","c:d"\n' + "".join(f"v0{i},{i * 3}\n" for i in range(4))
    (tmp_path / "logs" / "j.txt").write_text(joined)
    joins = {"j": {"files": ["j.txt"], "key": "a:b"}}
    run(tmp_path, {}, table, joins=joins, features={"f": 'j."c:d"'})
    assert set(column(tmp_path, "f")) == {0, 3, 6, 9}
    with pytest.raises(ConfigError, match=r"""j\.c:d' is the name of a column.* 'j\."c:d"'\."""):
        run(tmp_path / "again", {}, log(tmp_path / "again", ["a:b"]), features={"f": "j.c:d"},
            joins={"j": {"files": [str(tmp_path / "logs" / "j.txt")], "key": "a:b"}})  # fmt: skip


@pytest.mark.parametrize("text", [*PLAIN, *ODD, "a\nb", "", "no", "~", "1e5", " a"])
def test_a_text_is_written_for_yaml_as_it_is_read(text):
    for form in ("{{types: {}}}", "{{{}: 1}}"):
        read = parse_yaml(form.format(in_yaml(text)), "text")
        assert read in ({"types": text}, {text: 1})
