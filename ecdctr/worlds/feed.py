"""A world with visits: each visit holds natural content and ads, shown by an earlier ranker.

Clicked by known chances. Mechanisms, one file each: visits (when users come), items (what there
is), interests (what users like), habits (what is clicked again), ranker (what is shown, and where).
A day's draws depend on (seed, day) and the day's visits alone.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from ecdctr.config import DOMAINS, Domain, Visits
from ecdctr.worlds.draws import normal
from ecdctr.worlds.habits import Habits
from ecdctr.worlds.interests import Interests
from ecdctr.worlds.items import Items
from ecdctr.worlds.ranker import Ranker
from ecdctr.worlds.visits import Arrivals, DayVisits, time_of_day

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 300  # what is drawn
LAST_SLOT = 7  # positions below it are one value of the feature
SECONDS_A_POSITION = 20
LONGEST_VISIT = 500  # impressions
CALIBRATION_VISITS = 5000
FULL_DAY = 86_400.0 - 1e-3


class Rows(NamedTuple):
    """Impressions of one domain and day, in order of visits and positions; each [R]."""

    visit: NDArray[np.int64]
    position: NDArray[np.int64]


class Shown(NamedTuple):
    """What is shown in rows: user, item, logit of a click without the domain's bias; each [R]."""

    users: NDArray[np.int64]
    items: NDArray[np.int32]
    logit: NDArray[np.float32]


class Feed:
    """The world as `simulate` writes it."""

    def __init__(self, sim: Visits, seed: int) -> None:
        self.sim, self.seed = sim, seed
        self.arrivals = Arrivals(sim, seed)
        self.items = Items(sim, seed)
        self.interests = Interests(sim, seed)
        self.habits = Habits(sim, seed, self.items)
        self.ranker = Ranker(sim, self.items, self.interests, self.habits)
        self.bias: dict[Domain, float] = dict.fromkeys(DOMAINS, 0.0)
        self.bias["natural"] = self._calibrated("natural", sim.natural_ctr)
        self.bias["ads"] = self._calibrated("ads", sim.ads_ctr)

    def tables(self, day: int) -> dict[str, pa.Table]:
        """Return impressions of a day by domain, and `held_out` ads on the last days."""
        visits = self.arrivals.day(day)
        rng = np.random.default_rng([self.seed, 3, day])
        sizes = self._sizes(visits)
        visit = np.repeat(np.arange(len(sizes)), sizes)
        position = np.arange(len(visit)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        ad = rng.random(len(visit), dtype=np.float32) < self.sim.ads_share
        tables: dict[str, pa.Table] = {}
        for number, domain in enumerate(DOMAINS):
            mine = np.flatnonzero(ad == (domain == "ads"))
            rows = Rows(visit[mine], position[mine])
            tables[domain] = self._table(rng, day, visits, domain, rows, number)
        if day >= self.sim.days - self.sim.held_out_days:
            rows = self._held_out(day, sizes)
            apart = np.random.default_rng(
                [self.seed, 4, day]
            )  # so that more of them change nothing
            tables["held_out"] = self._table(apart, day, visits, "ads", rows, len(DOMAINS))
        return tables

    def _sizes(self, visits: DayVisits) -> NDArray[np.int64]:
        """Return impressions of each visit [V], at least one."""
        spread = self.sim.per_visit_spread
        minutes = np.round(visits.times * 1440)
        drawn = np.exp(spread * normal(self.seed, SIZE, visits.users, minutes) - spread**2 / 2)
        sizes: NDArray[np.int64] = np.clip(np.rint(self.sim.per_visit * drawn), 1, LONGEST_VISIT)
        return sizes.astype(np.int64)

    def _held_out(self, day: int, sizes: NDArray[np.int64]) -> Rows:
        """Draw as many more ads in each visit as are set, at positions that the visit has."""
        rng = np.random.default_rng([self.seed, 5, day])
        count = self.sim.held_out_per_visit
        drawn = rng.random((len(sizes), count)) * sizes[:, None]
        position = np.sort(drawn.astype(np.int64), axis=1).ravel()
        return Rows(np.repeat(np.arange(len(sizes)), count), position)

    def _shown(
        self,
        rng: np.random.Generator,
        day: int,
        visitors: NDArray[np.int64],
        domain: Domain,
        rows: Rows,
    ) -> Shown:
        habits = self.habits.on(day, visitors, domain)
        items = self.ranker.choose(rng, day, domain, visitors, rows.visit, habits)
        liked = self.interests.on(day, visitors, domain)[rows.visit]
        logit = np.einsum("rd,rd->r", liked, self.items.factors[items]) + self.items.quality[items]
        logit -= np.float32(self.sim.position_effect) * np.log1p(rows.position).astype(np.float32)
        habit = (habits[rows.visit] == items[:, None]).any(axis=1)
        kinds = self.habits.kinds(visitors, domain)[rows.visit]
        kind = (kinds == self.items.category[items][:, None]).any(axis=1)
        logit += np.float32(self.sim.habit_strength) * habit
        logit += np.float32(self.sim.kind_strength) * kind
        return Shown(visitors[rows.visit], items, logit.astype(np.float32))

    def _calibrated(self, domain: Domain, ctr: float) -> float:
        """Return the bias with which users would click as often as is set, on the middle day."""
        visitors = np.arange(min(self.sim.users, CALIBRATION_VISITS))
        positions = np.arange(round(self.sim.per_visit))
        rows = Rows(
            np.repeat(visitors, len(positions)), np.tile(positions, len(visitors)).astype(np.int64)
        )
        rng = np.random.default_rng([self.seed, 6, DOMAINS.index(domain)])
        logit = self._shown(rng, self.sim.days // 2, visitors, domain, rows).logit.astype(
            np.float64
        )
        low, high = -30.0, 30.0
        for _ in range(40):
            middle = (low + high) / 2
            above = float((1 / (1 + np.exp(-logit - middle))).mean()) > ctr
            low, high = (low, middle) if above else (middle, high)
        return (low + high) / 2

    def _table(
        self,
        rng: np.random.Generator,
        day: int,
        visits: DayVisits,
        domain: Domain,
        rows: Rows,
        number: int,
    ) -> pa.Table:
        shown = self._shown(rng, day, visits.users, domain, rows)
        oracle = 1 / (1 + np.exp(-(shown.logit + np.float32(self.bias[domain]))))
        click = (rng.random(len(oracle), dtype=np.float32) < oracle).astype(np.int8)
        begin = time_of_day(visits.times - day)[rows.visit] * 86_400
        seconds = begin + (rows.position + rng.random(len(oracle))) * SECONDS_A_POSITION
        order = np.argsort(np.minimum(seconds, FULL_DAY), kind="stable")
        date = np.datetime64(self.sim.start + dt.timedelta(days=day), "us").astype(np.int64)
        stamps = date + (np.minimum(seconds, FULL_DAY)[order] * 1e6).astype(np.int64)
        users, items = shown.users[order], shown.items[order]
        first_id = (day * (len(DOMAINS) + 1) + number) * 10**9
        slot = np.minimum(rows.position[order], LAST_SLOT).astype(np.int8)
        offsets = pa.array(np.arange(0, 3 * len(items) + 1, 3, dtype=np.int32))
        columns = {
            "impression_id": pa.array(np.arange(first_id, first_id + len(items))),
            "user_id": pa.array(users),
            "item_id": pa.array(items.astype(np.int64)),
            "ts": pa.array(stamps).cast(pa.timestamp("us", tz="UTC")),
            "click": pa.array(click[order]),
            "age_band": pa.array(self.interests.age_band[users]),
            "city": pa.array(self.interests.city[users]),
            "category": pa.array(self.items.category[items]),
            "tags": pa.ListArray.from_arrays(offsets, pa.array(self.items.tags[items].ravel())),
            "price": pa.array(self.items.price[items]),
            "slot": pa.array(slot),
            "oracle_ctr": pa.array(oracle[order].astype(np.float32)),
        }
        return pa.table(columns)
