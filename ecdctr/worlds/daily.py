"""A two-domain world that draws the user of each impression anew, with known click probabilities.

User u on day t has the latent interest x_u(t) = b_u + recurring * (cos(w t) p_u + sin(w t) q_u)
    + drift * sin(2 pi t / 180 + phase_u) r_u,
with w = 2 pi / recurrence_days. Natural clicks follow x_u(t) . y_i for item factors y_i around
    category centres; ads
clicks follow (rho x_u(t) + sqrt(1 - rho^2) s_u) . y_i with the user's own shift s_u and rho =
    domain_correlation.
A day is a closed-form function of (seed, day): days are written one by one, in any order, and
    memory does not grow.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from ecdctr.config import DOMAINS, Domain, Simulation
from ecdctr.worlds.items import CATEGORIES, TAGS

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOTS = 4
SLOT_EFFECT = np.array([0.35, 0.1, -0.1, -0.3], dtype=np.float32)


@dataclass(frozen=True)
class World:
    """Everything that does not change from day to day.

    Factors are [users or items, latent_dim] float32.
    """

    base: NDArray[np.float32]
    cosine: NDArray[np.float32]
    sine: NDArray[np.float32]
    drift: NDArray[np.float32]
    phase: NDArray[np.float32]
    shift: NDArray[np.float32]
    user_arrival: NDArray[np.int32]
    activity: NDArray[np.float64]
    age_band: NDArray[np.int8]
    city: NDArray[np.int16]
    items: NDArray[np.float32]
    quality: NDArray[np.float32]
    category: NDArray[np.int16]
    tags: NDArray[np.int16]
    price: NDArray[np.float32]
    popularity: NDArray[np.float64]
    item_arrival: NDArray[np.int32]
    item_end: NDArray[np.int32]
    pools: dict[Domain, NDArray[np.int64]]


def make_world(sim: Simulation, seed: int) -> World:
    """Draw the constant part of the world."""
    rng = np.random.default_rng([seed, 0])
    dim, users, items = sim.latent_dim, sim.users, sim.natural_items + sim.ad_items // 2

    def factors(rows: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, dim), dtype=np.float32) / np.float32(np.sqrt(dim))

    base, cosine, sine, drift, shift = (factors(users) for _ in range(5))
    centres = factors(CATEGORIES) * np.float32(1.2)
    category = rng.integers(0, CATEGORIES, items).astype(np.int16)
    item_factors = (centres[category] + factors(items)) * np.float32(np.sqrt(dim))
    tags = np.sort(
        np.stack([category * 2, category * 2 + 1, rng.integers(0, TAGS, items)], axis=1), axis=1
    )
    # Users of one city like alike a little, so that features help a newcomer.
    city = rng.integers(0, 50, users).astype(np.int16)
    base += factors(50)[city] * np.float32(0.5)

    newcomers = rng.random(users) < sim.new_user_share
    user_arrival = np.where(newcomers, rng.integers(1, max(2, sim.days), users), 0).astype(np.int32)
    # Half of the items are there from the beginning; the rest arrive through the days and stay for
    # eight weeks or more.
    item_arrival = np.where(
        rng.random(items) < 0.5, 0, rng.integers(1, max(2, sim.days), items)
    ).astype(np.int32)
    item_end = (item_arrival + rng.integers(56, 400, items)).astype(np.int32)
    item_arrival[:2], item_end[:2] = 0, 10**6
    item_arrival[-2:], item_end[-2:] = 0, 10**6

    # Half of the ad items are promoted natural items, so an item id can be seen in both domains.
    shared = np.arange(sim.natural_items - (sim.ad_items - sim.ad_items // 2), sim.natural_items)
    ads_only = np.arange(sim.natural_items, items)
    return World(
        base, cosine, sine, drift,
        rng.uniform(0, 2 * np.pi, users).astype(np.float32),
        shift, user_arrival,
        rng.lognormal(0.0, 1.0, users),
        rng.integers(0, 7, users).astype(np.int8),
        city, item_factors,
        (0.4 * rng.standard_normal(items)).astype(np.float32),
        category, tags.astype(np.int16),
        np.exp(rng.normal(3.0, 1.0, items)).astype(np.float32),
        np.power(10.0 + rng.permutation(items), -0.8, dtype=np.float64),
        item_arrival, item_end,
        {"natural": np.arange(sim.natural_items), "ads": np.concatenate([shared, ads_only])},
    )  # fmt: skip


def make_day(sim: Simulation, world: World, seed: int, day: int, domain: Domain) -> pa.Table:
    """Return the impressions of one day of one domain, in order of time."""
    rng = np.random.default_rng([seed, 1 + day, DOMAINS.index(domain)])
    rows = sim.natural_per_day if domain == "natural" else sim.ads_per_day
    date = sim.start + dt.timedelta(days=day)

    users = _draw(rng, np.flatnonzero(world.user_arrival <= day), world.activity, rows)
    pool = world.pools[domain]
    pool = pool[(world.item_arrival[pool] <= day) & (day < world.item_end[pool])]
    items = _draw(rng, pool, world.popularity, rows)
    seconds = _times_of_day(rng, rows)
    slot = rng.integers(0, SLOTS, rows, dtype=np.int8)

    angle = np.float32(2 * np.pi * day / sim.recurrence_days)
    interest = world.base + np.float32(sim.recurring) * (
        np.cos(angle) * world.cosine + np.sin(angle) * world.sine
    )
    interest += (np.float32(sim.drift) * np.sin(np.float32(2 * np.pi * day / 180) + world.phase))[
        :, None
    ] * world.drift
    if domain == "ads":
        rho = np.float32(sim.domain_correlation)
        interest = rho * interest + np.sqrt(1 - rho**2) * world.shift
    affinity = np.einsum("rd,rd->r", interest[users], world.items[items])
    evening = 0.15 * np.sin(
        seconds.astype(np.float32) / np.float32(86_400 / (2 * np.pi)) - np.float32(2.6)
    )
    bias = np.float32(np.log(sim.ctr / (1 - sim.ctr)) - (1.1 if domain == "natural" else 1.4))
    logit = bias + affinity + world.quality[items] + SLOT_EFFECT[slot] + evening
    oracle = (1 / (1 + np.exp(-logit))).astype(np.float32)
    click = (rng.random(rows, dtype=np.float32) < oracle).astype(np.int8)

    microseconds = np.datetime64(date, "us").astype(np.int64) + (seconds * 1e6).astype(np.int64)
    first_id = (day * len(DOMAINS) + DOMAINS.index(domain)) * 10**9
    tag_values = pa.array(world.tags[items].ravel())
    offsets = pa.array(np.arange(0, 3 * rows + 1, 3, dtype=np.int32))
    columns = {
        "impression_id": pa.array(np.arange(first_id, first_id + rows)),
        "user_id": pa.array(users.astype(np.int64)),
        "item_id": pa.array(items.astype(np.int64)),
        "ts": pa.array(microseconds).cast(pa.timestamp("us", tz="UTC")),
        "click": pa.array(click),
        "age_band": pa.array(world.age_band[users]),
        "city": pa.array(world.city[users]),
        "category": pa.array(world.category[items]),
        "tags": pa.ListArray.from_arrays(offsets, tag_values),
        "price": pa.array(world.price[items]),
        "slot": pa.array(slot),
        "oracle_ctr": pa.array(oracle),
    }
    return pa.table(columns)


def _draw(
    rng: np.random.Generator, candidates: NDArray[np.int64], weights: NDArray[np.float64], rows: int
) -> NDArray[np.int64]:
    """Draw candidates with the given weights through a table of quantiles.

    It costs one gather a row, from a table of 2^20 steps.
    """
    cumulative = np.cumsum(weights[candidates])
    steps = (np.arange(1 << 20) + 0.5) * (cumulative[-1] / (1 << 20))
    table = candidates[np.searchsorted(cumulative, steps)].astype(np.int32)
    drawn: NDArray[np.int64] = table[rng.integers(0, 1 << 20, rows, dtype=np.int32)].astype(
        np.int64
    )
    return drawn


def _times_of_day(rng: np.random.Generator, rows: int) -> NDArray[np.float64]:
    """Return sorted seconds of the day with a quiet night and a busy evening."""
    hours = 1.0 + 0.7 * np.sin((np.arange(24) - 13) * 2 * np.pi / 24)
    counts = rng.multinomial(rows, hours / hours.sum())
    seconds = np.repeat(np.arange(24) * 3600.0, counts) + rng.random(rows) * 3599.99
    seconds.sort()
    return seconds


class Daily:
    """The world as `simulate` writes it."""

    def __init__(self, sim: Simulation, seed: int) -> None:
        self.sim, self.seed = sim, seed
        self.world = make_world(sim, seed)

    def tables(self, day: int) -> dict[str, pa.Table]:
        """Return impressions of a day by domain."""
        return {name: make_day(self.sim, self.world, self.seed, day, name) for name in DOMAINS}
