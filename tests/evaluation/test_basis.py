"""What an evaluation says that it was judged by: nothing else of the same name is equal to it."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecdctr.config import Config, Domain
from ecdctr.evaluation.basis import impressions_digest
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.reading import DeliveredAnew
from tests.conftest import DATE
from tests.make import changed

DAY = dt.timedelta(days=1)
BACK = 2


@pytest.fixture
def log(config: Config, tmp_path: Path) -> Config:
    """Return a log of a day of both domains and of the days that it looks back on."""
    root = tmp_path / "data"
    for domain in ("natural", "ads"):
        for back in range(BACK + 1):
            name = f"domain={domain}/date={DATE - back * DAY}"
            shutil.copytree(Path(config.data.root) / name, root / name)
    return changed(config, "data", root=root, prepared=tmp_path / "made", lookback_days=BACK)


def judged_on(config: Config) -> str:
    (day,) = prepare(config, "ads", [DATE])
    return impressions_digest(config, "ads", DATE, day.fingerprint)


def deliver(
    config: Config, domain: Domain, date: dt.date, column: str, change: Callable[..., pa.Array]
) -> None:
    """Deliver a day again with another column; `change` gets the column and the table."""
    folder = Path(config.data.root) / f"domain={domain}" / f"date={date}"
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path, partitioning=None).sort_by("user_id")
        at = table.schema.get_field_index(column)
        field = table.schema.field(at)
        made = change(table[column].combine_chunks(), table).cast(field.type)
        pq.write_table(table.set_column(at, field, made), path)


def moved_within_a_user(clicks: pa.Array, table: pa.Table) -> pa.Array:
    """Move one click to another impression of the same user."""
    users, values = table["user_id"].to_pylist(), clicks.to_pylist()
    for i in range(1, len(users)):
        if users[i] == users[i - 1] and values[i] != values[i - 1]:
            values[i], values[i - 1] = values[i - 1], values[i]
            return pa.array(values, clicks.type)
    raise AssertionError("no user with both")


def turned(values: pa.Array, _: pa.Table) -> pa.Array:
    return pa.concat_arrays([values[1:], values[:1]])


@pytest.mark.parametrize(
    ("domain", "back", "column", "change"),
    [
        ("ads", 0, "click", moved_within_a_user),
        ("ads", 0, "item_id", turned),
        ("ads", 0, "price", lambda prices, _: pc.add(prices, 1)),
        ("ads", BACK, "click", moved_within_a_user),
        ("natural", 0, "item_id", turned),
        ("natural", BACK, "click", moved_within_a_user),
    ],
    ids=["click", "item", "feature", "before", "other domain", "other domain before"],
)
def test_impressions_that_were_delivered_again_are_others(log, domain, back, column, change):
    before = judged_on(log)
    deliver(log, domain, DATE - back * DAY, column, change)
    assert judged_on(log) != before


def test_experiments_that_read_the_same_impressions_otherwise_are_comparable(log):
    same = judged_on(log)
    fewer = log.model_copy(update={"features": log.features[1:]})
    assert judged_on(fewer) == same
    assert judged_on(changed(log, "data", history_length=3)) == same
    remembering = log.with_overlay({"memory": {"enabled": True, "windows": [2]}}, "test")
    assert judged_on(remembering) == same


def test_rows_that_one_configuration_sets_aside_are_others(log):
    deliver(log, "ads", DATE, "price", lambda prices, _: pc.multiply(prices, float("inf")))
    without = tuple(one for one in log.features if one.name != "price")
    quarantined = changed(log, "data", quarantine=True)
    assert judged_on(quarantined) != judged_on(quarantined.model_copy(update={"features": without}))


def test_examples_of_an_earlier_delivery_are_not_said_to_be_judged_by_this_one(log):
    (day,) = prepare(log, "ads", [DATE])
    deliver(log, "ads", DATE, "click", moved_within_a_user)
    with pytest.raises(DeliveredAnew, match=f"{DATE} was delivered again"):
        impressions_digest(log, "ads", DATE, day.fingerprint)
