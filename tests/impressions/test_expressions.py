"""The expressions of a mapping.

One value for each row, the same each time, and nothing compared by rounding.
"""

from __future__ import annotations

import io
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ConfigError, ContractError
from tests.impressions.imported import START, column, rows, run


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"features": {"f": "unnest([1, 2])"}},
            "features.f: .* does not give one value for each row",
        ),
        (
            {"features": {"f": "max(item)"}},
            "features.f: .* without aggregates, window functions, unnest",
        ),
        ({"features": {"f": "row_number() OVER ()"}}, "features.f: .* one value for each row"),
        ({"click": "clicked = (SELECT max(clicked) FROM log)"}, "click: .* one value for each row"),
        ({"features": {"f": "item) AS x, (user"}}, "features.f: .* is not one expression"),
        (
            {"features": {"f": "item); DROP TABLE log; SELECT (1"}},
            "features.f: .* is not one expression",
        ),
        (
            {"features": {"f": "COLUMNS('user')"}},
            "features.f: .* does not give one value for each row",
        ),
        ({"user_id": "current_user"}, "user_id: there is no column 'current_user'"),
        (
            {"features": {"f": "list_filter([1], lambda x: x > 0 AND session_user <> 'a')"}},
            "features.f: there is no column 'session_user'",
        ),
        (
            {"domain": "CASE WHEN random() < 0.5 THEN 'ads' ELSE 'natural' END"},
            r"domain: .*: random\(\) gives another value",
        ),
        ({"features": {"f": "uuid()"}}, r"features.f: .*: uuid\(\) gives another"),
        ({"ts": "now()"}, r"ts: .*: now\(\) gives another"),
        (
            {"features": {"f": "(current_date - make_timestamp(t)::DATE)::BIGINT"}},
            r"features.f: there is no column 'current_date'",
        ),
        (
            {"ts": "t"},
            r"mapping ts: 't' gives BIGINT, expected a timestamp: to_timestamp\(t\) for seconds",
        ),
        ({"ts": "clicked = 1"}, "mapping ts: .* gives BOOLEAN, expected a timestamp"),
        ({"features": {"f": "[1.5, 2.25]"}}, "features.f: .* a list of integers"),
    ],
)
def test_an_expression_that_is_no_value_of_its_row_is_refused(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, {"a.csv": rows()}, **changes)


@pytest.mark.parametrize(
    "text",
    [
        "v = 1",
        "v <> 0",
        "v IN (1, 2)",
        "CASE v WHEN 1 THEN 1 ELSE 0 END",
        "trim(v) = 1",
        "1 = v",
        "coalesce(v, '0') = clicked",
        "v IS NOT DISTINCT FROM 1",
        "len(list_filter([1], lambda x: v = 1))",
    ],
)
def test_text_is_never_compared_with_a_number(tmp_path, text):
    """DuckDB takes 1.4 for 1 there."""
    head, *lines = rows().splitlines()
    log = "\n".join(
        [f"{head},v", *(f"{line},{('1.4', '1.40', '0')[i % 3]}" for i, line in enumerate(lines))]
    )
    with pytest.raises(
        ConfigError, match=r"click: .* compares text with a number; write the number in quotes"
    ):
        run(tmp_path, {"a.csv": log + "\n"}, click=text)
    run(tmp_path, {}, click="v = '0'")
    assert sum(column(tmp_path, "click")) == 13


def test_lambdas_lists_and_structs_are_expressions_like_others(tmp_path):
    features = {
        "f": "list_filter(string_split('a|b', '|'), lambda x: x <> 'a')",
        "g": "struct_pack(a := item).a",
        "h": "list_transform([user, item], lambda x: x + 1)",
    }
    run(tmp_path, {"a.csv": rows()}, features=features)
    assert column(tmp_path, "f")[0] == ["b"]
    assert set(column(tmp_path, "g")) == set(range(100, 105))


def parquet_log(folder, kind: pa.DataType) -> None:
    """A log in Parquet whose items are of this type."""
    n = 40
    table = pa.table(
        {
            "user": [f"u{i % 3}" for i in range(n)],
            "item": pa.array(np.arange(n) % 5 + 100, pa.int16()).cast(kind),
            "t": [START + i * 600 for i in range(n)],
            "clicked": [int(i % 3 == 0) for i in range(n)],
            "kind": ["ads" if i % 2 else "natural" for i in range(n)],
        }
    )
    (folder / "logs").mkdir()
    pq.write_table(table, folder / "logs" / "a.parquet")


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.int16(), pa.uint64(), pa.string(), pa.decimal128(10, 2)], ids=str
)
@pytest.mark.parametrize("items", ["{}", "{}.0", "{}.00"])
def test_join_keys_of_other_types_find_their_rows(tmp_path, kind, items):
    """As pandas writes whole numbers with nulls: 100.0 on one side, 100 on the other."""
    if kind == pa.string() and items != "{}":
        pytest.skip("'100' and 100.00 are not alike")
    parquet_log(tmp_path, kind)
    lines = [f"{items.format(100 + i)},c{i}" for i in range(5)]
    joins = {"j": {"files": ["j.txt"], "key": "item"}}
    run(
        tmp_path,
        {"j.txt": "item,colour\n" + "\n".join(lines) + "\n"},
        {"files": ["a.parquet"]},
        joins=joins,
        item_id="log.item::BIGINT",
        features={"colour": "j.colour"},
    )
    assert set(column(tmp_path, "colour")) == {f"c{i}" for i in range(5)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("item,colour\n0100,red\n0101,blue\n", "(the log has '100', its files have '0100'); write"),
        ("item,colour\n200,red\n", "(the log has '100', its files have '200'); write"),
        ("item,colour\n", "its files have no row with a value of item; look at"),
        ("item,colour\n,red\n", "its files have no row with a value of item; look at"),
    ],
)
def test_a_join_that_finds_no_row_at_all_is_refused(tmp_path, content, words):
    files = {"a.csv": rows(), "j.txt": content}
    joins = {"j": {"files": ["j.txt"], "key": "item"}}
    with pytest.raises(ContractError, match=re.escape(words)):
        run(tmp_path, files, joins=joins, item_id="log.item", features={"colour": "j.colour"})


def test_settings_of_csv_beside_parquet_are_refused(tmp_path):
    parquet_log(tmp_path, pa.int64())
    with pytest.raises(ConfigError, match="types describes CSV, but the files are Parquet"):
        run(tmp_path, {}, {"files": ["a.parquet"], "types": {"item": "VARCHAR"}})


@pytest.mark.parametrize(
    ("label", "rule"),
    [
        (
            "CASE WHEN clicked = 1 THEN 1 END",
            r"coalesce\(\(CASE WHEN clicked = 1 THEN 1 END\), 0\)",
        ),
        ("clicked + 1", r"TRY_CAST\(\(clicked \+ 1\) AS DOUBLE\) >= 1"),
    ],
)
def test_the_rule_that_a_label_needs_fits_what_was_found(tmp_path, label, rule):
    with pytest.raises(ContractError, match=f"write a rule in the mapping, such as click: {rule}"):
        run(tmp_path, {"a.csv": rows()}, click=label)


@pytest.mark.parametrize("name", ["\u200buser", "users", "USER ID"])
def test_a_name_that_is_no_column_is_never_the_one_who_asks(tmp_path, name):
    """To DuckDB `user` is a function, the name of its own user: all rows would be of one."""
    with pytest.raises(
        ConfigError, match=r"user_id: there is no column 'user'. The log's columns: "
    ) as refused:
        run(tmp_path, {"a.csv": rows().replace("user", name, 1)})
    assert str(refused.value).isprintable()


def test_what_makes_text_of_a_column_is_said_where_it_does_not_fit(tmp_path):
    log = rows().replace(str(START), "n/a")
    words = r"t VARCHAR \(text, since 'n/a' .a.csv, line 2. is no number\), clicked BIGINT"
    with pytest.raises(ConfigError, match=f"ts: .* {words}"):
        run(tmp_path, {"a.csv": log})


@pytest.mark.parametrize("words", ["\\N", "NULL", "<NA>"])
def test_words_that_mean_none_elsewhere_are_told_and_can_be_declared(tmp_path, words):
    """As MySQL, Hive, PostgreSQL and pandas write them."""
    heard: list[str] = []
    files = {"a.csv": rows(["1", words, "3"])}
    run(tmp_path, files, on_file=heard.append)
    assert heard[1:] == [
        f"a.csv: user_id is '{words}' in 13 rows, values like others; if they mean none: nulls: "
        f"['{words}']"
    ]
    with pytest.raises(ContractError, match="13 of 40 rows without user or item id"):
        run(tmp_path / "b", files, {"nulls": [words]})
    log = rows().replace(",ads", f",{words}")
    run(
        tmp_path / "c",
        {"a.csv": log},
        {"nulls": [words]},
        domain="coalesce(kind, 'ads')",
        features={"kind": "kind"},
    )
    assert set(column(tmp_path / "c", "kind")) == {None, "natural"}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("CASE WHEN clicked = 1 THEN 'buy' ELSE 'look' END", "= 'the text of a click'"),
        ("clicked * 2.5", ">= 1"),
    ],
)
def test_the_hint_for_a_label_fits_its_type(tmp_path, text, hint):
    with pytest.raises(ContractError, match=f"such as click: .* {hint}"):
        run(tmp_path, {"a.csv": rows()}, click=text)


def test_times_in_another_form_are_refused_with_how_to_say_it(tmp_path):
    text = "strftime(to_timestamp(t), '%d/%m/%Y %H:%M')"
    with pytest.raises(ContractError, match=r"such as ts: strptime\(column, '%d/%m/%Y %H:%M'\)"):
        run(tmp_path, {"a.csv": rows()}, ts=text)


def test_rows_whose_domain_is_written_otherwise_are_left_out_with_a_word(tmp_path):
    heard: list[str] = []
    text = rows().replace("ads", "Ads ", 3)
    done = run(tmp_path, {"a.csv": text}, on_file=heard.append)
    assert done.left_out == 3
    assert (
        "a.csv: domain is 'Ads ' in 3 rows, which are left out; if it means ads: domain: "
        "lower(trim(…))"
    ) in heard


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_value_that_cannot_be_made_is_told_with_its_first_line(tmp_path, kind):
    lines = rows().splitlines()
    for i in (17, 30):
        lines[i] = lines[i].replace("ads", "x").replace("natural", "x")
    files = {"a.csv": "\n".join(lines) + "\n"}
    if kind == "parquet":
        (tmp_path / "logs").mkdir()
        table = pyarrow.csv.read_csv(io.BytesIO(files.pop("a.csv").encode()))
        pq.write_table(table, tmp_path / "logs" / "a.parquet")
    place = "line 18" if kind == "csv" else "row 17"
    rule = "CASE WHEN kind = 'x' THEN kind::DOUBLE ELSE 1 END"
    words = rf"under features\.f, first in {place}: .*Could not convert string 'x' to DOUBLE"
    with pytest.raises(ContractError, match=words):
        run(
            tmp_path,
            files,
            {"files": [f"a.{kind}"]},
            features={"f": rule},
            domain=("CASE WHEN item % 2 = 0 THEN 'ads' ELSE 'natural' END"),
        )
