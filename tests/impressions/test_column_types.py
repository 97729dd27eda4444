"""The type of a column of CSV: text until all values of all files prove another without loss."""

from __future__ import annotations

import pytest

from ecdctr.config import Feature
from ecdctr.errors import ConfigError, ContractError
from tests.impressions.imported import START, breaches, column, kind_of, rows, run

USERS = {
    "twenty digits": [f"1000016934911786371{i}" for i in range(9)],
    "leading zeros": ["007", "07", "7"],
    "beyond 2^53": [str(2**53 + i) for i in range(5)],
    "a plus": ["+7", "7"],
    "exponents": ["1e5", "100000"],
    "decimals": ["1.10", "1.1"],
    "one number in many ways": ["1", "1.0", "1e0", "+1", "01"],
    "Unicode of two forms": ["caf\u00e9", "cafe\u0301", "\U0001f600"],
    "an odd one last": ["1"] * 39 + ["x"],
    "nan and null as words": ["nan", "null", "NULL", "NA", "true"],
}


@pytest.mark.parametrize("what", USERS)
def test_ids_keep_their_digits_and_letters(tmp_path, what):
    users = USERS[what]
    done = run(tmp_path, {"a.csv": rows(users)})
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


def priced(prices: list[str], n: int = 40) -> str:
    """Return the log with a column of prices."""
    head, *lines = rows(n=n).splitlines()
    cells = [f"{line},{prices[i % len(prices)]}" for i, line in enumerate(lines)]
    return "\n".join([f"{head},price", *cells]) + "\n"


NUMBERS = {
    "as Python prints": ["4.0", "3.5", "1e-07", "1e+16", "0.30000000000000004"],
    "as JavaScript prints": ["4", "3.5", "1e-7", "1e21"],
    "as Java prints": ["4.0", "1.0E-7", "1.0E7"],
    "two decimals": ["9.50", "10.00", "0.05"],
    "zero with a sign": ["-0.0", "0.0", "1.5"],
    "nan among them": ["nan", "NaN", "1.5"],
    "no digit before the point": [".5", "1."],
}


@pytest.mark.parametrize("what", NUMBERS)
def test_numbers_are_numbers_where_each_has_one_text(tmp_path, what):
    run(tmp_path, {"a.csv": priced(NUMBERS[what])}, features={"price": "price"})
    assert kind_of(tmp_path, "price") == "double"
    expected = {str(float(text)).removeprefix("-") for text in NUMBERS[what]}
    assert {str(value).removeprefix("-") for value in column(tmp_path, "price")} == expected


@pytest.mark.parametrize(
    ("prices", "words"),
    [
        (["1.1", "1.10"], "1.1 and 1.10"),
        (["100000", "1e5"], "100000 and 1e5"),
        (["4", "4.0", "3.5"], "4 and 4.0"),
    ],
)
def test_numbers_of_which_two_texts_are_one_stay_text_and_this_is_said(tmp_path, prices, words):
    heard: list[str] = []
    files = {"a.csv": priced(prices)}
    run(tmp_path, files, on_file=heard.append, features={"price": "price"})
    assert set(column(tmp_path, "price")) == set(prices)
    assert heard[0] == (
        f"log.price is text, since {words} would be one number; types: {{price: DOUBLE}} makes "
        "numbers"
    )
    told = tmp_path / "told"
    run(told, files, {"types": {"price": "DOUBLE"}}, features={"price": "price"})
    assert set(column(told, "price")) == set(map(float, prices))
    with pytest.raises(
        ConfigError, match=f"does not fit .*price VARCHAR .text, since {words} would"
    ):
        run(tmp_path / "again", files, click="price >= 4")


def test_words_for_nothing_among_numbers_are_all_said_with_what_makes_numbers(tmp_path):
    prices = ["1.5", "NA", "2", "-", r"\N", "NULL", "4.25", "NA"]
    heard: list[str] = []
    run(tmp_path, {"a.csv": priced(prices)}, on_file=heard.append, features={"price": "price"})
    assert heard[0] == (
        r"log.price is text, since 'NA', '-', 'NULL', '\N' stand among its numbers; nulls: "
        r"['NA', '-', 'NULL', '\N'] under log makes numbers"
    )
    told = tmp_path / "told"
    nulls = {"nulls": ["NA", "-", "NULL", r"\N"]}
    run(told, {"a.csv": priced(prices)}, nulls, features={"price": "price"})
    assert set(column(told, "price")) == {None, 1.5, 2.0, 4.25}
    words = (
        r"declared as DOUBLE .* 25 of 40 values are none, such as 'NA', '-', 'NULL', '\\N'; write "
        r"nulls: \['NA', '-', 'NULL', '\\N'\] if they mean none, else declare another type"
    )
    with pytest.raises(ContractError, match=words):
        run(tmp_path / "types", {"a.csv": priced(prices)}, {"types": {"price": "DOUBLE"}})


@pytest.mark.parametrize("prices", [["NA", "-"], ["1.5", "NA", "cheap"], ["red", "NA"]])
def test_a_column_that_is_text_by_other_words_makes_no_such_sentence(tmp_path, prices):
    heard: list[str] = []
    run(tmp_path, {"a.csv": priced(prices)}, on_file=heard.append, features={"price": "price"})
    assert heard[0] == "a.csv: 40 rows"


def test_digits_beyond_what_a_double_holds_stay_text(tmp_path):
    prices = ["0.12345678901234567890", "123456789012345678.5", "1e999"]
    for price in prices:
        folder = tmp_path / price
        folder.mkdir()
        run(folder, {"a.csv": priced([price, "1.5"])}, features={"price": "price"})
        assert set(column(folder, "price")) == {price, "1.5"}


@pytest.mark.parametrize(
    "text", ["user", "user::VARCHAR", "'u' || log.user", "coalesce(user, 0)::VARCHAR"]
)
def test_an_id_never_comes_of_numbers_with_fractions(tmp_path, text):
    """As text they would be written anew: 1.50 as 1.5."""
    words = (
        r"user_id: column user holds numbers with fractions .* write types: {user: VARCHAR} under "
        r"'log'"
    )
    with pytest.raises(ConfigError, match=words):
        run(tmp_path, {"a.csv": rows(["1.50", "2.25"])}, user_id=text)
    run(tmp_path, {}, {"types": {"user": "VARCHAR"}}, user_id="user")
    assert set(column(tmp_path, "user_id")) == {"1.50", "2.25"}


@pytest.mark.parametrize(
    ("kind", "users", "value"),
    [
        ("BIGINT", ["12.7", "13"], "12.7"),
        ("BIGINT", ["1e3", "5"], "1e3"),
        ("BIGINT", ["0x1F", "5"], "0x1F"),
        ("BIGINT", ["9223372036854775808", "5"], "9223372036854775808"),
        ("DATE", ["2026-02-30"], "2026-02-30"),
        ("DOUBLE", ["1 5", "2"], "1 5"),
        ("BOOLEAN", ["maybe", "true"], "maybe"),
        ("DOUBLE", ["9007199254740993", "2"], "9007199254740993"),
        ("DATE", ["2026-01-01 10:00:00"], "2026-01-01 10:00:00"),
        ("DATE", ["2026-1-1"], "2026-1-1"),
        ("TIMESTAMP", ["2026-01-01T10:00:00+02:00"], r"2026-01-01T10:00:00\+02:00"),
        ("TIMESTAMP", ["2026-01-01 10:00:00 Europe/Paris"], "2026-01-01 10:00:00 Europe/Paris"),
    ],
)
def test_a_value_that_a_declared_type_would_change_is_refused_by_file_and_column(
    tmp_path, kind, users, value
):
    words = rf"a\.csv: column user is declared as {kind} under 'types', but .* such as '{value}'"
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {"a.csv": rows(users)}, {"types": {"user": kind}})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("TIMESTAMP", ["2026-01-01T10:00:00Z", "2026-01-01 10:00:00", "2026-01-01 10:00:00+00:00"]),
        ("DOUBLE", ["1.5000000000000000000", "0.30000000000000004", "007", "nan"]),
        ("DATE", ["2026-01-01"]),
    ],
)
def test_a_declared_type_takes_what_it_keeps_and_empty_cells(tmp_path, kind, values):
    text = rows([*values, ""]).replace("user,", "said,", 1)
    run(tmp_path, {"a.csv": text}, {"types": {"said": kind}}, user_id="item")


def test_whole_numbers_may_be_declared_however_they_are_written(tmp_path):
    run(
        tmp_path,
        {"a.csv": rows(["007", "12.0", "+5", "9007199254740993.0"])},
        {"types": {"user": "BIGINT"}},
    )
    assert set(column(tmp_path, "user_id")) == {7, 12, 5, 9007199254740993}


def test_a_join_file_that_does_not_fit_its_types_is_named(tmp_path):
    files = {"a.csv": rows(), "j.txt": "item,size\n100,big\n101,7\n"}
    joins = {"j": {"files": ["j.txt"], "key": "item", "types": {"size": "BIGINT"}}}
    with pytest.raises(
        ContractError, match=r"j\.txt: column size is declared as BIGINT .* such as 'big'"
    ):
        run(tmp_path, files, joins=joins, item_id="log.item")
