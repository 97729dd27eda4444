"""Memory against brute force: every impression has exactly the counts up to the day before it."""

from __future__ import annotations

import datetime as dt
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ecdctr.config import DOMAINS, Config, Memory
from ecdctr.errors import ConfigError
from ecdctr.examples.batches import Inputs, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import example_path, prepare, raw_views
from ecdctr.examples.remembered import Remembered
from ecdctr.examples.vocabulary import EMPTY
from ecdctr.impressions import contract
from ecdctr.memory.columns import input_names
from ecdctr.memory.table import days_since, newest_table
from tests.make import changed
from tests.memory.log import DAYS, FEATURES, MEMORY, Row, config_of, write_log


def by_hand(log: list[Row], row: Row, date: dt.date, memory: Memory) -> dict[str, float]:
    """Return what the columns of an impression have to say, from the whole log."""
    table = date - dt.timedelta(days=1)
    while table.weekday() != memory.weekday:
        table -= dt.timedelta(days=1)
    expected: dict[str, float] = {}
    for key in ("item_id", "category"):
        for domain in DOMAINS:
            name = f"memory_{key}_{domain}"
            past = [
                r
                for r in log
                if r["domain"] == domain
                and r["user_id"] == row["user_id"]
                and r[key] is not None
                and r[key] == row[key]
                and r["date"] < date
            ]
            for window in memory.windows:
                seen = [r for r in past if r["date"] > table - dt.timedelta(days=window)]
                clicks = sum(r["click"] for r in seen)
                expected[f"{name}_clicks_{window}"] = float(np.log1p(clicks))
                expected[f"{name}_shown_{window}"] = float(np.log1p(len(seen)))
            # after the loop `seen` is the longest window's
            expected[f"{name}_rate"] = (clicks + 1) / (len(seen) + 10)
            dates = [r["date"] for r in seen if r["click"]]
            gap = (date - max(dates)).days if dates else 2 * memory.longest
            expected[f"{name}_gap"] = float(np.log1p(gap))
            if row[key] is None:
                expected |= {k: math.nan for k in expected if k.startswith(name)}
    return expected


def check(config: Config, log: list[Row], order: list[dt.date], engine: str = "duckdb") -> None:
    """Prepare days in an order; each impression has what counting by hand gives."""
    by_engine = changed(config, "data", engine=engine)
    for date in order:
        for domain in DOMAINS:
            for day in prepare(by_engine, domain, [date]):
                for row in pq.read_table(day.path, partitioning=None).to_pylist():
                    expected = by_hand(log, row, date, config.memory)
                    values = [math.nan if row[n] is None else row[n] for n in expected]
                    assert values == pytest.approx(list(expected.values()), rel=1e-6, nan_ok=True)


def tables(config: Config, date: dt.date) -> dict[str, Path]:
    with contract.connect(config) as connection:
        return Remembered(config).tables(connection, partial(raw_views, connection, config), date)


@settings(max_examples=4)
@given(seed=st.integers(0, 10_000), strings=st.booleans(), data=st.data())
def test_every_impression_has_the_counts_up_to_the_day_before_in_any_order(
    tmp_path_factory, seed, strings, data
):
    folder = tmp_path_factory.mktemp("memory")
    log = write_log(folder / "data", np.random.default_rng(seed), strings)
    order = data.draw(st.permutations(sorted({row["date"] for row in log})))
    check(config_of(folder), log, order[:5])


def test_a_table_made_from_the_one_before_is_the_table_made_from_all_days(tmp_path):
    """Week by week, against the last week alone; the same bytes."""
    write_log(tmp_path / "data", np.random.default_rng(5), strings=False)
    weekly, at_once = (
        config_of(tmp_path),
        changed(config_of(tmp_path), "data", prepared=tmp_path / "other"),
    )
    last = newest_table(MEMORY, DAYS[-1])
    dates = [last - dt.timedelta(days=7 * n) for n in (2, 1, 0)]
    chained = [tables(weekly, date) for date in dates][-1]
    alone = tables(at_once, last)
    for key in ("item_id", "category"):
        assert chained[key].name == alone[key].name
        assert chained[key].read_bytes() == alone[key].read_bytes()


def test_a_week_reads_a_week(tmp_path):
    """Where last week's table lies there, only new and expired days are read: the others may go."""
    write_log(tmp_path / "data", np.random.default_rng(6), strings=False)
    config = config_of(tmp_path)
    last = newest_table(MEMORY, DAYS[-1])
    whole = tables(config, last)
    expected = {key: path.read_bytes() for key, path in whole.items()}
    tables(config, last - dt.timedelta(days=7))
    needed = {*days_since(last - dt.timedelta(days=7), last)}
    for window in MEMORY.windows:
        start = last - dt.timedelta(days=7 + window)
        needed |= {*days_since(start, last - dt.timedelta(days=window))}
    for path in whole.values():
        path.unlink()
    for folder in (tmp_path / "prepared" / "daily").iterdir():
        if dt.date.fromisoformat(folder.name.removeprefix("date=")) not in needed:
            shutil.rmtree(folder)
    kept = {path.parent.name for path in (tmp_path / "prepared" / "daily").rglob("*.parquet")}
    again = tables(config, last)
    assert {key: path.read_bytes() for key, path in again.items()} == expected
    after = {path.parent.name for path in (tmp_path / "prepared" / "daily").rglob("*.parquet")}
    assert after == kept, "no day was extracted again"


def test_of_a_user_with_too_many_pairs_the_recent_and_frequent_ones_stay(tmp_path):
    log = write_log(tmp_path / "data", np.random.default_rng(7), strings=False)
    config = config_of(tmp_path, MEMORY.model_copy(update={"max_pairs": 2}))
    table = newest_table(MEMORY, DAYS[-1])
    rows = pq.read_table(tables(config, table)["item_id"], partitioning=None).to_pylist()
    weights: dict[int, list[tuple[float, int]]] = {}
    for user, item in {(r["user_id"], r["item_id"]) for r in log}:
        ages = [
            (table - r["date"]).days for r in log if (r["user_id"], r["item_id"]) == (user, item)
        ]
        weight = sum(1 / w for age in ages for w in MEMORY.windows if 0 <= age < w)
        if weight:
            weights.setdefault(user, []).append((-weight, item))
    for user, pairs in weights.items():
        placed = sorted((r["place"], r["value"]) for r in rows if r["user_id"] == user)
        assert [item for _, item in placed] == [item for _, item in sorted(pairs)]
    assert max(row["place"] for row in rows) > 2
    date = table + dt.timedelta(days=1)
    dropped = {(r["user_id"], r["value"]) for r in rows if r["place"] > 2}
    seen = 0
    for day in prepare(config, "ads", [date]) + prepare(config, "natural", [date]):
        for row in pq.read_table(day.path, partitioning=None).to_pylist():
            if (row["user_id"], row["item_id"]) in dropped:
                seen += 1
                assert (
                    row["memory_item_id_ads_shown_9"] == row["memory_item_id_natural_shown_9"] == 0
                )
    assert seen, "the day after the table shows a dropped pair"


def test_a_changed_day_inside_the_longest_window_makes_new_examples(tmp_path):
    write_log(tmp_path / "data", np.random.default_rng(8), strings=False)
    config, last = config_of(tmp_path), DAYS[-1]
    before = example_path(config, "ads", last).fingerprint
    table = newest_table(MEMORY, last - dt.timedelta(days=1))
    folders = [tmp_path / "data" / "domain=natural" / f"date={day}" for day in DAYS]
    old = next(
        f
        for f in reversed(folders)
        if f.exists() and f.name <= f"date={table - dt.timedelta(days=8)}"
    )
    inside = old.name > f"date={table - dt.timedelta(days=9)}"
    shutil.rmtree(old)
    assert (example_path(config, "ads", last).fingerprint != before) == inside


def test_another_key_of_memory_makes_new_examples(tmp_path):
    write_log(tmp_path / "data", np.random.default_rng(8), strings=False)
    config = config_of(tmp_path)
    fewer = config.memory.model_copy(update={"features": ()})
    without = config.model_copy(update={"memory": fewer})
    assert without.memory_keys != config.memory_keys
    assert example_path(without, "ads", DAYS[-1]) != example_path(config, "ads", DAYS[-1])


def test_without_memory_nothing_of_it_is_in_examples_inputs_or_fingerprints(tmp_path):
    write_log(tmp_path / "data", np.random.default_rng(9), strings=False)
    config = config_of(tmp_path, Memory())
    assert "memory" not in config.relevant("actr")
    assert Inputs.of(config, "actr").memory == 0
    (day,) = prepare(
        config,
        "natural",
        [
            next(
                d for d in DAYS[3:] if (tmp_path / "data" / "domain=natural" / f"date={d}").exists()
            )
        ],
    )
    assert not [name for name in pq.read_schema(day.path).names if name.startswith("memory")]
    assert not (tmp_path / "prepared" / "memory").exists()


def test_an_unknown_category_is_unknown_and_not_zero(tmp_path):
    log = write_log(tmp_path / "data", np.random.default_rng(10), strings=False)
    config = config_of(tmp_path)
    inputs = Inputs.of(config, "actr")
    assert inputs.memory == len(input_names(config.memory_keys, MEMORY.windows)) == 2 * 2 * 6
    assert inputs.numeric[-inputs.memory :] == tuple(
        input_names(config.memory_keys, MEMORY.windows)
    )
    days = sorted({row["date"] for row in log if row["domain"] == "ads"})
    parts = [Part(day.path, "ads") for day in prepare(config, "ads", days)]
    (table,) = read_chunks(parts, inputs.columns, 100_000)
    batch = encode(table, inputs, dict.fromkeys(inputs.vocabularies, EMPTY))
    unknown = table.column("category").is_null().to_numpy()
    assert unknown.any()
    of_category = batch.numeric[:, inputs.numeric.index("memory_category_natural_clicks_3")]
    assert (of_category.isnan().numpy() == unknown).all()
    assert not batch.numeric[:, inputs.numeric.index("memory_item_id_ads_gap")].isnan().any()


@pytest.mark.parametrize(
    ("memory", "message"),
    [
        (
            {"features": ["price"]},
            "memory.features: 'price' is no categorical feature of items; expected some of "
            "category",
        ),
        ({"features": ["absent"]}, "'absent' is no categorical feature of items"),
    ],
)
def test_a_feature_that_is_no_item_feature_is_refused(memory, message):
    with pytest.raises(ValidationError, match=message):
        Config.model_validate({"features": [f.model_dump() for f in FEATURES], "memory": memory})
    with pytest.raises(ValidationError, match="expected days in ascending order"):
        Memory(windows=(28, 28))
    with pytest.raises(ConfigError, match="no categorical feature of items"):
        Config(features=FEATURES).with_overlay({"memory": memory}, "variant 'x'")
