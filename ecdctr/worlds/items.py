"""What there is to show: items that are born, live and die.

Natural content for days, ads for weeks. Ids never come again. Some ads are items of natural
content, with the same id and factors in both domains.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ecdctr.worlds.draws import Weighted

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Domain, Visits

CATEGORIES = 24
TAGS = 60


class Lives(NamedTuple):
    """A domain's entries by birth: item ids, first day and the day after the last, weight in draws.

    Each [N].
    """

    items: NDArray[np.int32]
    born: NDArray[np.float64]
    dies: NDArray[np.float64]
    weight: NDArray[np.float64]

    def on(self, day: int) -> NDArray[np.int64]:
        """Return the entries [n] that can be shown on a day."""
        return np.flatnonzero((self.born <= day) & (self.dies > day))


class Items:
    """All items of a world; what describes an item is indexed by its id."""

    def __init__(self, sim: Visits, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        natural = _lives(rng, sim.natural_items, sim.natural_life_days, sim)
        ads = _lives(rng, sim.ad_items, sim.ad_life_days, sim)
        ids = len(natural[0]) + np.arange(len(ads[0]))
        promoted = rng.random(len(ads[0])) < sim.promoted_share
        # What is promoted was born not long before the ad was, or is of the first days' content
        older = np.searchsorted(natural[0], np.maximum(ads[0], 0.0))
        back = rng.random(len(ads[0])) * np.minimum(older, sim.natural_items)
        ids = np.where(promoted, older - 1 - back.astype(np.int64), ids)
        self.lives: dict[Domain, Lives] = {
            "natural": Lives(np.arange(len(natural[0]), dtype=np.int32), *natural),
            "ads": Lives(ids.astype(np.int32), *ads),
        }
        count, dim = len(natural[0]) + len(ads[0]), sim.latent_dim
        self.category = rng.integers(0, CATEGORIES, count).astype(np.int16)
        centres = rng.standard_normal((CATEGORIES, dim), dtype=np.float32) * np.float32(1.2)
        self.factors = centres[self.category] + rng.standard_normal((count, dim), dtype=np.float32)
        self.quality = (0.4 * rng.standard_normal(count)).astype(np.float32)
        self.price = np.exp(rng.normal(3.0, 1.0, count)).astype(np.float32)
        third = rng.integers(0, TAGS, count)
        self.tags = np.sort(
            np.stack([self.category * 2, self.category * 2 + 1, third], axis=1), axis=1
        ).astype(np.int16)
        self._alive: dict[tuple[Domain, int], Weighted] = {}

    def alive(self, domain: Domain, day: int) -> Weighted:
        """Return draws from what a domain can show on a day; the last days asked for are kept."""
        key = (domain, day)
        if key not in self._alive:
            if len(self._alive) >= 64:
                self._alive.pop(next(iter(self._alive)))
            lives = self.lives[domain]
            entries = lives.on(day)
            self._alive[key] = Weighted(lives.items[entries], lives.weight[entries])
        return self._alive[key]

    def living(self, domain: Domain, day: int) -> NDArray[np.bool_]:
        """Tell by item id [items] whether a domain can show it on a day."""
        living = np.zeros(len(self.category), dtype=bool)
        living[self.lives[domain].items[self.lives[domain].on(day)]] = True
        return living


def _lives(
    rng: np.random.Generator, alive: int, median: float, sim: Visits
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Draw birth, end and weight of as many items as keep about `alive` of them alive on every day.

    Oldest first.
    """
    mean = median * np.exp(sim.life_spread**2 / 2)
    before = 4 * mean  # older ones are dead, all but a few
    count = round(alive * (before + sim.days) / mean)
    born = np.sort(rng.uniform(-before, sim.days, count))
    dies = born + median * np.exp(sim.life_spread * rng.standard_normal(count))
    # Ranks of one list for all: whenever an item lives, it is among the popular ones or it is not
    weight = np.power(10.0 + rng.permutation(count) * (alive / count), -sim.popularity_exponent)
    born[:2], dies[:2] = -before, np.inf  # a domain is never empty
    kept = dies > 0
    return born[kept], dies[kept], weight[kept]
