"""A world with visits: equal bytes for a seed, and each mechanism does what its setting says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecdctr.config import DOMAINS, Visits, load_config
from ecdctr.errors import ConfigError
from ecdctr.impressions.contract import validate
from ecdctr.worlds.draws import Weighted
from ecdctr.worlds.feed import Feed
from ecdctr.worlds.habits import Habits
from ecdctr.worlds.interests import Interests
from ecdctr.worlds.items import Items
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate
from ecdctr.worlds.visits import Arrivals
from tests.conftest import REPOSITORY

SMALL = {"users": 400, "days": 8, "natural_items": 200, "ad_items": 60, "held_out_days": 2}


def world(**changed: object) -> Visits:
    return Visits.model_validate({"kind": "visits", **SMALL, **changed})


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.parquet")}


def gaps_of(sim: Visits, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Users and times of all visits, each user's in order."""
    arrivals = Arrivals(sim, 1)
    made = [arrivals.day(day) for day in range(days)]
    users = np.concatenate([one.users for one in made])
    times = np.concatenate([one.times for one in made])
    order = np.lexsort((times, users))
    return users[order], times[order]


def test_a_seed_gives_the_same_bytes_whatever_the_number_of_processes(tmp_path: Path):
    for workers in (1, 3):
        simulate(world(), 1, tmp_path / str(workers), workers)
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert len(files(tmp_path / "1")) == 2 * 8 + 2
    simulate(world(), 2, tmp_path / "other", 1)
    assert files(tmp_path / "1") != files(tmp_path / "other")


def test_a_killed_simulation_goes_on_where_it_was(tmp_path: Path):
    simulate(world(), 1, tmp_path, 1)
    before = files(tmp_path)
    for name in list(before)[::3]:
        (tmp_path / name).unlink()
    simulate(world(), 1, tmp_path, 1)
    assert files(tmp_path) == before


def test_days_can_be_made_in_any_order():
    forward, backward = Feed(world(), 1), Feed(world(), 1)
    days = {day: forward.tables(day) for day in range(8)}
    for day in (7, 3, 0, 5):
        assert backward.tables(day) == days[day]


def test_held_out_ads_change_nothing_of_the_world():
    few, many = (Feed(world(held_out_per_visit=n), 1) for n in (10, 40))
    for day in (2, 7):
        ours, theirs = few.tables(day), many.tables(day)
        assert all(ours[name] == theirs[name] for name in DOMAINS)
        assert ("held_out" in ours) == (day == 7)
    assert theirs["held_out"].num_rows / ours["held_out"].num_rows == pytest.approx(4)


def test_impressions_pass_the_contract(tmp_path: Path):
    simulate(world(), 1, tmp_path, 1)
    loaded = load_config(REPOSITORY / "configs" / "demo.yaml")
    data = loaded.data.model_copy(update={"root": tmp_path, "prepared": tmp_path / "prepared"})
    reports = validate(loaded.model_copy(update={"data": data}), DOMAINS)
    assert len(reports) == 16
    assert not [violation for report in reports for violation in report.violations]


def test_visits_come_as_often_as_is_set_and_their_gaps_have_a_heavy_tail():
    sim = world(users=4000, leaving_per_month=0.0, new_user_share=0.0, visits_per_month=6.0)
    users, times = gaps_of(sim, 90)
    assert len(users) / sim.users / 3 == pytest.approx(6.0, rel=0.1)
    gaps = np.diff(times)[np.diff(users) == 0]
    assert gaps.min() >= 1 / 24 - 1e-9
    assert np.percentile(gaps, 98) > 8 * np.median(gaps)


def test_leavers_leave_and_some_return():
    def late_share(**changed: float) -> float:
        sim = world(users=3000, new_user_share=0.0, visits_per_month=15.0, **changed)
        users, times = gaps_of(sim, 120)
        return len(np.unique(users[times > 100])) / len(np.unique(users[times < 20]))

    stay = late_share(leaving_per_month=0.0)
    gone = late_share(leaving_per_month=0.5, returning=0.0)
    back = late_share(leaving_per_month=0.5, returning=1.0, away_days=20.0)
    assert gone < 0.6 * stay
    assert gone + 0.1 < back < stay


def test_newcomers_arrive_through_the_days():
    sim = world(users=3000, new_user_share=0.4, days=60, visits_per_month=30.0)
    users, times = gaps_of(sim, 60)
    _, first = np.unique(users, return_index=True)
    assert 0.1 < (times[first] > 30).mean() < 0.3


def test_items_live_as_long_as_is_set_and_ids_never_come_again():
    sim = world(days=60, natural_items=500, natural_life_days=4.0, ad_life_days=20.0)
    items = Items(sim, 1)
    for domain, median in (("natural", 4.0), ("ads", 20.0)):
        lives = items.lives[domain]
        born_here = lives.born > 0
        assert np.median((lives.dies - lives.born)[born_here]) == pytest.approx(median, rel=0.2)
    alive = [len(items.lives["natural"].on(day)) for day in range(60)]
    assert 350 < min(alive) <= max(alive) < 650
    both = set(items.lives["natural"].items) & set(items.lives["ads"].items)
    assert 0.3 < len(both) / len(set(items.lives["ads"].items)) < 0.6


def test_popularity_has_a_long_tail():
    day = Feed(world(users=4000, visits_per_month=30.0, natural_items=1000), 1).tables(0)["natural"]
    counts = np.sort(np.bincount(day["item_id"].to_numpy()))[::-1]
    assert counts[:100].sum() > 0.25 * counts.sum()
    assert (counts > 0).sum() > 800


def test_no_item_of_a_long_tail_is_cut_off():
    count = 50_000
    drawn = Weighted(np.arange(count, dtype=np.int32), np.power(10.0 + np.arange(count), -0.8))
    items = drawn.of(np.random.default_rng(1).random(10**6, dtype=np.float32))
    assert np.unique(items[items > count // 2]).size > 0.85 * count / 2


def test_an_interest_returns_after_the_users_own_period_or_never():
    sim = world(users=3000)
    interests = Interests(sim, 1)
    users = np.arange(sim.users)
    for period, share in zip([*sim.periods, np.inf], [*sim.period_shares, 0.3], strict=True):
        mine = users[interests.period == period]
        assert len(mine) / sim.users == pytest.approx(share, abs=0.04)
        later = 91 if np.isinf(period) else round(period)
        first, again = (interests.on(day, mine, "natural") for day in (10, 10 + later))
        same = np.abs(first - again).max() < 0.3
        assert same == np.isfinite(period)


def test_a_ranker_shows_what_is_liked_and_puts_it_higher():
    def oracle(skill: float) -> tuple[float, float]:
        sim = world(users=3000, ranker_skill=skill, position_effect=0.0, repetition=0.0)
        feed = Feed(sim, 1)
        table = feed.tables(0)["natural"]
        slot, chance = table["slot"].to_numpy(), table["oracle_ctr"].to_numpy()
        return chance[slot == 0].mean(), chance[slot == 7].mean()

    by_chance, by_skill = oracle(0.0), oracle(2.0)
    assert abs(by_chance[0] - by_chance[1]) < 0.03
    assert by_skill[0] > by_skill[1] + 0.1


def test_repetition_makes_users_click_the_same_item_again():
    def repeated(share: float) -> float:
        long = {"natural_life_days": 500.0, "ad_life_days": 500.0, "habit_days": 200.0}
        feed = Feed(
            world(repetition=share, days=30, visits_per_month=15.0, natural_items=2000, **long), 1
        )
        seen: set[tuple[int, int]] = set()
        again = total = 0
        for day in range(30):
            table = feed.tables(day)["natural"]
            clicked = table.filter(table["click"].to_numpy() == 1)
            pairs = list(
                zip(*(clicked[c].to_pylist() for c in ("user_id", "item_id")), strict=True)
            )
            again, total = again + sum(pair in seen for pair in pairs), total + len(pairs)
            seen.update(pairs)
        return again / total

    assert repeated(0.3) > 2 * repeated(0.0)


def test_habits_of_both_domains_agree_as_far_as_the_domains_do():
    def shared(correlation: float) -> float:
        long = {"natural_life_days": 500.0, "promoted_share": 1.0}
        sim = world(domain_correlation=correlation, **long)
        habits = Habits(sim, 1, Items(sim, 1))
        natural, ads = (habits.on(5, np.arange(400), domain) for domain in DOMAINS)
        return float((natural == ads).mean())

    assert shared(1.0) > 0.7
    assert shared(0.0) < 0.1


def test_click_rates_and_the_ads_share_are_those_that_are_set():
    sim = world(users=6000, visits_per_month=30.0, natural_ctr=0.3, ads_ctr=0.15, ads_share=0.1)
    day = Feed(sim, 1).tables(4)
    shares = {name: table["oracle_ctr"].to_numpy().mean() for name, table in day.items()}
    assert shares["natural"] == pytest.approx(0.3, rel=0.15)
    assert shares["ads"] == pytest.approx(0.15, rel=0.3)
    assert day["ads"].num_rows / day["natural"].num_rows == pytest.approx(1 / 9, rel=0.1)


def test_a_stored_world_is_the_one_that_was_made(tmp_path: Path):
    simulate(world(), 1, tmp_path, 2)
    stored = pq.read_table(
        tmp_path / "domain=ads/date=2026-01-04/part-0.parquet", partitioning=None
    )
    assert stored.equals(Feed(world(), 1).tables(3)["ads"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["periods=[7]"], "expected as many of both"),
        (["period_shares=[0.9, 0.9, 0.9]"], "sum of 1 at most"),
        (["ads_share=0"], "ads_share: expected more than 0"),
        (["recurrence_days=7"], "recurrence_days: there is no such key; did you mean"),
    ],
)
def test_settings_out_of_range_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        load_world("visits", changes)


def test_every_setting_says_what_is_sane():
    untold = [
        name
        for name, field in Visits.model_fields.items()
        if name not in ("kind", "start") and "sane: " not in (field.description or "")
    ]
    assert not untold


def test_in_the_world_of_the_forgetting_study_likes_turn_round_within_it_and_come_back_after_it():
    sim = load_world("forgetting").settings
    assert isinstance(sim, Visits)
    interests, users = Interests(sim, 1), np.arange(sim.users)

    def alike(later: int) -> float:
        first, then = (interests.on(day, users, "natural") for day in (70, 70 + later))
        return float(np.mean((first * then).sum(1)) / np.mean((first * first).sum(1)))

    assert alike(30) < -0.8
    assert alike(60) > 0.99
