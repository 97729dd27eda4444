"""Held-out ads look back on the world alone: nobody sees their clicks."""

from __future__ import annotations

import datetime as dt

import pyarrow.parquet as pq
import pytest

from ecdctr.config import Config, Visits, load_config
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.held_out import prepare_held_out
from ecdctr.examples.prepare import prepare
from ecdctr.worlds.simulate import simulate
from tests.conftest import REPOSITORY

LAST = dt.date(2026, 1, 8)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("visits")
    sim = Visits(kind="visits", users=400, days=8, natural_items=200, ad_items=60,
                 held_out_days=2, visits_per_month=20.0)  # fmt: skip
    simulate(sim, 1, root, 1)
    loaded = load_config(REPOSITORY / "configs" / "tiny.yaml")
    data = loaded.data.model_copy(update={"root": root, "prepared": root / "prepared"})
    return loaded.model_copy(update={"data": data})


def test_only_days_with_held_out_ads_have_examples_of_them(apart):
    assert prepare_held_out(apart, LAST - dt.timedelta(days=3)) is None
    assert prepare_held_out(apart, LAST) is not None


def test_history_and_counts_are_those_of_the_worlds_own_impressions(apart):
    held_out = prepare_held_out(apart, LAST)
    rows = next(read_chunks([Part(held_out.path, "ads")], None, 1_000_000)).to_pylist()
    world = [
        row
        for domain in ("natural", "ads")
        for part in (apart.data.root / f"domain={domain}").rglob("*.parquet")
        for row in pq.read_table(part, partitioning=None).to_pylist()
        if row["click"]
    ]
    clicks: dict[int, list[tuple[dt.datetime, int]]] = {}
    for row in world:
        clicks.setdefault(row["user_id"], []).append((row["ts"], row["item_id"]))
    first = dt.datetime.combine(LAST, dt.time(), dt.UTC) - dt.timedelta(days=7)
    for row in rows[::7]:
        before = [c for c in clicks.get(row["user_id"], []) if first <= c[0] < row["ts"]]
        assert len(row["history"]) == min(len(before), apart.data.history_length)
    with_history = [row for row in rows if row["history"]]
    assert len(with_history) > len(rows) / 4


def test_more_held_out_ads_leave_the_worlds_examples_as_they_are(apart):
    day = prepare(apart, "ads", [LAST])[0]
    assert prepare_held_out(apart, LAST).path != day.path
    assert prepare(apart, "ads", [LAST])[0] == day
