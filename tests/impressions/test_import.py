"""Logs as the world writes them: read as they are written, or refused by file and line.

No value changes, no row is lost.
"""

from __future__ import annotations

import datetime as dt
import gzip
import json
import os
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.config import Feature
from ecdctr.errors import ConfigError, ContractError
from ecdctr.files.duck import connect, one_row, parquet
from ecdctr.impressions.declared import ColumnType, cast_sql
from ecdctr.impressions.importer import import_log
from ecdctr.impressions.mapping import Mapping
from tests.impressions.imported import BASE, START, breaches, column, kind_of, rows, run


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("user + 9223372036854775807::HUGEINT", "string"),
        ("user::INTEGER", "int64"),
        ("user::UBIGINT", "int64"),
        ("md5(user::VARCHAR)::UUID", "string"),
        ("user::HUGEINT", "int64"),
        ("'u' || user", "string"),
    ],
)
def test_what_is_imported_passes_validate(tmp_path, text, kind):
    run(tmp_path, {"a.csv": rows()}, user_id=text, features={"f": text})
    assert kind_of(tmp_path, "user_id") == kind_of(tmp_path, "f") == kind
    assert breaches(tmp_path, Feature(name="f", side="user", kind="categorical")) == []


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"user_id": "user / 2"}, ConfigError, "user_id: 'user / 2' gives DOUBLE"),
        (
            {"user_id": "to_timestamp(t)"},
            ConfigError,
            "gives TIMESTAMP WITH TIME ZONE, expected an integer or text",
        ),
        ({"features": {"f": "to_timestamp(t)"}}, ConfigError, "features.f: .* which is no feature"),
        ({"features": {"f": "{'a': 1}"}}, ConfigError, "features.f: .* which is no feature"),
        (
            {"features": {"f": "clicked / 0"}},
            ContractError,
            "features.f does not fit in 14 of 40 rows; expected finite numbers within float32",
        ),
        (
            {"features": {"f": "clicked * 1e39"}},
            ContractError,
            "features.f does not fit in 14 of 40 rows; expected finite",
        ),
        (
            {"features": {"f": "[clicked / 0, 1.0::DOUBLE]"}},
            ContractError,
            "features.f does not fit in 14 of 40 rows; expected lists",
        ),
        (
            {"features": {"f": "[clicked / 2]"}},
            ContractError,
            "features.f does not fit in 14 of 40 rows; expected lists of whole",
        ),
        (
            {"features": {"history": "item"}},
            ConfigError,
            "features.history: the contract itself, or preparation",
        ),
        ({"features": {"Genre": "item"}}, ConfigError, "features.Genre: expected a name of a-z"),
        ({"click": "clicked - 1"}, ContractError, r"click is '-1' \(26 rows, .*, expected 0 or 1"),
        ({"click": "clicked + 1"}, ContractError, r"click is '2' \(14 rows, .*, expected 0 or 1"),
        (
            {"click": "CASE WHEN clicked = 1 THEN 1 END"},
            ContractError,
            r"click is null \(26 rows, first in a.csv, line 3\)",
        ),
        (
            {"ts": "CASE WHEN t % 7 > 0 THEN to_timestamp(t) END"},
            ContractError,
            r"rows have no time.*leave such rows out: domain: .*\) IS NOT NULL THEN",
        ),
        (
            {"ts": "CASE WHEN clicked = 1 THEN 'infinity'::TIMESTAMPTZ ELSE to_timestamp(t) END"},
            ContractError,
            "a.csv: ts lies between .* and infinity",
        ),
        (
            {"ts": "epoch_ms(t)"},
            ContractError,
            "look like seconds read as milliseconds: write ts: to_timestamp",
        ),
        (
            {"ts": "to_timestamp(t * 1000)"},
            ContractError,
            r"If the unit is another one, write to_timestamp\(column\) for seconds, epoch_ms",
        ),
        (
            {"ts": "to_timestamp(t * 1000000)"},
            ContractError,
            r"of a smaller unit: write ts: make_timestamp\(column\) for microseconds",
        ),
        (
            {"ts": "to_timestamp(t + 3153600000)"},
            ContractError,
            "ts lies between 2125.* set earliest or latest",
        ),
        ({"earliest": dt.date(2026, 2, 1)}, ContractError, "expected between 2026-02-01 and"),
    ],
)
def test_what_cannot_be_an_impression_is_refused_and_leaves_nothing(
    tmp_path, changes, error, words
):
    with pytest.raises(error, match=words):
        run(tmp_path, {"a.csv": rows()}, **changes)
    assert not list((tmp_path / "data").rglob("*"))


@pytest.mark.parametrize(
    "labels", [("0", "1"), ("false", "true"), ("False", "True"), ("0.0", "1.0")]
)
def test_labels_are_zero_and_one_or_true_and_false(tmp_path, labels):
    head, *lines = rows().splitlines()
    cells = [line.split(",") for line in lines]
    lines = [",".join([*c[:3], labels[int(c[3])], c[4]]) for c in cells]
    run(tmp_path, {"a.csv": "\n".join([head, *lines]) + "\n"}, click="clicked")
    assert sorted(column(tmp_path, "click")) == [0] * 26 + [1] * 14


def test_times_of_another_century_are_read_when_told(tmp_path):
    done = run(tmp_path, {"a.csv": rows(start=0)}, earliest=dt.date(1970, 1, 1))
    assert done.first == "1970-01-01"


def test_every_row_is_kept_or_counted_by_its_reason(tmp_path):
    other = rows(start=START + 86400).replace("natural", "other", 3)
    heard: list[str] = []
    files = {
        "a.csv": rows(),
        "again.csv": rows(),
        "b.csv": other,
        "empty.csv": "",
        "header.csv": rows(n=0),
    }
    source = tmp_path / "logs"
    source.mkdir()
    for name, content in files.items():
        (source / name).write_text(content)
    mapping = Mapping(log={"files": ["*.csv"]}, **BASE)
    done = import_log(mapping, source, tmp_path / "data", on_file=heard.append)
    assert (done.read, done.left_out, done.duplicates) == (120, 3, 40)
    assert done.natural + done.ads == 77 == len(column(tmp_path, "click"))
    assert heard == [
        "a.csv: 40 rows",
        "again.csv: 40 rows",
        "b.csv: 40 rows",
        "empty.csv: 0 rows",
        "header.csv: 0 rows",
    ]


def test_files_of_one_name_in_two_folders_are_told_apart(tmp_path):
    """In what is said of each, and of what a join reads."""
    names = {"ids": ["NA", "1"], "x/ids": ["1", "2"]}
    for name, users in names.items():
        folder = tmp_path / "logs" / name
        folder.mkdir(parents=True)
        (folder / "log.csv").write_text(rows(users))
        (folder / "j.txt").write_text(f"item,{name[0]}\n100,1\n")
    other = tmp_path / "other" / "log.csv"
    other.parent.mkdir()
    other.write_text(rows(start=START + 86400))
    heard: list[str] = []
    joins = {"j": {"files": ["ids/j.txt"], "key": "item"}}
    log = {"files": ["**/log.csv", str(other)]}
    run(tmp_path, {}, log, heard.append, joins=joins, item_id="log.item")
    assert heard == [
        "ids/j.txt",
        "ids/log.csv: 40 rows",
        "ids/log.csv: user_id is 'NA' in 20 rows, values like others; if they mean none: nulls: "
        "['NA']",
        "x/ids/log.csv: 40 rows",
        f"{other}: 40 rows",
    ]


def test_rows_of_other_domains_may_be_anything(tmp_path):
    broken = "".join(f",,x{i},,none\n" for i in range(3))
    done = run(tmp_path, {"a.csv": rows() + broken}, ts="to_timestamp(TRY_CAST(t AS BIGINT))")
    assert (done.read, done.left_out) == (43, 3)


def test_the_same_double_stays_whatever_the_order_of_files_and_threads(tmp_path):
    head, *lines = rows(n=400).splitlines()
    parts = {
        letter: "\n".join([head + ",slot", *(line + "," + letter for line in lines)]) + "\n"
        for letter in "AB"
    }
    made = set()
    for run_number, names in enumerate((("0", "1"), ("1", "0"), ("0", "1"))):
        folder = tmp_path / str(run_number)
        folder.mkdir()
        files = {f"{name}.csv": parts[letter] for name, letter in zip(names, "AB", strict=True)}
        (folder / "logs").mkdir()
        for name, content in files.items():
            (folder / "logs" / name).write_text(content)
        mapping = Mapping(log={"files": ["*.csv"]}, **BASE, features={"slot": "slot"})
        import_log(mapping, folder / "logs", folder / "data", threads=run_number + 1)
        assert set(column(folder, "slot")) == {"A"}
        made.add(
            b"".join(path.read_bytes() for path in sorted((folder / "data").rglob("*.parquet")))
        )
    assert len(made) == 1


def test_the_bytes_do_not_depend_on_how_many_files_the_log_was_cut_into(tmp_path):
    head, *lines = rows().splitlines()
    parts = {"0.csv": lines[:25], "1.csv": lines[25:], "2.csv": []}
    whole = {"a.csv": rows()}
    halves = {name: "\n".join([head, *part]) + "\n" for name, part in parts.items()}
    contents = []
    for name, files in {"one": whole, "more": halves}.items():
        run(tmp_path / name, files, features={"f": "item"})
        folder = tmp_path / name / "data"
        contents.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.parquet")})
    assert contents[0] == contents[1]


def test_a_name_that_is_no_utf8_is_refused_in_one_sentence(tmp_path):
    folder = tmp_path / os.fsdecode(b"b\xff")
    with pytest.raises(ConfigError, match=r"b.udcff.* is no UTF-8; rename"):
        run(folder, {"a.csv": rows()})


@pytest.mark.parametrize("zeros", [("0.0", "-0.0"), ("-0.0", "0.0")])
def test_minus_zero_is_zero(tmp_path, zeros):
    """Else which of two doubles stays depends on their order."""
    head, *lines = rows().splitlines()
    content = [f"{line},{zero}" for zero in zeros for line in lines]
    text = "\n".join([head + ",price", *content]) + "\n"
    run(tmp_path, {"a.csv": text}, {"types": {"price": "DOUBLE"}}, features={"price": "price"})
    assert set(map(str, column(tmp_path, "price"))) == {"0.0"}
    sql = cast_sql("price", ColumnType("number"), pa.float64())
    with connect() as db:
        assert one_row(db, f"FROM (SELECT -0.0::DOUBLE AS price) SELECT ({sql})::VARCHAR") == (
            "0.0",
        )


@pytest.mark.parametrize("name", ["~", "file:"])
def test_a_relative_folder_of_any_name_is_a_folder(tmp_path, monkeypatch, name):
    """DuckDB takes ~ for the home folder and file: for a URL."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / name).mkdir()
    (tmp_path / name / "a.csv").write_text(rows())
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "a.csv").write_text(rows(n=10))
    monkeypatch.chdir(tmp_path)
    mapping = Mapping(log={"files": ["*.csv"]}, **BASE)
    assert import_log(mapping, Path(name), Path(name) / "data").read == 40
    assert len(list((tmp_path / name / "data").rglob("*.parquet"))) == 2
    assert not list((tmp_path / "home").rglob("*.parquet"))
    parts = sorted(Path(name).rglob("*.parquet"))
    with connect() as db:
        assert one_row(db, f"FROM {parquet(parts)} SELECT count(*)") == (40,)


def test_parquet_logs_are_read_with_one_type_per_column(tmp_path):
    table = pa.table(
        {
            "user": pa.array([f"u{i % 3}" for i in range(40)]),
            "item": pa.array([i % 5 for i in range(40)], pa.int16()),
            "t": pa.array([START + i * 600 for i in range(40)]),
            "clicked": pa.array([i % 3 == 0 for i in range(40)]),
            "kind": pa.array(["ads" if i % 2 else "natural" for i in range(40)]),
        }
    )
    source = tmp_path / "logs"
    source.mkdir()
    pq.write_table(table.slice(0, 20), source / "a.parquet")
    pq.write_table(
        table.slice(20).set_column(1, "item", table["item"].cast(pa.int64()).slice(20)),
        source / "b.parquet",
    )
    mapping = Mapping(log={"files": ["*.parquet"]}, **(BASE | {"click": "clicked"}))
    assert import_log(mapping, source, tmp_path / "data").read == 40
    assert kind_of(tmp_path, "item_id") == "int64"
    text = pa.array([str(i) for i in table["item"].to_pylist()])
    pq.write_table(table.set_column(1, "item", text), source / "c.parquet")
    with pytest.raises(
        ContractError, match=r"c\.parquet: column item is VARCHAR, but BIGINT in|but SMALLINT in"
    ):
        import_log(mapping, source, tmp_path / "other")


def test_a_join_whose_keys_are_text_on_one_side_finds_its_rows(tmp_path):
    source = tmp_path / "logs"
    source.mkdir()
    (source / "a.csv").write_text(rows())
    (source / "items.csv").write_text(
        "item,colour\n" + "".join(f"{100 + i},c{i}\n" for i in range(5)) + "x,none\n"
    )
    joins = {"items": {"files": ["items.csv"], "key": "item"}}
    mapping = Mapping(
        log={"files": ["a.csv"]},
        joins=joins,
        **(BASE | {"item_id": "log.item"}),
        features={"colour": "items.colour"},
    )
    import_log(mapping, source, tmp_path / "data")
    assert set(column(tmp_path, "colour")) == {f"c{i}" for i in range(5)}


def test_on_a_pipe_the_command_prints_a_line_per_file(tmp_path):
    source = tmp_path / "logs"
    source.mkdir()
    for day in range(30):
        (source / f"{day}.csv").write_text(rows(start=START - day * 86400))
    (tmp_path / "m.yaml").write_text(json.dumps({"log": {"files": ["*.csv"]}, **BASE}))
    command = [
        "--json",
        "import",
        "log",
        "--mapping",
        f"{tmp_path}/m.yaml",
        "--from",
        str(source),
        "--out",
        f"{tmp_path}/data",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert done.stderr.count("rows") == 30 == len(done.stderr.splitlines())
    assert json.loads(done.stdout)["read"] == 1200


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (pa.uint64(), 2**63),
        (pa.uint64(), 2**60),
        (pa.uint64(), 2**53 + 1),
        (pa.decimal128(20, 0), 2**60),
    ],
)
def test_wide_ids_of_parquet_keep_every_digit(tmp_path, kind, first):
    n = 40
    users = [first + i % 5 for i in range(n)]
    values = [Decimal(user) for user in users] if pa.types.is_decimal(kind) else users
    log = pa.table(
        {
            "user": pa.array(values, kind),
            "item": [100 + i % 5 for i in range(n)],
            "t": [START + i * 600 for i in range(n)],
            "clicked": [int(i % 3 == 0) for i in range(n)],
            "kind": ["ads" if i % 2 else "natural" for i in range(n)],
        }
    )
    (tmp_path / "logs").mkdir()
    pq.write_table(log, tmp_path / "logs" / "a.parquet")
    run(tmp_path, {}, log={"files": ["*.parquet"]})
    assert sorted({str(user) for user in column(tmp_path, "user_id")}) == sorted(
        {str(user) for user in users}
    )


def _of_users(users: pa.Array) -> pa.Table:
    n = len(users)
    return pa.table(
        {
            "user": users,
            "item": [100 + i % 5 for i in range(n)],
            "t": [START + i * 600 for i in range(n)],
            "clicked": [int(i % 3 == 0) for i in range(n)],
            "kind": ["ads" if i % 2 else "natural" for i in range(n)],
        }
    )


@pytest.mark.parametrize("kind", [pa.float64(), pa.float32(), pa.decimal128(12, 1)])
def test_whole_ids_that_stand_as_fractions_are_cast(tmp_path, kind):
    """As pandas writes integers beside a null."""
    (tmp_path / "logs").mkdir()
    users = pa.array([float(1 + i % 5) for i in range(40)]).cast(kind)
    pq.write_table(_of_users(users), tmp_path / "logs" / "a.parquet")
    with pytest.raises(ConfigError, match=r"expected an integer or text; write \(user\)::BIGINT"):
        run(tmp_path, {}, log={"files": ["*.parquet"]})
    run(tmp_path, {}, log={"files": ["*.parquet"]}, user_id="user::BIGINT")
    assert set(column(tmp_path, "user_id")) == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(
    ("kind", "values", "user_id"),
    [
        (pa.float64(), [1.0, 1.5], "user::BIGINT"),
        (pa.float64(), [1.0, 1.5], "TRY_CAST(user AS BIGINT)::VARCHAR"),
        (pa.decimal128(12, 1), [1.0, 1.5], "user::BIGINT"),
        (pa.float64(), [1.0, 2.0**53 + 2], "user::BIGINT"),
        (pa.float64(), [1.0, 2.0**53 + 2], "user::VARCHAR"),
        (pa.float32(), [1.0, 2.0**24 + 2], "user::BIGINT"),
    ],
)
def test_ids_that_a_cast_or_a_double_would_merge_are_refused(tmp_path, kind, values, user_id):
    """DuckDB writes HUGEINT to Parquet as doubles, in which two users may be one."""
    (tmp_path / "logs").mkdir()
    users = pa.array(values * 20).cast(kind)
    pq.write_table(_of_users(users), tmp_path / "logs" / "a.parquet")
    words = r"a\.parquet: 20 rows, the first in row 2, have an id of a number with a fraction"
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {}, log={"files": ["*.parquet"]}, user_id=user_id)
    assert not list((tmp_path / "data").rglob("*.parquet"))
    kept = "user::DECIMAL(20, 4)::VARCHAR" if pa.types.is_decimal(kind) else "'one'"
    run(tmp_path, {}, log={"files": ["*.parquet"]}, user_id=kept)


def test_both_kinds_of_files_that_a_pattern_matches_are_named(tmp_path):
    """Nothing is said of _SUCCESS, which Spark and Hive leave beside what they write."""
    (tmp_path / "logs").mkdir()
    pq.write_table(_of_users(pa.array([1.0])), tmp_path / "logs" / "a.parquet")
    with pytest.raises(ConfigError, match=r"a\.parquet, which is Parquet by its name, and .*notes"):
        run(tmp_path, {"_SUCCESS": "", "notes": ""}, log={"files": ["*"]})


def test_decimals_wider_than_any_here_are_refused_where_the_mapping_reads_them(tmp_path):
    """As BigQuery writes BIGNUMERIC; read as doubles two ids would be one."""
    wide = pa.array([Decimal(2**53 + i % 2) for i in range(40)], pa.decimal256(76, 0))
    log = pa.table(
        {
            "user": [1 + i % 5 for i in range(40)],
            "item": [100 + i % 5 for i in range(40)],
            "t": [START + i * 600 for i in range(40)],
            "clicked": [int(i % 3 == 0) for i in range(40)],
            "kind": ["ads" if i % 2 else "natural" for i in range(40)],
            "shop": wide,
        }
    )
    (tmp_path / "logs").mkdir()
    pq.write_table(log, tmp_path / "logs" / "a.parquet")
    with pytest.raises(ContractError, match=r"a\.parquet: column shop is decimal256\(76, 0\)"):
        run(tmp_path, {}, log={"files": ["*.parquet"]}, features={"shop": "shop"})
    run(tmp_path, {}, log={"files": ["*.parquet"]})  # nothing reads it
    assert len(column(tmp_path, "click")) == 40


def test_an_import_below_its_own_source_reads_the_log_alone(tmp_path):
    """Not what it writes meanwhile, nor what an import left that was killed."""
    (tmp_path / "a.csv").write_text(rows())
    (tmp_path / "j.txt").write_text(
        "item,kind2\n" + "".join(f"{100 + i},c{i}\n" for i in range(5)) + ",none\n,none\n"
    )
    left = tmp_path / "out" / "_import-left" / "log"
    left.mkdir(parents=True)
    (left / "b.csv").write_text(rows(start=START + 86400))
    mapping = Mapping(
        log={"files": ["**/*.csv"]},
        joins={"j": {"files": ["j.txt"], "key": "item"}},
        **(BASE | {"item_id": "log.item"}),
        features={"c": "j.kind2"},
    )
    done = import_log(mapping, tmp_path, tmp_path / "out")
    assert (done.read, done.first, done.last) == (40, "2026-01-01", "2026-01-01")


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"#user,item,t,clicked,kind\n", gzip.compress(b"", mtime=0)]
)
def test_a_log_without_any_column_is_told(tmp_path, content):
    name = "a.csv.gz" if content[:2] == b"\x1f\x8b" else "a.csv"
    with pytest.raises(ContractError, match=f"expected columns, found none in .*{name}: nothing"):
        run(tmp_path, {name: content}, log={"files": ["a.*"]})


def test_a_column_that_is_there_twice_is_told_so(tmp_path):
    words = r"a\.csv, line 1, read as the header: column user is there twice; .*names: \["
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {"a.csv": rows().replace("item", "user", 1)})


def test_a_date_that_never_comes_is_refused(tmp_path):
    text = rows().replace("kind\n", "kind,until\n").replace("ads\n", "ads,infinity\n")
    text = text.replace("natural\n", "natural,2026-01-05\n")
    with pytest.raises(
        ContractError, match=r"features\.until does not fit in 20 of 40 rows; expected dates"
    ):
        run(tmp_path, {"a.csv": text}, features={"until": "until"})


def test_a_log_of_hundreds_of_columns_is_read(tmp_path):
    head, *lines = rows().splitlines()
    many = ["," + ",".join(f"c{i}" for i in range(300))] + ["," + ",".join(["1"] * 300)] * 40
    text = "\n".join(a + b for a, b in zip([head, *lines], many, strict=True))
    assert run(tmp_path, {"a.csv": text + "\n"}, features={"f": "c299"}).read == 40


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("features.f", "f::INT"),
        ("features.f", "TRY_CAST(f::VARCHAR AS BIGINT)"),
        ("features.f", "string_split(f::VARCHAR, '|')::INT[]"),
        ("features.f", "[f]::INT[]"),
        ("click", "f::INT"),
    ],
)
def test_a_cast_that_rounds_is_refused_but_where_the_mapping_rounds(tmp_path, key, text):
    lines = [f"{line},{i % 2}.0" for i, line in enumerate(rows().splitlines()[1:])]
    lines[4] = lines[4].removesuffix("0.0") + "0.5"
    files = {"a.csv": "user,item,t,clicked,kind,f\n" + "\n".join(lines) + "\n"}
    changes = {"click": text} if key == "click" else {"features": {"f": text}}
    types = {"types": {"f": "DOUBLE"}}
    with pytest.raises(ContractError, match=rf"1 rows, the first in line 6, .*{key}: .*round\(…\)"):
        run(tmp_path, files, types, **changes)
    assert run(tmp_path, files, types, features={"f": "round(f)::INT"}).read == 40
