"""Bad days that keep the contract.

Each is found, named, and stopped where the configuration says so.
"""

from __future__ import annotations

import datetime as dt
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.config import Config, Feature, Quality
from ecdctr.errors import ContractError
from ecdctr.files.duck import connect
from ecdctr.impressions.declared import ColumnType
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.profile import AT_ONCE, HASHED_VALUES, TOP_VALUES, measure
from ecdctr.impressions.quality import check_day
from ecdctr.impressions.schema import Column, DaySchema, Group
from ecdctr.impressions.shift import (
    HASHES,
    Distinct,
    Sample,
    population_stability_index,
    unseen_share,
)
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from tests.conftest import DATE


@pytest.fixture
def copied(config: Config, tmp_path: Path) -> Config:
    """Eight days of natural content that a test may spoil."""
    for back in range(8):
        date = DATE - dt.timedelta(days=back)
        folder = f"domain=natural/date={date}"
        shutil.copytree(config.data.root / folder, tmp_path / "data" / folder)
    data = config.data.model_copy(
        update={"root": tmp_path / "data", "prepared": tmp_path / "prepared"}
    )
    return config.model_copy(update={"data": data})


def spoil(config: Config, change: Callable[[pa.Table], pa.Table]) -> None:
    files = open_impressions(config.data.root).files("natural", DATE)
    table = change(pa.concat_tables([pq.read_table(path, partitioning=None) for path in files]))
    for path in files[1:]:
        path.unlink()
    pq.write_table(table, files[0])


def replaced(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(
        table.schema.get_field_index(name), name, values.cast(table.schema.field(name).type)
    )


def test_an_ordinary_day_raises_no_finding(copied):
    assert check_day(copied, "natural", DATE) == []


def half(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows // 2)


def flipped(table: pa.Table) -> pa.Table:
    return replaced(table, "click", pc.subtract(pa.scalar(1, pa.int8()), table["click"]))


def clickier(table: pa.Table) -> pa.Table:
    """Return every fifth impression that was not clicked is."""
    click = table["click"].to_numpy().copy()
    click[::5] = 1
    return replaced(table, "click", pa.array(click))


def without_slots(table: pa.Table) -> pa.Table:
    return replaced(table, "slot", pa.nulls(table.num_rows, table.schema.field("slot").type))


def flooded(table: pa.Table) -> pa.Table:
    new = np.where(np.arange(table.num_rows) % 3 == 0, 9999, table["category"].to_numpy())
    return replaced(table, "category", pa.array(new))


def one_slot(table: pa.Table) -> pa.Table:
    return replaced(table, "slot", pa.array(np.full(table.num_rows, table["slot"][0].as_py())))


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        (half, "impressions"),
        (lambda table: pa.concat_tables([table, table]), "impressions"),
        (flipped, "click-through rate"),
        (clickier, "click-through rate"),
        (without_slots, "nulls of slot"),
        (flooded, "values of category never seen before"),
        (one_slot, "distribution of slot"),
    ],
)
def test_a_bad_day_is_found_and_stopped_when_asked_for(copied, change, measure):
    spoil(copied, change)
    findings = check_day(copied, "natural", DATE)
    assert measure in [finding.measure for finding in findings]
    assert all("expected" in str(finding) and str(DATE) in str(finding) for finding in findings)
    stopping = copied.model_copy(update={"quality": Quality(action="stop")})
    with pytest.raises(ContractError, match=rf"natural {DATE}: .*{measure}.*quality.action: warn"):
        check_day(stopping, "natural", DATE)
    off = copied.model_copy(update={"quality": Quality(action="off")})
    assert check_day(off, "natural", DATE) == []


def test_what_was_found_is_stored_with_the_version_or_stops_the_training(copied, store):
    spoil(copied, clickier)
    manifest = train_tpm(Request(copied, store, DATE)).manifest
    assert len(manifest.quality) == 1
    assert "click-through rate: expected" in manifest.quality[0]
    assert store.manifest(manifest.ref).quality == manifest.quality
    stopping = copied.model_copy(update={"quality": Quality(action="stop"), "seed": 2})
    with pytest.raises(ContractError, match="click-through rate"):
        train_tpm(Request(stopping, store, DATE))
    assert store.versions("production", "tpm") == [manifest.ref]


def test_a_day_is_measured_again_when_its_files_change(copied):
    assert check_day(copied, "natural", DATE) == []
    spoil(copied, flipped)
    assert [finding.measure for finding in check_day(copied, "natural", DATE)] == [
        "click-through rate"
    ]


def test_the_days_after_a_date_have_no_say(copied):
    early = DATE - dt.timedelta(days=4)
    before = check_day(copied, "natural", early)
    spoil(copied, flipped)
    assert check_day(copied, "natural", early) == before


def test_days_that_are_not_delivered_whole_are_no_days_to_compare_with(copied):
    """Of four days before half lies there, without a marker: the day is not unlike whole days."""
    folders = sorted(Path(copied.data.root, "domain=natural").iterdir())
    for folder in folders[3:-1]:
        for path in folder.glob("*.parquet"):
            pq.write_table(half(pq.read_table(path, partitioning=None)), path)
    findings = check_day(copied, "natural", DATE)
    assert [finding.measure for finding in findings] == ["impressions"]
    for folder in [*folders[:3], folders[-1]]:
        (folder / "_SUCCESS").touch()
    data = copied.data.model_copy(update={"ready": "marker"})
    assert check_day(copied.model_copy(update={"data": data}), "natural", DATE) == []


def test_with_fewer_than_three_days_before_nothing_is_said(copied):
    early = DATE - dt.timedelta(days=5)
    assert check_day(copied, "natural", early) == []


counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1)


def sample(counts: dict[str, int]) -> Sample:
    return Sample(counts, sum(counts.values()), sum(counts.values()))


@given(counts, counts)
def test_the_stability_index_is_zero_for_equal_shares_symmetric_and_never_negative(first, second):
    tripled = {name: 3 * n for name, n in first.items()}
    assert population_stability_index(sample(first), sample(tripled)) == pytest.approx(0, abs=0.02)
    assert population_stability_index(sample(first), sample(second)) >= 0
    assert population_stability_index(sample(first), sample(second)) == pytest.approx(
        population_stability_index(sample(second), sample(first))
    )


def drawn(rng: np.random.Generator, rows: int, chance: np.ndarray) -> Sample:
    """Return a day as its profile keeps it."""
    counts = rng.multinomial(rows, chance / chance.sum())
    top = np.argsort(-counts, kind="stable")[:TOP_VALUES]
    return Sample({str(i): int(counts[i]) for i in top if counts[i]}, rows, rows)


@pytest.mark.parametrize("rows", [300, 2_000, 10_000])
@pytest.mark.parametrize(("values", "power"), [(3, 0), (20, 1), (5_000, 1), (5_000, 0)])
def test_days_of_one_distribution_raise_no_alarm(rows, values, power):
    """The plain index is 0.8 to 2.3 for 5,000 values and 2,000 rows (benchmarks/quality.py)."""
    chance = np.arange(1, values + 1.0) ** -power
    limit = Quality().max_psi
    for seed in range(50):
        rng = np.random.default_rng([seed, rows, values])
        past = Sample.pooled(drawn(rng, rows, chance) for _ in range(7))
        assert population_stability_index(past, drawn(rng, rows, chance)) < limit


def hashed(rng: np.random.Generator, rows: int, chance: np.ndarray) -> Distinct:
    """Return the values of a day as its profile keeps them, each row of another user.

    The i-th value has the same hash on every day.
    """
    order, hashes = by_hash(len(chance))
    counts = rng.multinomial(rows, chance / chance.sum())[order]
    there = np.flatnonzero(counts)[:HASHED_VALUES]
    lowest = dict(zip(hashes[there].tolist(), counts[there].tolist(), strict=True))
    lone = {value: int(rng.integers(2**63)) for value, n in lowest.items() if n == 1}
    return Distinct.lowest(lowest, lone, rows, HASHED_VALUES)


@cache
def by_hash(values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the values in the order of their hashes, and these."""
    hashes = np.random.default_rng(7).integers(0, HASHES - 1, values, np.uint64)
    order = np.argsort(hashes)
    return order, hashes[order]


@pytest.mark.parametrize("rows", [300, 2_000, 10_000])
@pytest.mark.parametrize(("values", "power"), [(3, 0), (20, 1), (5_000, 1), (5_000, 0)])
def test_days_of_one_distribution_have_no_new_values(rows, values, power):
    """The plain share of values that seven days lack is 0.25 for 300 rows of 5,000 even values."""
    chance, shares = np.arange(1, values + 1.0) ** -power, []
    for seed in range(50):
        rng = np.random.default_rng([seed, rows, values])
        past = Distinct.pooled(hashed(rng, rows, chance) for _ in range(7))
        shares.append(unseen_share(past, hashed(rng, rows, chance)))
    assert max(shares) < Quality().max_unseen_share
    assert np.mean(shares) < 0.05


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
@pytest.mark.parametrize("values", [20, 900, 5_000, 30_000])
def test_the_share_of_new_values_is_known_of_many_as_of_few(values, share):
    old, new = np.ones(2 * values), np.ones(2 * values)
    old[values:], new[:values] = 0, 1 - share
    new[values:] = share
    for seed in range(10):
        rng = np.random.default_rng([seed, values])
        past = Distinct.pooled(hashed(rng, 10 * values, old) for _ in range(7))
        assert unseen_share(past, hashed(rng, 10 * values, new)) == pytest.approx(share, abs=0.08)


@pytest.mark.parametrize("values", [300, 5_000])
def test_a_day_whose_many_values_are_all_new_is_told(config, tmp_path, values):
    """5,000 creatives a day, each of which is rare, and one day others.

    No value is frequent enough for the index.
    """
    rng = np.random.default_rng(3)
    root = tmp_path / "data"
    days = [DATE + dt.timedelta(days=n) for n in range(5)]
    for date in days:
        folder = root / "domain=ads" / f"date={date}"
        folder.mkdir(parents=True)
        rows, first = 6 * values, 10**6 if date == days[-1] else 0
        moment = dt.datetime.combine(date, dt.time(1), dt.UTC)
        table = {
            "user_id": pa.array(np.arange(rows)),
            "item_id": pa.array(np.arange(rows)),
            "ts": pa.array([moment] * rows, pa.timestamp("us", tz="UTC")),
            "click": pa.array((rng.random(rows) < 0.2).astype(np.int8)),
            "category": pa.array(first + rng.integers(0, values, rows)),
        }
        pq.write_table(pa.table(table), folder / "part-0.parquet")
    data = config.data.model_copy(update={"root": root, "prepared": tmp_path / "prepared"})
    features = tuple(feature for feature in config.features if feature.name == "category")
    log = config.model_copy(update={"data": data, "features": features})
    assert check_day(log, "ads", days[3]) == []
    (finding,) = check_day(log, "ads", days[4])
    assert (finding.measure, finding.actual) == ("values of category never seen before", "100.0%")


def test_values_that_a_visit_shows_several_times_are_those_of_one_user(config, tmp_path):
    """Users who each have a city of many, in visits of four: each day has cities that none had.

    Then a day on which most cities are new to a log in which few were.
    """
    rng = np.random.default_rng(5)
    root = tmp_path / "data"
    days = [DATE + dt.timedelta(days=n) for n in range(7)]
    for n, date in enumerate(days):
        folder = root / "domain=ads" / f"date={date}"
        folder.mkdir(parents=True)
        user = np.repeat(rng.integers(0, 10**9, 150), 4)
        moment = dt.datetime.combine(date, dt.time(1), dt.UTC)
        table = {
            "user_id": pa.array(user),
            "item_id": pa.array(np.arange(600)),
            "ts": pa.array([moment] * 600, pa.timestamp("us", tz="UTC")),
            "click": pa.array((np.arange(600) % 5 == 0).astype(np.int8)),
            "city": pa.array(user % 2_000),
            "country": pa.array(user % 20 + (1_000 if n == 6 else 0)),
        }
        pq.write_table(pa.table(table), folder / "part-0.parquet")
    features = tuple(
        Feature(name=name, side="user", kind="categorical") for name in ("city", "country")
    )
    data = config.data.model_copy(update={"root": root, "prepared": tmp_path / "prepared"})
    log = config.model_copy(update={"data": data, "features": features})
    assert [check_day(log, "ads", day) for day in days[3:6]] == [[], [], []]
    (finding,) = check_day(log, "ads", days[6])
    assert (finding.measure, finding.actual) == ("values of country never seen before", "100.0%")


def test_users_who_bring_unequal_rows_are_worth_fewer_of_equal_ones(config, tmp_path):
    """Users of whom a few bring most rows, each of one value: days of one distribution."""
    rng = np.random.default_rng(2)
    root = tmp_path / "data"
    chance = 1 / np.arange(1, 201)
    days = [DATE + dt.timedelta(days=n) for n in range(6)]
    for date in days:
        folder = root / "domain=ads" / f"date={date}"
        folder.mkdir(parents=True)
        rows = np.maximum(1, np.round(rng.lognormal(np.log(2), 1.5, 500))).astype(int)
        user = np.repeat(rng.integers(0, 10**9, 500), rows)
        city = np.repeat(rng.choice(200, 500, p=chance / chance.sum()), rows)
        moment = dt.datetime.combine(date, dt.time(1), dt.UTC)
        table = {
            "user_id": pa.array(user),
            "item_id": pa.array(np.arange(len(user))),
            "ts": pa.array([moment] * len(user), pa.timestamp("us", tz="UTC")),
            "click": pa.array((np.arange(len(user)) % 5 == 0).astype(np.int8)),
            "city": pa.array(city),
        }
        pq.write_table(pa.table(table), folder / "part-0.parquet")
    features = (Feature(name="city", side="user", kind="categorical"),)
    data = config.data.model_copy(update={"root": root, "prepared": tmp_path / "prepared"})
    log = config.model_copy(update={"data": data, "features": features})
    said = [finding.measure for day in days[3:] for finding in check_day(log, "ads", day)]
    assert "distribution of city" not in said


def test_what_users_bring_on_several_days_is_theirs_alone_and_what_two_bring_is_not():
    first = Distinct.lowest({1: 4, 2: 4, 3: 4}, {1: 7, 2: 8}, 12, 100)
    second = Distinct.lowest({1: 6, 2: 4}, {1: 7, 2: 9}, 10, 100)
    pooled = Distinct.pooled([first, second])
    assert pooled.lone == {1: (7, 6)}
    assert pooled.counts == {1: 10, 2: 8, 3: 4}
    today = Distinct.lowest({4: 5, 1: 5}, {}, 10, 100)
    assert unseen_share(pooled, today) == pytest.approx(0.5 - 6 / 22)


def test_what_sampling_alone_makes_is_taken_off():
    """Twenty even values, 400 rows against 400.

    The index's mean is 19 (1/400 + 1/400) = 0.095, and none of it is left.
    """
    chance, left, raw = np.ones(20), [], []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        first, second = drawn(rng, 400, chance), drawn(rng, 400, chance)
        p, q = ([one.counts[str(i)] / 400 for i in range(20)] for one in (first, second))
        raw.append(sum((b - a) * np.log(b / a) for a, b in zip(p, q, strict=True)))
        left.append(population_stability_index(first, second))
    assert np.mean(raw) == pytest.approx(0.095, abs=0.01)
    assert np.median(left) < 0.005


@pytest.mark.parametrize(
    "change",
    [
        lambda chance: np.where(
            np.arange(len(chance)) == 3, 10 * chance, chance
        ),  # one much oftener
        lambda chance: chance[::-1],  # the rare are the frequent now
        lambda chance: np.where(np.arange(len(chance)) < 3, 0, chance),  # the head is gone
        lambda chance: np.append(chance, 0.6 * chance.sum()),  # a value that none of the days had
    ],
)
@pytest.mark.parametrize("values", [20, 5_000])
def test_a_day_of_another_distribution_raises_one(change, values):
    chance = 1 / np.arange(1, values + 1.0)
    for seed in range(20):
        rng = np.random.default_rng([seed, values])
        past = Sample.pooled(drawn(rng, 2_000, chance) for _ in range(7))
        assert (
            population_stability_index(past, drawn(rng, 2_000, change(chance))) > Quality().max_psi
        )


def test_ads_that_are_renewed_every_week_raise_no_alarm_and_a_day_out_of_turn_does(
    config, tmp_path
):
    """Ads of week w have categories that only they have: unlike the trailing days all week long."""
    rng = np.random.default_rng(1)
    root = tmp_path / "data"

    def deliver(date: dt.date, week: int) -> None:
        folder = root / "domain=ads" / f"date={date}"
        folder.mkdir(parents=True, exist_ok=True)
        moment = dt.datetime.combine(date, dt.time(1), dt.UTC)
        table = {
            "user_id": pa.array(np.arange(400)),
            "item_id": pa.array(np.arange(400)),
            "ts": pa.array([moment] * 400, pa.timestamp("us", tz="UTC")),
            "click": pa.array((rng.random(400) < 0.2).astype(np.int8)),
            "category": pa.array(10 * week + rng.integers(0, 8, 400)),
        }
        pq.write_table(pa.table(table), folder / "part-0.parquet")

    first = dt.date(2026, 1, 5)
    days = [first + dt.timedelta(days=i) for i in range(35)]
    for i, date in enumerate(days):
        deliver(date, i // 7)
    data = config.data.model_copy(update={"root": root, "prepared": tmp_path / "prepared"})
    features = tuple(feature for feature in config.features if feature.name == "category")
    weekly = config.model_copy(update={"data": data, "features": features})
    assert [check_day(weekly, "ads", date) for date in days[14:]] == [[]] * 21
    deliver(days[30], 7)
    assert [f.measure for f in check_day(weekly, "ads", days[30])] == [
        "values of category never seen before"
    ]
    deliver(days[30], 2)  # the ads of a fortnight ago
    assert check_day(weekly, "ads", days[30]), "nor is it like yesterday or a week ago"


def test_a_profile_says_of_each_of_many_features_what_its_rows_say(tmp_path):
    """The 41 features, more than one query counts, differ in values, nulls and names."""
    rng = np.random.default_rng(3)
    users = rng.integers(0, 9, 200)
    columns = {f"f {i}": rng.integers(0, i + 1, 200).astype(str).tolist() for i in range(40)}
    columns = {name: [v if v != "1" else None for v in values] for name, values in columns.items()}
    columns["of nothing"] = [None] * 200
    path = tmp_path / "day.parquet"
    given = {"user_id": users, "click": users % 2, **columns}
    pq.write_table(pa.table(given | {"of nothing": pa.array([None] * 200, pa.string())}), path)
    declared = pq.read_schema(path)
    schema = DaySchema(
        tuple(Column(name, "category") for name in given),
        (ColumnType("integer"), ColumnType("integer"), *[ColumnType("text")] * 41),
        (Group((path,), tuple(declared.types)),),
    )
    with connect() as db:
        profile = measure(db, schema, [(name, "categorical") for name in columns])
    assert len(columns) > 2 * AT_ONCE
    assert (profile.rows, profile.clicks) == (200, (users % 2).sum())
    for name, values in columns.items():
        there = [value for value in values if value is not None]
        assert profile.values[name] == Counter(there)
        assert profile.nulls[name] == 200 - len(there)
        assert sorted(n for n, _ in profile.hashed[name].values()) == sorted(
            Counter(there).values()
        )
        of_users = Counter(u for u, v in zip(users, values, strict=True) if v is not None).values()
        worth = sum(of_users) ** 2 / max(sum(n**2 for n in of_users), 1)
        assert profile.effective_users[name] == pytest.approx(worth)
