"""Admission and eviction of ids against a dictionary, day by day."""

from __future__ import annotations

import datetime as dt
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.config import Admission
from ecdctr.errors import ConfigError, StoreError
from ecdctr.examples.admission import days, renewed
from ecdctr.examples.vocabulary import EMPTY, Sightings, Vocabulary, seen
from ecdctr.files import duck

FIRST = dt.date(2026, 1, 1)
NOTHING = Sightings(pa.nulls(0), np.empty(0, np.int32), np.empty(0, np.int64))
NOBODY = Vocabulary(EMPTY.values, NOTHING)


class Sighting(NamedTuple):
    """What the model remembers of an id."""

    last: int
    count: int


class Model:
    """Rows as a dictionary: the rules of docs/operations.md, one id after another."""

    def __init__(self, rules: Admission) -> None:
        self.rules = rules
        self.seen: dict[Any, Sighting] = {}
        self.row: dict[Any, int] = {}

    def day(self, date: dt.date, read: dict[Any, int], told: dict[Any, Sighting]) -> None:
        today = days(date)
        for one, count in read.items():
            before = self.seen.get(one, Sighting(0, 0))
            self.seen[one] = Sighting(today, before.count + count)
        for one, (last, count) in told.items():
            before = self.seen.get(one, Sighting(0, 0))
            self.seen[one] = Sighting(max(last, before.last), max(count, before.count))
        kept_for = self.rules.evict_after_days or 10**6
        self.seen = {one: k for one, k in self.seen.items() if today - k.last < kept_for}

        def rank(one: Any) -> tuple[int, int, bool, Any]:
            last, count = self.seen[one]
            first, second = (last, count) if self.rules.order == "lru" else (count, last)
            return -first, -second, one not in self.row, one

        ready = {
            one
            for one, seen in self.seen.items()
            if one in self.row or seen.count >= self.rules.min_impressions
        }
        ordered = sorted(ready, key=rank) + sorted(set(self.seen) - ready, key=rank)
        room = self.rules.max_rows or len(ordered)
        size = min(len(ready), room)
        self.seen = {one: self.seen[one] for one in ordered[: size + room]}
        owners = {one: self.row[one] for one in ordered[:size] if one in self.row}
        free = iter(sorted(set(range(1, size + 1)) - set(owners.values())))
        new = sorted(one for one in ordered[:size] if one not in owners)
        new = [one for one in new if one in read] + [one for one in new if one not in read]
        moved = sorted((one for one in owners if owners[one] > size), key=lambda one: owners[one])
        self.row = owners | {one: next(free) for one in [*new, *moved]}


def sightings(seen: dict[Any, Sighting], shuffled: list[int]) -> Sightings:
    """Return a dictionary as sightings, in some order."""
    items = list(seen.items())
    items = [items[i] for i in sorted(range(len(items)), key=lambda i: shuffled[i % len(shuffled)])]
    ids = pa.array([one for one, _ in items]) if items else pa.nulls(0)
    last = np.array([seen.last for _, seen in items], np.int32)
    return Sightings(ids, last, np.array([seen.count for _, seen in items], np.int64))


a_day = st.tuples(
    st.dictionaries(st.integers(0, 14), st.integers(1, 3), max_size=6),
    st.dictionaries(
        st.integers(0, 14), st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=3
    ),
    st.integers(1, 3),
)


@settings(max_examples=300)
@given(
    log=st.lists(a_day, min_size=1, max_size=8),
    least=st.integers(1, 4),
    most=st.none() | st.integers(6, 9),
    unseen=st.none() | st.integers(1, 6),
    order=st.sampled_from(["lru", "lfu"]),
    text=st.booleans(),
    shuffled=st.permutations(range(6)),
)
def test_rows_are_those_of_a_dictionary_whatever_the_order_of_rows(
    log, least, most, unseen, order, text, shuffled
):
    rules = Admission(min_impressions=least, max_rows=most, evict_after_days=unseen, order=order)
    model, vocabulary, date = Model(rules), NOBODY, FIRST
    for of_day, of_snapshots, gap in log:
        read, told = (
            {f"i{k:02}" if text else k: v for k, v in part.items()}
            for part in (of_day, of_snapshots)
        )
        date += dt.timedelta(days=gap)
        knows = {one: Sighting(days(date) - ago, count) for one, (ago, count) in told.items()}
        rows_before = dict(model.row)
        model.day(date, read, knows)
        reads = sightings({one: Sighting(days(date), n) for one, n in read.items()}, shuffled)
        renewal = renewed(
            vocabulary, reads, [sightings(knows, shuffled)], rules, date, "cpm.vocabulary.x"
        )
        parent, vocabulary = vocabulary, renewal.vocabulary
        assert {one: i for i, one in enumerate(vocabulary.values.to_pylist(), 1)} == model.row
        ids, last, counts = vocabulary.sightings
        remembered = map(Sighting, last.tolist(), counts.tolist())
        assert dict(zip(ids.to_pylist(), remembered, strict=True)) == model.seen
        assert renewal.admitted == len(set(model.row) - set(rows_before))
        assert renewal.evicted == len(set(rows_before) - set(model.row))
        carried = vocabulary.rows_in(parent).tolist()
        assert carried == [0, *(rows_before.get(one, 0) for one in vocabulary.values.to_pylist())]


def test_what_is_kept_of_ids_is_written_with_them(tmp_path):
    rules = Admission(min_impressions=2, evict_after_days=5)
    read = Sightings(
        pa.array(["c", "a", "b"]), np.array([20453, 20454, 20454], np.int32), np.array([2, 1, 7])
    )
    vocabulary = renewed(NOBODY, read, [], rules, FIRST, "x").vocabulary
    vocabulary.save(tmp_path / "x.parquet")
    again = Vocabulary.load(tmp_path / "x.parquet")
    assert again.values.to_pylist() == ["b", "c"]
    assert again.sightings.ids.to_pylist() == ["b", "c", "a"]
    assert again.sightings.last.tolist() == [20454, 20453, 20454]
    assert again.sightings.counts.tolist() == [7, 2, 1]
    assert again.lookup(pa.array(["a", "b", "c"])).tolist() == [0, 1, 2]
    table = pq.read_table(tmp_path / "x.parquet")
    assert table["row"].to_pylist() == [1, 2, 0]
    assert table["last_seen"].to_pylist()[0] == dt.date(2026, 1, 1)


def test_a_version_says_how_stale_its_rows_are():
    last = np.array([days(FIRST) - ago for ago in (0, 3, 8)], np.int32)
    read = Sightings(pa.array([1, 2, 3]), last, np.array([5, 5, 1]))
    rules = Admission(min_impressions=2)
    metrics = renewed(NOBODY, read, [], rules, FIRST, "x").metrics("user_id", FIRST)
    assert metrics == {
        "user_id.rows": 2,
        "user_id.admitted": 2,
        "user_id.evicted": 0,
        "user_id.waiting": 1,
        "user_id.staleness_days": 1.5,
    }


def test_fewer_rows_than_the_newest_day_needs_are_refused():
    read = Sightings(
        pa.array([1, 2, 3, 4]),
        np.array([days(FIRST)] * 3 + [days(FIRST) - 1], np.int32),
        np.array([2, 2, 2, 9]),
    )
    rules = Admission(min_impressions=2, max_rows=2)
    with pytest.raises(ConfigError) as refused:
        renewed(NOBODY, read, [], rules, FIRST, "cpm.vocabulary.user_id")
    assert str(refused.value) == (
        "cpm.vocabulary.user_id.max_rows is 2, but of the ids of 2026-01-01 alone 3 are due a row "
        "(min_impressions: 2); set it to 3 or more, or raise min_impressions."
    )


def test_ids_of_another_type_are_refused():
    numbers = Sightings(pa.array([1]), np.array([1], np.int32), np.array([1]))
    texts = numbers._replace(ids=pa.array(["a"]))
    parent = renewed(NOBODY, numbers, [], Admission(), FIRST, "x").vocabulary
    with pytest.raises(StoreError, match="changed their type: the version has int64"):
        renewed(parent, texts, [], Admission(), FIRST, "x")


@pytest.mark.parametrize("multi", [False, True])
def test_impressions_of_ids_are_counted_over_files_in_any_order(tmp_path, multi):
    midnight = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    paths = []
    for day, values in enumerate(([[3], [3, 4], None], [[4], [5]], [None, None])):
        column = values if multi else [value and value[0] for value in values]
        ts = [midnight + dt.timedelta(days=day, hours=hour) for hour in range(len(values))]
        kind = pa.timestamp("us", "UTC")
        table = pa.table({"x": pa.array(column), "ts": pa.array(ts, kind)})
        paths.append(tmp_path / f"{day}.parquet")
        pq.write_table(table, paths[-1])
    counted = []
    for files in (paths, paths[::-1]):
        ids, last, counts = seen(duck.connect("100MB", 2), files, "x", multi)
        assert ids.type == pa.int64()
        figures = zip(last.tolist(), counts.tolist(), strict=True)
        counted.append(dict(zip(ids.to_pylist(), figures, strict=True)))
    first = days(FIRST)
    of_four = (first + 1, 2) if multi else (first + 1, 1)
    assert counted == [{3: (first, 2), 4: of_four, 5: (first + 1, 1)}] * 2
    empty = seen(duck.connect("100MB", 2), paths[2:], "x", multi)
    assert pa.types.is_null(empty.ids.type)
