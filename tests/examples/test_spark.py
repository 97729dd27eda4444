"""Preparation on Spark against preparation in DuckDB, on random impressions.

The same examples, row for row.
"""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from ecdctr.config import Config, Data, Domain, Feature
from ecdctr.errors import ContractError
from ecdctr.examples.histories import clicks_path
from ecdctr.examples.prepare import prepare
from ecdctr.files import duck
from tests.impressions import logs
from tests.impressions.logs import cast, put
from tests.make import changed, quick_spark
from tests.memory import log as remembered

pyspark = pytest.importorskip("pyspark", reason="the extra 'spark' is not installed")
pytestmark = pytest.mark.skipif(shutil.which("java") is None, reason="Spark needs Java")

FIRST = dt.date(2026, 1, 1)
DAYS = [FIRST + dt.timedelta(days=n) for n in range(4)]
FEATURES = (
    Feature(name="city", side="user", kind="categorical"),
    Feature(name="tags", side="item", kind="multi_valued", max_values=2),
    Feature(name="price", side="item", kind="numeric", transform="log1p"),
    Feature(name="age", side="user", kind="numeric"),
    Feature(name="kind", side="item", kind="categorical"),
)


@pytest.fixture(scope="module", autouse=True)
def _java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One Java for all tests here, quick to start.

    Ended in order, since at the end of Python it is too late to log.
    """
    folder = quick_spark(tmp_path_factory.mktemp("spark"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARK_CONF_DIR", str(folder))
        compiled(False)
        yield
    context, gateway = pyspark.SparkContext, pyspark.SparkContext._gateway
    if gateway is not None:
        context.getOrCreate().stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # which ends Java
        gateway.proc.wait(60)
        context._gateway = context._jvm = None


def compiled(compiled: bool) -> None:
    """Choose whether Spark compiles a query, as it does by itself; ten rows take less."""
    from ecdctr.examples.spark import start_spark

    session = start_spark()
    session.conf.set("spark.sql.codegen.wholeStage", str(compiled).lower())
    session.conf.set("spark.sql.codegen.factoryMode", "FALLBACK" if compiled else "NO_CODEGEN")


def impressions(
    root: Path, domain: Domain, date: dt.date, rng: np.random.Generator, strings: bool, oracle: bool
) -> None:
    """A day of few users and items in few seconds, so that clicks coincide, some before.

    Some after an impression.
    """
    rows = int(rng.integers(1, 80))
    user, item = rng.integers(0, 6, rows), rng.integers(0, 9, rows)
    seconds = rng.integers(0, 25, rows) * 3456 + rng.integers(0, 2, rows) * 0.25
    keep = np.unique(np.stack([user, item, seconds]), axis=1, return_index=True)[1]
    user, item, seconds = user[keep], item[keep], seconds[keep]
    start = dt.datetime.combine(date, dt.time(), dt.UTC)
    columns = {
        "user_id": pa.array([f"u{i}" for i in user] if strings else user.astype(np.int64)),
        "item_id": pa.array([f"i{i}ä" for i in item] if strings else item.astype(np.int64)),
        "ts": pa.array(
            [start + dt.timedelta(seconds=float(s)) for s in seconds], pa.timestamp("us", tz="UTC")
        ),
        "click": pa.array((rng.random(len(keep)) < 0.5).astype(np.int8)),
        "city": pa.array([None if i == 0 else f"c{i % 3}" for i in user]),
        "tags": pa.array(
            [None if i == 1 else [f"t{n}" for n in range(i % 4)] for i in item],
            pa.list_(pa.string()),
        ),
        "price": pa.array([None if i == 2 else (-0.0 if i == 3 else i * 1.7 - 3) for i in item]),
        "kind": pa.nulls(len(keep))  # on one day nothing is known
        if date == DAYS[1]
        else pa.array([f"k{i}" if i else None for i in rng.integers(0, 4, len(keep))]),
        "age": pa.array([None if i == 3 else int(i) for i in user], pa.int32()),
    }
    if oracle:
        columns["oracle_ctr"] = pa.array(rng.random(len(keep)).astype(np.float32))
    folder = root / f"domain={domain}" / f"date={date}"
    folder.mkdir(parents=True)
    half = len(keep) // 2
    table = pa.table(columns)
    for number, part in enumerate((table[:half], table[half:])):
        if part.num_rows:
            pq.write_table(part, folder / f"part-{number}.parquet")


def on(engine: str, base: Data, folder: Path) -> Config:
    places = {"engine": engine, "prepared": folder / engine}
    return Config(data=base.model_copy(update=places), features=FEATURES)


@pytest.mark.parametrize("seed", [1, 2])
def test_spark_and_duckdb_prepare_the_same_examples(tmp_path, request, seed):
    compiled(seed == 1)
    request.addfinalizer(lambda: compiled(False))
    rng = np.random.default_rng(seed)
    for domain in ("natural", "ads"):
        for date in DAYS:
            if domain == "natural" or date != DAYS[1]:  # a day that only one domain has
                impressions(
                    tmp_path / "data", domain, date, rng, strings=seed % 2 == 1, oracle=seed > 1
                )
    base = Data(
        root=tmp_path / "data",
        history_length=int(rng.integers(1, 6)),
        lookback_days=2,
        history_features=("kind",) if seed == 2 else (),
        history_days=3 if seed == 2 else None,
        numeric_null=-1.5,
        allowed_missing_days=1,
    )
    for domain in ("natural", "ads"):
        dates = [DAYS[0], DAYS[1], DAYS[3]]  # without lookback, not in one domain, with all of it
        one, other = (
            prepare(on(engine, base, tmp_path), domain, dates) for engine in ("duckdb", "spark")
        )
        assert [day.fingerprint for day in one] == [day.fingerprint for day in other]
        for first, second in zip(one, other, strict=True):
            expected, by_spark = (
                pq.read_table(day.path, partitioning=None) for day in (first, second)
            )
            assert by_spark.schema == expected.schema
            assert by_spark.to_pylist() == expected.to_pylist()
            for name in (lambda path: path, clicks_path):
                assert name(first.path).read_bytes() == name(second.path).read_bytes()


def test_several_tasks_write_a_day_whose_rows_are_in_order_all_the_same(tmp_path, monkeypatch):
    from ecdctr.examples import spark

    session, parquet = spark.start_spark(), duck.parquet
    written: list[Path] = []

    def noting(paths: Iterable[Path]) -> str:
        names = list(paths)
        written.extend(path for path in names if path.parent.name == "rows")
        return parquet(names)

    monkeypatch.setattr(duck, "parquet", noting)
    for number, date in enumerate(DAYS):
        impressions(tmp_path / "data", "ads", date, np.random.default_rng(number), False, False)
    base = Data(root=tmp_path / "data", history_length=2, lookback_days=2, allowed_missing_days=9)
    session.conf.set("spark.sql.adaptive.coalescePartitions.enabled", "false")
    try:
        (by_spark,) = prepare(on("spark", base, tmp_path), "ads", DAYS[3:])
    finally:
        session.conf.unset("spark.sql.adaptive.coalescePartitions.enabled")
    (expected,) = prepare(on("duckdb", base, tmp_path), "ads", DAYS[3:])
    assert len(written) == 2
    assert by_spark.path.read_bytes() == expected.path.read_bytes()


@pytest.mark.parametrize("strings", [False, True])
def test_spark_and_duckdb_remember_the_same(tmp_path, strings):
    """A day on a weekly table and the days since it, one right after a table.

    One before the first table.
    """
    remembered.write_log(tmp_path / "data", np.random.default_rng(5 + strings), strings)
    days = [remembered.DAYS[n] for n in (1, 11, 20)]
    for domain in ("ads",) if strings else ("natural", "ads"):
        made = {}
        for engine in ("duckdb", "spark"):
            config = remembered.config_of(tmp_path)
            config = changed(config, "data", engine=engine, prepared=tmp_path / engine)
            made[engine] = prepare(config, domain, days)
        for one, other in zip(*made.values(), strict=True):
            assert one.fingerprint == other.fingerprint
            expected, by_spark = (
                pq.read_table(day.path, partitioning=None) for day in (one, other)
            )
            assert by_spark.schema == expected.schema
            assert by_spark.to_pylist() == expected.to_pylist()
            assert one.path.read_bytes() == other.path.read_bytes()
        assert any(n.startswith("memory_") for n in expected.column_names)


def test_a_day_that_spark_wrote_is_read_as_any_other(tmp_path):
    """Two parts in microseconds, with Spark's markers beside them."""
    logs.write_log(tmp_path / "data")
    config = logs.config_of(tmp_path / "data", tmp_path / "one")
    (expected,) = prepare(config, "ads", [DAYS[2]])
    folder = tmp_path / "data" / "domain=ads" / f"date={DAYS[2]}"
    from ecdctr.examples.spark import start_spark

    session = start_spark()
    session.conf.set("spark.sql.parquet.outputTimestampType", "TIMESTAMP_MICROS")
    frame = session.read.parquet(f"file://{folder}/part-0.parquet")
    frame.repartition(2).write.parquet(f"file://{tmp_path}/written")
    shutil.rmtree(folder)
    shutil.move(tmp_path / "written", folder)
    assert (folder / "_SUCCESS").exists()
    (made,) = prepare(logs.config_of(tmp_path / "data", tmp_path / "other"), "ads", [DAYS[2]])
    assert made.path.read_bytes() == expected.path.read_bytes()


def test_days_in_other_types_and_parts_are_prepared_alike_by_both_engines(tmp_path):
    """Types, parts, a folder with brackets, a day of nulls.

    And a feature named as a column that the join makes.
    """
    other = {
        "category": pa.uint64(),
        "brand": pa.dictionary(pa.int8(), pa.string()),
        "price": pa.decimal128(10, 2),
        "tags": pa.large_list(pa.int32()),
        "born": pa.date64(),
        "user_id": pa.int32(),
    }
    root = tmp_path / "data[1] #%20"

    def change(table: pa.Table, domain: str, day: int) -> pa.Table:
        table = table.append_column("last", table["category"]).append_column(
            "prior", table["price"]
        )
        if day == 1:
            table = cast(table, **other)
        if day == 2:
            for name in ("category", "tags", "flag"):
                table = put(table, name, pa.nulls(table.num_rows))
        return table

    logs.write_log(root, change=change)
    table = change(logs.day_table("ads", 1), "ads", 1)
    logs.write_day(root, "ads", 1, table.slice(30), "a")
    logs.write_day(
        root, "ads", 1, change(logs.day_table("ads", 1), "ads", 0).slice(0, 30), "part-0"
    )
    extra = (
        Feature(name="last", side="item", kind="categorical"),
        Feature(name="prior", side="item", kind="numeric"),
    )
    made = {}
    for engine in ("duckdb", "spark"):
        config = logs.config_of(root, tmp_path / f"[{engine}]", engine=engine)
        config = config.model_copy(update={"features": (*config.features, *extra)})
        data = config.data.model_copy(update={"history_features": ("category", "last")})
        config = config.model_copy(update={"data": data})
        days = [day.path for day in prepare(config, "ads", DAYS[:3])]
        made[engine] = [path.read_bytes() for day in days for path in (day, clicks_path(day))]
    assert made["duckdb"] == made["spark"]


def test_a_day_that_spark_prepared_is_not_prepared_again(tmp_path):
    impressions(
        tmp_path / "data", "ads", FIRST, np.random.default_rng(9), strings=False, oracle=False
    )
    base = Data(root=tmp_path / "data", prepared=tmp_path / "prepared", lookback_days=2)
    (made,) = prepare(
        Config(data=base.model_copy(update={"engine": "spark"}), features=FEATURES), "ads", [FIRST]
    )
    before = made.path.stat().st_mtime_ns
    assert prepare(Config(data=base, features=FEATURES), "ads", [FIRST]) == [made]
    assert made.path.stat().st_mtime_ns == before
    left = {path.name for path in made.path.parent.iterdir()}
    kept = {made.path.name, clicks_path(made.path).name}
    assert left == kept | {f"{name}.sha256" for name in kept}, "nothing else is left there"


def test_a_broken_day_is_refused_before_spark_writes_anything(tmp_path):
    impressions(
        tmp_path / "data", "ads", FIRST, np.random.default_rng(9), strings=False, oracle=False
    )
    config = on("spark", Data(root=tmp_path / "data"), tmp_path)
    wrong = (*FEATURES, Feature(name="absent", side="item", kind="categorical"))
    with pytest.raises(ContractError, match="column absent"):
        prepare(config.model_copy(update={"features": wrong}), "ads", [FIRST])
    assert not list((tmp_path / "spark").rglob("*.parquet"))
    with pytest.raises(ValidationError, match=r"quarantine needs data\.engine"):
        Data(engine="spark", quarantine=True)
    assert changed(config, "data", engine="duckdb").relevant("actr") == config.relevant("actr")


def test_a_broken_day_of_the_lookback_is_refused_too(tmp_path):
    for date in DAYS[:2]:
        impressions(
            tmp_path / "data", "ads", date, np.random.default_rng(9), strings=False, oracle=False
        )
    (path, *_) = (tmp_path / "data" / "domain=ads" / f"date={DAYS[0]}").glob("*.parquet")
    table = pq.read_table(path, partitioning=None)
    clicks = pa.array(np.full(table.num_rows, 2, np.int8))
    pq.write_table(table.set_column(table.column_names.index("click"), "click", clicks), path)
    for engine in ("duckdb", "spark"):
        with pytest.raises(ContractError, match="click: expected 0 or 1"):
            prepare(
                on(engine, Data(root=tmp_path / "data", lookback_days=2), tmp_path),
                "ads",
                [DAYS[1]],
            )


def test_what_spark_defaults_say_stands(tmp_path):
    """In a process of its own, since a session is there once per process."""
    with (quick_spark(tmp_path) / "spark-defaults.conf").open("a") as defaults:
        defaults.write("spark.sql.shuffle.partitions 3\n")
    code = (
        "from ecdctr.examples.spark import start_spark; "
        "print(start_spark().conf.get('spark.sql.shuffle.partitions'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SPARK_CONF_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[-1] == "3"
