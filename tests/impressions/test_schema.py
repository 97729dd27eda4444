"""One typed reading: a logical day gives the same prepared bytes, whoever wrote it.

In whichever types and parts.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ContractError
from ecdctr.examples.batches import Inputs, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import EMPTY, distinct
from ecdctr.files import duck
from ecdctr.impressions import contract
from ecdctr.impressions.contract import connect, validate, validate_day
from ecdctr.impressions.schema import read_schema
from tests.impressions.logs import (
    FIRST,
    cast,
    config_of,
    day_table,
    put,
    write_day,
    write_log,
)

LAST = FIRST + dt.timedelta(days=2)
Writer = Callable[[pa.Table, Path], None]  # a day's table into the day's folder


def arrow(**options: object) -> Writer:
    return lambda table, folder: pq.write_table(table, folder / "part-0.parquet", **options)


def typed(**kinds: pa.DataType) -> Writer:
    return lambda table, folder: pq.write_table(cast(table, **kinds), folder / "part-0.parquet")


def not_null(table: pa.Table, folder: Path) -> None:
    """The contract's columns declared `not null`, as Spark and DuckDB do where they know it."""
    fields = [
        field.with_nullable(field.name not in ("user_id", "item_id", "ts", "click"))
        for field in table.schema
    ]
    pq.write_table(table.cast(pa.schema(fields)), folder / "part-0.parquet")


def nan_for_null(table: pa.Table, folder: Path) -> None:
    """As numpy, pandas and polars write a missing number, also of a column of whole numbers."""
    for name in ("price", "category"):
        values = [float("nan") if v is None else float(v) for v in table[name].to_pylist()]
        table = put(table, name, pa.array(values, pa.float64()))
    pq.write_table(table, folder / "part-0.parquet")


def parts(table: pa.Table, folder: Path) -> None:
    """Three parts of other types in another order, and an empty one of no types beside them."""
    pq.write_table(table.slice(40), folder / "a.parquet")
    pq.write_table(
        cast(table.slice(0, 15), category=pa.int16(), user_id=pa.uint32()), folder / "b.parquet"
    )
    pq.write_table(
        cast(table.slice(15, 25), brand=pa.large_string()), folder / "c.parquet", row_group_size=4
    )
    pq.write_table(
        pa.table({name: pa.nulls(0) for name in table.column_names}), folder / "d.parquet"
    )


def shuffled(table: pa.Table, folder: Path) -> None:
    order = np.random.default_rng(3).permutation(table.num_rows)
    pq.write_table(table.take(order).select(table.column_names[::-1]), folder / "x.parquet")


def null_in_one_part(table: pa.Table, folder: Path) -> None:
    """A column that is null throughout one part has type null there."""
    missing = table.filter(pc.is_null(table["category"]))
    pq.write_table(put(missing, "category", pa.nulls(missing.num_rows)), folder / "a.parquet")
    pq.write_table(table.filter(pc.is_valid(table["category"])), folder / "b.parquet")


def by_duckdb(select: str) -> Writer:
    def write(table: pa.Table, folder: Path) -> None:
        with duckdb.connect() as db:
            db.execute("SET TimeZone = 'UTC'")
            db.from_arrow(table).project(select).write_parquet(str(folder / "p.parquet"))

    return write


def by_polars(table: pa.Table, folder: Path) -> None:
    pl = pytest.importorskip("polars")
    frame = pl.from_arrow(table)
    frame = frame.with_columns(
        pl.col("brand").cast(pl.Categorical), pl.col("category").cast(pl.UInt64)
    )
    frame.write_parquet(folder / "p.parquet")


def by_pandas(table: pa.Table, folder: Path) -> None:
    pytest.importorskip("pandas")
    frame = table.to_pandas()  # whole numbers with nulls become floats with NaN
    frame["brand"] = frame["brand"].astype("category")
    frame.to_parquet(folder / "p.parquet")


WAYS: dict[str, Writer] = {
    **{
        f"codec {name}": arrow(compression=name)
        for name in ("none", "gzip", "zstd", "lz4", "brotli")
    },
    "pages of version 2": arrow(data_page_version="2.0", version="2.6"),
    "old format": arrow(version="1.0"),
    "small row groups": arrow(row_group_size=7),
    "no dictionaries, no statistics": arrow(use_dictionary=False, write_statistics=False),
    "no Arrow schema": arrow(store_schema=False),
    **{
        f"integers {kind}": typed(category=kind, user_id=kind, item_id=kind)
        for kind in (
            pa.int8(),
            pa.int16(),
            pa.int32(),
            pa.uint8(),
            pa.uint16(),
            pa.uint32(),
            pa.uint64(),
        )
    },
    "whole decimals": typed(category=pa.decimal128(18, 0), item_id=pa.decimal128(38, 0)),
    "whole floats": typed(category=pa.float32()),
    "dictionary of integers": typed(category=pa.dictionary(pa.int8(), pa.int64())),
    "dictionary of text": typed(brand=pa.dictionary(pa.int32(), pa.string())),
    "large text": typed(brand=pa.large_string(), words=pa.list_(pa.large_string())),
    "views of text": typed(brand=pa.string_view()),
    "large lists": typed(tags=pa.large_list(pa.int64()), words=pa.large_list(pa.large_string())),
    "lists of other integers": typed(tags=pa.list_(pa.uint64())),
    "lists of small integers": typed(tags=pa.large_list(pa.int8())),
    "decimal prices": typed(price=pa.decimal128(10, 2)),
    "float prices": typed(price=pa.float32()),
    "half prices": typed(price=pa.float16()),
    "dates of 64 bits": typed(born=pa.date64()),
    "another zone": typed(ts=pa.timestamp("us", "Europe/Berlin")),
    "a zone as an offset": typed(ts=pa.timestamp("us", "+00:00")),
    "decimals of 32 bits": typed(price=pa.decimal32(9, 2)),
    "decimals of 64 bits": typed(price=pa.decimal64(18, 2), category=pa.decimal64(18, 0)),
    "not null": not_null,
    "NaN for null": nan_for_null,
    "parts": parts,
    "shuffled": shuffled,
    "null in one part": null_in_one_part,
    "DuckDB": by_duckdb("*"),
    "DuckDB narrow": by_duckdb(
        "* REPLACE (category::UTINYINT AS category, price::DECIMAL(6, 1) AS "
        "price, brand::ENUM ('b0', 'b1', 'b2') AS brand, born::VARCHAR AS "
        "born)"
    ),
    "DuckDB wide": by_duckdb(
        "* REPLACE (category::UBIGINT AS category, tags::DECIMAL(20, 0)[] AS tags)"
    ),
    "polars": by_polars,
    "pandas": by_pandas,
}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, bytes]:
    folder = tmp_path_factory.mktemp("expected")
    write_log(folder / "data")
    config = config_of(folder / "data", folder / "prepared")
    return {
        basic: prepare(config, "ads", [LAST], basic)[0].path.read_bytes() for basic in (False, True)
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_day_gives_the_same_bytes_whoever_wrote_it(tmp_path, expected, way):
    write_log(tmp_path / "data", days=2)
    for domain in ("natural", "ads"):
        folder = write_day(tmp_path / "data", domain, 2, day_table(domain, 2)).parent
        (folder / "part-0.parquet").unlink()
        WAYS[way](day_table(domain, 2), folder)
    config = config_of(tmp_path / "data", tmp_path / "prepared", threads=3)
    assert not [v for report in validate(config, ["natural", "ads"]) for v in report.violations]
    for basic, content in expected.items():
        (day,) = prepare(config, "ads", [LAST], basic)
        made = pq.read_table(day.path, partitioning=None).to_pylist()
        assert made == pq.read_table(pa.BufferReader(content)).to_pylist()
        assert day.path.read_bytes() == content


REFUSED = {  # what is declared otherwise: columns, words of the sentence
    "text beside numbers": ({"user_id": pa.string()}, "column user_id"),
    "numbers as category text": ({"category": pa.string()}, "column category: expected integer"),
    "bools for integers": ({"category": pa.bool_()}, "found boolean"),
    "milliseconds": (
        {"ts": pa.timestamp("ms", "UTC")},
        r"timestamp\[us, tz=UTC\], found timestamp\[ms, tz=UTC\]; write",
    ),
    "no zone": ({"ts": pa.timestamp("us")}, r"found timestamp\[us\]; write"),
    "wide label": ({"click": pa.int64()}, "expected int8, found int64; write"),
    "binary text": (
        {"brand": pa.binary()},
        r"column brand: expected an integer, text, boolean or date, found binary; write .*decode",
    ),
    "text for a number": (
        {"price": pa.string()},
        "column price: expected a number, found string; write",
    ),
    "a double as id": ({"item_id": pa.float64()}, "found double; write it as an integer"),
    "text for a list": (
        {"tags": pa.string()},
        r'found string; write it as a list \(DuckDB: \["tags"\]\)',
    ),
    "a UUID": ({"brand": pa.uuid()}, r"arrow.uuid>; write it as text \(DuckDB: .*::VARCHAR"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_another_type_is_refused_by_column_file_and_both_types(tmp_path, what):
    kinds, words = REFUSED[what]
    write_log(tmp_path, days=1)
    table = day_table("ads", 0)
    write_day(tmp_path, "ads", 0, table.slice(0, 30))
    other = table.slice(30)
    for name, kind in kinds.items():
        if kind == pa.uuid():
            other = put(other, name, pa.array([bytes(16)] * 30, pa.binary(16)).cast(kind))
            continue
        values = [None if v is None else str(v) for v in other[name].to_pylist()]
        raw = pa.array(values, pa.string())
        if kind != pa.string():
            raw = (
                other[name].cast(pa.string()).cast(kind)
                if kind == pa.binary()
                else other[name].cast(kind)
            )
        other = put(other, name, raw)
    write_day(tmp_path, "ads", 0, other, "part-1")
    with connect(config := config_of(tmp_path, tmp_path / "prepared")) as db:
        violations = validate_day(db, config, "ads", FIRST).violations
    assert [v.kind for v in violations] == ["wrong_type"]
    assert violations[0].where.endswith("part-1.parquet")
    with pytest.raises(ContractError, match=words):
        prepare(config, "ads", [FIRST])


def test_a_column_has_one_type_on_all_days_and_in_both_domains(tmp_path):
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    write_log(
        tmp_path / "data",
        change=lambda t, _, day: (
            cast(t, brand=pa.dictionary(pa.int8(), pa.string())) if day == 1 else t
        ),
    )
    assert not any(report.violations for report in validate(config, ["ads", "natural"]))
    numbers = put(day_table("ads", 2), "brand", day_table("ads", 2)["category"])
    write_day(tmp_path / "data", "ads", 2, numbers)
    (*_, last) = validate(config, ["ads"])
    assert "column brand: expected text as in" in str(last.violations[0])
    both = [FIRST + dt.timedelta(days=1), LAST]
    wide = config.model_copy(
        update={
            "features": tuple(
                f.model_copy(update={"tpm": f.kind == "categorical"}) for f in config.features
            )
        }
    )
    words = r"brand changes its type: string on .*01-02, int64 on .*01-03"
    with pytest.raises(ContractError, match=words):
        prepare(wide, "ads", both, basic=True)
    with pytest.raises(ContractError, match="column brand: expected text"):  # natural says text
        prepare(config, "ads", both)
    users = pa.array([f"u{i}" for i in day_table("natural", 0)["user_id"].to_pylist()])
    write_day(tmp_path / "data", "natural", 0, put(day_table("natural", 0), "user_id", users))
    with pytest.raises(ContractError, match="column user_id: expected"):
        prepare(config, "ads", [FIRST])


def test_a_day_of_nulls_is_read_with_days_of_values(tmp_path):
    """In the window first and last, of every kind of feature.

    A vocabulary and batches come of it.
    """
    names = ("category", "brand", "flag", "born", "tags", "words", "price")

    def change(table: pa.Table, domain: str, day: int) -> pa.Table:
        for name in names if day != 1 else ():
            table = put(table, name, pa.nulls(table.num_rows))
        return table

    write_log(tmp_path / "data", change=change)
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    assert not any(report.violations for report in validate(config, ["natural", "ads"]))
    days = prepare(config, "ads", [FIRST + dt.timedelta(days=n) for n in range(3)])
    inputs = Inputs.of(config, "actr")
    multi = dict(inputs.multi)
    files = [day.path for day in days]
    with duck.connect() as connection:
        vocabularies = {
            name: EMPTY.extended(distinct(connection, files, name, name in multi))
            for name in inputs.vocabularies
        }
        assert len(distinct(connection, files[:1], "category", False)) == 0
    assert [len(vocabularies[name].values) for name in ("category", "brand", "flag")] == [5, 3, 2]
    (table,) = read_chunks([Part(path, "ads") for path in files], inputs.columns, 10_000)
    batch = encode(table, inputs, vocabularies)
    column = inputs.fields.index("flag")
    assert batch.ids[:60, column].tolist() == [0] * 60
    assert set(batch.ids[60:120, column].tolist()) == {0, 1, 2}
    empty = encode(table.slice(0, 60), inputs, dict.fromkeys(vocabularies, EMPTY))
    assert not empty.ids.any()


BAD_VALUES = {
    "beyond int64": ("category", pa.array([2**63] + [1] * 59, pa.uint64()),
                     "category.*int64.*uint64"),
    "beyond int64 in a list": ("tags", pa.array([[2**63]] + [[1]] * 59, pa.list_(pa.uint64())),
                               "tags.*int64"),
    "beyond int64, decimal": ("category", pa.array([10**30] + [1] * 59, pa.decimal128(38, 0)),
                              "category.*int64"),
    "a fraction": ("category", pa.array([0.5] + [1.0] * 59), "category: expected whole numbers"),
    "a float that merges ids": ("category", pa.array([2.0**24 + 2] + [1.0] * 59, pa.float32()),
                                "category"),
    "infinity": ("price", pa.array([float("inf")] + [1.0] * 59), "price: expected finite numbers"),
    "beyond float32": ("price", pa.array([1e39] + [1.0] * 59), "price: expected finite numbers "
                                                               "within float32"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_VALUES)
def test_a_value_that_does_not_fit_is_a_bad_row_by_column_and_file(tmp_path, what):
    name, values, words = BAD_VALUES[what]
    write_log(tmp_path / "data")
    write_day(tmp_path / "data", "ads", 2, put(day_table("ads", 2), name, values))
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    with pytest.raises(ContractError, match=rf"date=2026-01-03.*{words}.* 1 bad rows of 60"):
        prepare(config, "ads", [LAST])
    lenient = config_of(tmp_path / "data", tmp_path / "prepared", quarantine=True)
    assert pq.read_metadata(prepare(lenient, "ads", [LAST])[0].path).num_rows == 59


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("price", pa.decimal256(76, 38)),
        ("category", pa.decimal256(39, 0)),
        ("impression_id", pa.decimal256(76, 0)),
    ],
)
def test_decimals_that_duckdb_would_round_are_refused_here_as_the_import_refuses_them(
    tmp_path, name, kind
):
    """As BigQuery writes BIGNUMERIC; Spark reads none of them either."""
    values = pa.array([Decimal(i) for i in range(60)], kind)
    table = day_table("ads", 2)
    there = name in table.column_names
    table = put(table, name, values) if there else table.append_column(name, values)
    write_log(tmp_path / "data")
    write_day(tmp_path / "data", "ads", 2, table)
    config = config_of(tmp_path / "data", tmp_path / "prepared")
    with connect(config) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert f"column {name}: expected" in violation.message
    assert "write it with at most 38 digits or as text" in violation.message


def test_columns_are_found_by_exact_name_and_two_that_differ_in_case_are_refused(tmp_path):
    write_log(tmp_path)
    config = config_of(tmp_path, tmp_path / "prepared")
    table = day_table("ads", 2)
    path = write_day(tmp_path, "ads", 2, table.add_column(0, "Price", pa.nulls(60, pa.float64())))
    with connect(config) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
        assert (violation.kind, violation.where) == ("ambiguous_column", str(path))
        assert "found Price and price" in violation.message
        write_day(tmp_path, "ads", 2, table.rename_columns(
            ["Price" if name == "price" else name for name in table.column_names]))  # fmt: skip
        (violation,) = validate_day(db, config, "ads", LAST).violations
        assert "not found among: Price, which differs in case; rename it" in violation.message
        write_day(
            tmp_path,
            "ads",
            2,
            table.append_column("Other", pa.nulls(60)).append_column("other", pa.nulls(60)),
        )
        assert validate_day(db, config, "ads", LAST).violations == []


def test_text_users_beside_whole_numbers_as_items_keep_their_counts(tmp_path):
    def change(table: pa.Table, *_: object) -> pa.Table:
        return put(table, "user_id", pa.array([f"{i:03d}" for i in table["user_id"].to_pylist()]))

    write_log(tmp_path / "one")
    write_log(tmp_path / "other", change=change)
    made = [
        pq.read_table(
            prepare(config_of(tmp_path / name, tmp_path / f"{name}-prepared"), "ads", [LAST])[
                0
            ].path
        )
        for name in ("one", "other")
    ]
    assert made[1]["user_id"].to_pylist()[0].startswith("00")
    rest = [name for name in made[0].column_names if name != "user_id"]
    assert made[0].select(rest).to_pylist() == made[1].select(rest).to_pylist()


def test_doubles_are_refused_or_the_click_stays_whatever_the_order_of_files(tmp_path):
    rng, seen = np.random.default_rng(1), set()
    table = day_table("ads", 2)
    doubled = pa.concat_tables(
        [
            table,
            put(table, "click", pa.array(1 - table["click"].to_numpy())),
            put(table, "price", pa.nulls(60, pa.float64())),
        ]
    )
    for run in range(4):
        root = tmp_path / f"{run}"
        write_log(root / "data", days=2)
        write_day(root / "data", "natural", 2, day_table("natural", 2))
        mixed = doubled.take(rng.permutation(doubled.num_rows))
        for part in range(run + 1):
            write_day(
                root / "data",
                "ads",
                2,
                mixed.slice(
                    180 * part // (run + 1), 180 * (part + 1) // (run + 1) - 180 * part // (run + 1)
                ),
                f"part-{part}",
            )
        with pytest.raises(ContractError, match="found 120 duplicates among 180"):
            prepare(config_of(root / "data", root / "strict"), "ads", [LAST])
        config = config_of(root / "data", root / "prepared", quarantine=True, threads=run + 1)
        (day,) = prepare(config, "ads", [LAST])
        seen.add(day.path.read_bytes())
        assert pq.read_table(day.path)["click"].to_pylist() == [1] * 60
    assert len(seen) == 1


@pytest.mark.parametrize("at_once", [1, 50])
def test_values_that_do_not_fit_are_told_in_whichever_query_their_column_is(
    tmp_path, monkeypatch, at_once
):
    """Thousands of features are looked at some at a time; one query for all took minutes."""
    monkeypatch.setattr(contract, "AT_ONCE", at_once)
    write_log(tmp_path)
    config = config_of(tmp_path, tmp_path / "prepared")
    bad = put(day_table("ads", 2), "category", pa.array([0.5] + [1.0] * 59))
    bad = put(bad, "price", pa.array([1.0] * 58 + [float("inf")] * 2))
    write_day(tmp_path, "ads", 2, bad)
    with connect(config) as db:
        report = validate_day(db, config, "ads", LAST)
    assert report.rows == 60
    told = {str(violation).partition("column ")[2].split(":")[0] for violation in report.violations}
    assert told == {"category", "price"}
    assert sorted(violation.bad_rows for violation in report.violations) == [1, 2]


def test_nulls_among_ids_of_impressions_are_called_nulls(tmp_path):
    write_log(tmp_path)
    config = config_of(tmp_path, tmp_path / "prepared")
    ids = pa.array([None if i < 30 else i for i in range(60)], pa.int64())
    write_day(tmp_path, "ads", 2, day_table("ads", 2).append_column("impression_id", ids))
    with connect(config) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert "impression_id: expected no nulls, found 30 bad rows of 60" in str(violation)


def test_impressions_of_one_instant_are_ordered_by_their_ids(tmp_path):
    """Same user, item and time: only impression_id tells them apart."""
    made = set()
    for run in range(3):
        root = tmp_path / str(run)
        write_log(root / "data", days=2)
        write_day(root / "data", "natural", 2, day_table("natural", 2))
        table = day_table("ads", 2)
        table = pa.concat_tables([table, put(table, "price", pa.array(np.arange(60.0)))])
        table = table.append_column("impression_id", pa.array([f"i{n}" for n in range(120)]))
        order = np.random.default_rng(run).permutation(120)
        write_day(root / "data", "ads", 2, table.take(order))
        config = config_of(root / "data", root / "prepared")
        made.add(
            tuple(
                prepare(config, "ads", [LAST], basic)[0].path.read_bytes()
                for basic in (True, False)
            )
        )
    assert len(made) == 1


def test_a_feature_that_came_later_is_told_how_to_stand_on_the_days_before(tmp_path):
    write_log(tmp_path)
    write_day(tmp_path, "ads", 2, day_table("ads", 2).drop(["brand"]))
    config = config_of(tmp_path, tmp_path / "prepared")
    with connect(config) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
        assert "; write it, as nulls on days that have no values of it" in violation.message
        table = day_table("ads", 2).drop(["brand"]).append_column("brand", pa.nulls(60))
        write_day(tmp_path, "ads", 2, table)
        assert validate_day(db, config, "ads", LAST).violations == []


def test_a_day_of_empty_parts_alone_is_no_day(tmp_path):
    write_log(tmp_path)
    path = write_day(tmp_path, "ads", 2, day_table("ads", 2).slice(0, 0))
    with connect(config := config_of(tmp_path, tmp_path / "prepared")) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert str(violation).startswith(f"{path}: expected at least one row, found 0; deliver")


def test_text_that_is_no_utf8_is_told_by_validate(tmp_path):
    write_log(tmp_path)
    table = day_table("ads", 2)
    raw = pa.array([b"\xff"] * 60).view(pa.string())
    path = write_day(tmp_path, "ads", 2, put(table, "brand", raw))
    with connect(config := config_of(tmp_path, tmp_path / "prepared")) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert violation.where == str(path)
    assert violation.message == "column brand: expected text in UTF-8, found other bytes"


def test_a_column_of_a_type_that_arrow_lacks_is_no_damage(tmp_path):
    """Integers of 128 bits, which polars writes; also in a column that nobody reads."""
    pl = pytest.importorskip("polars")
    write_log(tmp_path)
    path = write_day(tmp_path, "ads", 2, day_table("ads", 2))
    frame = pl.read_parquet(path, hive_partitioning=False)
    frame.with_columns(more=pl.col("user_id").cast(pl.Int128)).write_parquet(path)
    with connect(config := config_of(tmp_path, tmp_path / "prepared")) as db:
        (violation,) = validate_day(db, config, "ads", LAST).violations
    assert "expected types that Arrow has, found another" in violation.message


def test_some_columns_are_read_as_among_all(tmp_path):
    """The day's checks read each feature alone, since planning takes longer the more there are."""
    write_log(tmp_path, days=1)
    config = config_of(tmp_path, tmp_path / "prepared")
    table = cast(day_table("ads", 0), category=pa.float64())
    write_day(tmp_path, "ads", 0, table.slice(0, 30))
    files = [write_day(tmp_path, "ads", 0, day_table("ads", 0).slice(30), "part-1")]
    schema, _ = read_schema([files[0].with_name("part-0.parquet"), *files], config.features)
    assert schema is not None
    some = schema.only("user_id", "category")
    assert some.names == ("user_id", "category")
    with connect(config) as db:
        query = "SELECT user_id, category FROM ({}) ORDER BY ALL"
        expected = db.execute(query.format(schema.select())).fetchall()
        assert db.execute(query.format(some.select())).fetchall() == expected
