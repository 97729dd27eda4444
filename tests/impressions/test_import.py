"""Logs as the world writes them: read as they are written, or refused by file and line; no value changes, no row is lost."""

from __future__ import annotations

import bz2
import datetime as dt
import gzip
import json
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.config import Config, Data, Feature
from ecdctr.errors import ConfigError, ContractError
from ecdctr.impressions.contract import validate
from ecdctr.impressions.importer import Imported, import_log
from ecdctr.impressions.mapping import Mapping

START = 1767225600  # 2026-01-01
BASE = {
    "user_id": "user", "item_id": "item", "ts": "to_timestamp(t)", "click": "clicked = 1", "domain": "kind",
}  # fmt: skip


def rows(
    users: list[str] | tuple[str, ...] = ("1", "2", "3"), n: int = 40, start: int = START
) -> str:
    lines = ["user,item,t,clicked,kind"]
    for i in range(n):
        kind = "ads" if i % 2 else "natural"
        lines.append(
            f"{users[i % len(users)]},{100 + i % 5},{start + i * 600},{i % 3 == 0:d},{kind}"
        )
    return "\n".join(lines) + "\n"


def run(
    folder: Path, files: dict[str, str | bytes], log: dict | None = None, **changes
) -> Imported:
    """Import files written under `folder` by the base mapping, changed."""
    source = folder / "logs"
    source.mkdir(exist_ok=True)
    for name, content in files.items():
        (source / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    mapping = Mapping(log={"files": ["*.csv"]} | (log or {}), **(BASE | changes))
    return import_log(mapping, source, folder / "data")


def column(folder: Path, name: str) -> list:
    values: list = []
    for path in sorted((folder / "data").rglob("*.parquet")):
        values += pq.read_table(path, partitioning=None)[name].to_pylist()
    return values


def kind_of(folder: Path, name: str) -> str:
    (kind,) = {
        str(pq.read_schema(path).field(name).type) for path in (folder / "data").rglob("*.parquet")
    }
    return kind


def breaches(folder: Path, *features: Feature) -> list[str]:
    config = Config(data=Data(root=folder / "data"), features=features)
    return [str(v) for report in validate(config, ["natural", "ads"]) for v in report.violations]


USERS = {
    "twenty digits": [f"1000016934911786371{i}" for i in range(9)],
    "leading zeros": ["007", "07", "7"],
    "beyond 2^53": [str(2**53 + i) for i in range(5)],
    "a plus": ["+7", "7"],
    "exponents": ["1e5", "100000"],
    "decimals": ["1.10", "1.1"],
    "Unicode of two forms": ["caf\u00e9", "cafe\u0301", "\U0001f600"],
    "an odd one last": ["1"] * 39 + ["x"],
    "nan and null as words": ["nan", "null", "NULL", "NA", "true"],
}


@pytest.mark.parametrize("what", USERS)
def test_ids_keep_their_digits_and_letters(tmp_path, what):
    users = USERS[what]
    log = {"types": {"user": "VARCHAR"}} if what in ("decimals", "exponents", "a plus") else None
    if log:  # numbers, by their looks: refused as ids, unless they are said to be text
        with pytest.raises(ConfigError, match=r"user_id: 'user' gives DOUBLE, expected an integer"):
            run(tmp_path, {"a.csv": rows(users)})
    done = run(tmp_path, {"a.csv": rows(users)}, log)
    assert {str(user) for user in column(tmp_path, "user_id")} == set(users)
    assert done.duplicates == 0
    assert breaches(tmp_path) == []


def test_a_column_has_one_type_over_all_files(tmp_path):
    """Empty in the first files, whole numbers later, a word in the last: text everywhere."""

    def file(value: str, day: int) -> str:
        head, *lines = rows(start=START + day * 86400).splitlines()
        return "\n".join([head + ",brand", *(line + "," + value for line in lines)]) + "\n"

    files = {f"{i}.csv": file(value, i) for i, value in enumerate(("", "05", "6", "x"))}
    run(tmp_path, files, features={"brand": "brand"})
    assert kind_of(tmp_path, "brand") == "string"
    assert set(column(tmp_path, "brand")) == {None, "05", "6", "x"}
    assert breaches(tmp_path, Feature(name="brand", side="item", kind="categorical")) == []


@pytest.mark.parametrize(("text", "kind"), [("user + 9223372036854775807::HUGEINT", "string"), ("user::INTEGER", "int64"), ("user::UBIGINT", "int64"),
                                            ("uuid()", "string"), ("user::HUGEINT", "int64"), ("'u' || user", "string")])  # fmt: skip
def test_what_is_imported_passes_validate(tmp_path, text, kind):
    run(tmp_path, {"a.csv": rows()}, user_id=text, features={"f": text})
    assert kind_of(tmp_path, "user_id") == kind_of(tmp_path, "f") == kind
    assert breaches(tmp_path, Feature(name="f", side="user", kind="categorical")) == []


@pytest.mark.parametrize(("changes", "error", "words"), [
    ({"user_id": "user / 2"}, ConfigError, "user_id: 'user / 2' gives DOUBLE"),
    ({"user_id": "to_timestamp(t)"}, ConfigError, "gives TIMESTAMP WITH TIME ZONE, expected an integer or text"),
    ({"features": {"f": "to_timestamp(t)"}}, ConfigError, "features.f: .* which is no feature"),
    ({"features": {"f": "{'a': 1}"}}, ConfigError, "features.f: .* which is no feature"),
    ({"features": {"f": "clicked / 0"}}, ContractError, "features.f is infinite in"),
    ({"features": {"history": "item"}}, ConfigError, "features.history: the contract itself, or preparation"),
    ({"features": {"Genre": "item"}}, ConfigError, "features.Genre: expected a name of a-z"),
    ({"click": "clicked - 1"}, ContractError, "click of .* rows is -1, expected 0 or 1"),
    ({"click": "clicked + 1"}, ContractError, "click of 14 of 40 rows is 2, expected 0 or 1"),
    ({"click": "CASE WHEN clicked = 1 THEN 1 END"}, ContractError, "click of 26 of 40 rows is null"),
    ({"ts": "CASE WHEN t % 7 > 0 THEN to_timestamp(t) END"}, ContractError, "rows have no time"),
    ({"ts": "CASE WHEN clicked = 1 THEN 'infinity'::TIMESTAMPTZ ELSE to_timestamp(t) END"}, ContractError,
     "a.csv: ts lies between .* and infinity"),
    ({"ts": "epoch_ms(t)"}, ContractError, "look like seconds read as a smaller unit: write ts: to_timestamp"),
    ({"ts": "to_timestamp(t * 1000)"}, ContractError, "look like milliseconds .* write ts: epoch_ms"),
    ({"ts": "to_timestamp(t + 3153600000)"}, ContractError, "ts lies between 2125.* set earliest or latest"),
    ({"earliest": dt.date(2026, 2, 1)}, ContractError, "expected between 2026-02-01 and"),
])  # fmt: skip
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


BROKEN = {  # content, words of the sentence, changes of the log's description
    "a longer row": (rows() + "1,2,3,4,5,6\n", "a.csv, line 42: Expected Number of Columns: 5 Found: 6", {}),
    "a row cut short": (rows() + "9,100\n", "a.csv, line 42: Expected Number of Columns: 5 Found: 2", {}),
    "an open quote": (rows() + '"9,1,1,1,ads\n' + rows(), "a.csv, line 42: .*unterminated quote", {}),
    "text after a quote": (rows() + '"9"9,1,1,1,ads\n', "a.csv, line 42: .*quote", {}),
    "Latin-1": (rows().replace("natural", "nat\u00fcrlich", 1).encode("latin-1"), "a.csv, line 2: Invalid unicode", {}),
    "UTF-16": (rows().encode("utf-16"), "a.csv is UTF-16; say so", {}),
    "mixed ends of lines": (rows().replace("\n", "\r\n", 10), "a.csv cannot be read", {}),
    "columns alike": (rows().replace("kind", "User", 1), "a.csv: columns user and User", {}),
    "wider than its names": (rows().split("\n", 1)[1], "a.csv, line 1: Expected Number of Columns: 6 Found: 5",
                             {"header": False, "names": ["user", "item", "t", "clicked", "kind", "extra"], "delimiter": ","}),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_named_with_its_line(tmp_path, what):
    content, words, log = BROKEN[what]
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {"a.csv": content}, log)
    assert not list((tmp_path / "data").iterdir())


PACKED = gzip.compress(rows().encode())
ARCHIVES = {
    "gzip cut short": ("a.csv.gz", PACKED[:-20]),
    "gzip damaged": ("a.csv.gz", PACKED[:60] + b"xxxx" + PACKED[64:]),
    "text named .gz": ("a.csv.gz", rows().encode()),
    "text named .zst": ("a.csv.zst", rows().encode()),
    "a broken Parquet file": ("a.parquet", b"PAR1 no"),
}


@pytest.mark.parametrize("what", ARCHIVES)
def test_a_broken_archive_is_named(tmp_path, what):
    name, content = ARCHIVES[what]
    with pytest.raises(ContractError, match=rf"{name} cannot be read"):
        run(tmp_path, {name: content}, {"files": [name]})
    assert not list((tmp_path / "data").iterdir())


DIALECTS = {
    "byte order mark": (b"\xef\xbb\xbf" + rows().encode(), {}),
    "CRLF": (rows().replace("\n", "\r\n"), {}),
    "CR": (rows().replace("\n", "\r"), {}),
    "no last end of line": (rows().rstrip("\n"), {}),
    "comments before the header": ("# made by a tool\n# 2026\n" + rows(), {}),
    "semicolons": (rows().replace(",", ";"), {}),
    "tabs": (rows().replace(",", "\t"), {}),
    "two colons": (rows().replace(",", "::"), {"delimiter": "::"}),
    "quoted": ("\n".join(",".join(f'"{cell}"' for cell in line.split(",")) for line in rows().splitlines()) + "\n", {}),
    "spaces in the header": (rows().replace("user,item", "user, item ", 1), {}),
    "Latin-1, told": (rows().encode("latin-1"), {"encoding": "latin-1"}),
    "UTF-16, told": (rows().encode("utf-16"), {"encoding": "utf-16"}),
    "names": (rows().split("\n", 1)[1], {"names": ["user", "item", "t", "clicked", "kind"]}),
    "gzip of two members": ((gzip.compress(rows()[:300].encode()) + gzip.compress(rows()[300:].encode())), {"files": ["a.csv.gz"]}),
}  # fmt: skip


@pytest.mark.parametrize("what", DIALECTS)
def test_a_dialect_is_read_as_it_is_written(tmp_path, what):
    content, log = DIALECTS[what]
    name = log.get("files", ["a.csv"])[0]
    done = run(tmp_path, {name: content}, log)
    assert (done.read, done.natural, done.ads, done.left_out, done.duplicates) == (40, 20, 20, 0, 0)
    assert set(column(tmp_path, "user_id")) == {1, 2, 3}
    assert sum(column(tmp_path, "click")) == 14


def test_quotes_and_line_breaks_inside_of_values_are_kept(tmp_path):
    titles = [f'one\nline "two", {i}\r\n; #' for i in range(40)]
    lines = rows().splitlines()
    quoted = ['"' + title.replace('"', '""') + '"' for title in titles]
    text = "\n".join(
        [lines[0] + ",title", *(f"{a},{b}" for a, b in zip(lines[1:], quoted, strict=True))]
    )
    run(tmp_path, {"a.csv": text + "\n"}, features={"title": "title"})
    assert set(column(tmp_path, "title")) == set(titles)


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
    assert heard == ["a.csv: 40 rows", "again.csv: 40 rows", "b.csv: 40 rows", "empty.csv: 0 rows", "header.csv: 0 rows"]  # fmt: skip


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


def test_names_of_files_are_names_before_they_are_patterns(tmp_path):
    folder = tmp_path / "lo[g]s *?#%20"
    folder.mkdir()
    (tmp_path / "logs").mkdir()
    (folder / "a[1].csv").write_text(rows())
    (folder / "a1.csv").write_text("not,this\n")
    mapping = Mapping(log={"files": ["a[1].csv"]}, **BASE)
    assert import_log(mapping, folder, tmp_path / "d[0]").read == 40
    below = tmp_path / "x.parquet"
    below.mkdir()
    (below / "a.csv").write_text(rows())
    assert (
        import_log(Mapping(log={"files": ["*.csv"]}, **BASE), below, tmp_path / "data").read == 40
    )
    with pytest.raises(ConfigError, match=r"x\.parquet is a folder, expected a file"):
        import_log(Mapping(log={"files": ["*.parquet"]}, **BASE), tmp_path, tmp_path / "more")


def test_parquet_logs_are_read_with_one_type_per_column(tmp_path):
    table = pa.table({
        "user": pa.array([f"u{i % 3}" for i in range(40)]), "item": pa.array([i % 5 for i in range(40)], pa.int16()),
        "t": pa.array([START + i * 600 for i in range(40)]), "clicked": pa.array([i % 3 == 0 for i in range(40)]),
        "kind": pa.array(["ads" if i % 2 else "natural" for i in range(40)]),
    })  # fmt: skip
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


def test_other_compressions_are_read(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.csv\.bz2: .*\.gz or \.zst"):
        run(tmp_path, {"a.csv.bz2": bz2.compress(rows().encode())}, {"files": ["a.csv.bz2"]})
    packed = pa.CompressedOutputStream(str(tmp_path / "logs" / "a.csv.zst"), "zstd")
    packed.write(rows().encode())
    packed.close()
    assert run(tmp_path, {}, {"files": ["a.csv.zst"]}).read == 40


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


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_or_damaged_archive_of_any_size_is_named(tmp_path, suffix):
    text = rows(tuple(str(i) for i in range(5000)), n=60_000, start=START).encode()
    whole = gzip.compress(text, 1) if suffix == ".gz" else pa.compress(text, "zstd", asbytes=True)
    name = f"a.csv{suffix}"
    for content in (
        whole[: len(whole) * 8 // 10],
        whole[:-6] + b"\0" * 6 if suffix == ".gz" else whole[:-9],
    ):
        with pytest.raises((ConfigError, ContractError), match=r"a\.csv"):
            run(tmp_path, {name: content}, log={"files": [name]})
        assert not list((tmp_path / "data").rglob("*.parquet"))


def test_a_comment_ends_where_the_csv_says_so(tmp_path):
    text = "# a\u2028# b\x0c# c\n" + rows()
    assert run(tmp_path, {"a.csv": text}).read == 40


def test_utf_16_with_the_big_end_first_is_refused_by_name(tmp_path):
    text = b"\xfe\xff" + rows().encode("utf-16-be")
    with pytest.raises(ContractError, match=r"a\.csv is UTF-16 with the big end first"):
        run(tmp_path, {"a.csv": text}, log={"files": ["*.csv"], "encoding": "utf-16"})
