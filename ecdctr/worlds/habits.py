"""What is clicked again for no reason that users share: items, and kinds of items.

A habit is an item drawn for a user and a stretch of days from what was alive at its beginning; it
is over with the stretch, or when the item dies. As many habits of natural content as
domain_correlation says are those of the ads, where an ad is an item of natural content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ecdctr.worlds.draws import uniform
from ecdctr.worlds.items import CATEGORIES, Items

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Domain, Visits

HABIT, SHARED, PRIVATE, KIND = range(200, 204)  # what is drawn
KINDS = 2


class Habits:
    """Habits of users on a day."""

    def __init__(self, sim: Visits, seed: int, items: Items) -> None:
        self.sim, self.seed, self.items = sim, seed, items

    def on(self, day: int, users: NDArray[np.int64], domain: Domain) -> NDArray[np.int32]:
        """Return items [users, habits]; those that are dead on the day are never shown."""
        sim = self.sim
        columns = []
        for slot in range(sim.habits):
            # Slots change one after another, so that habits do not all end on one day
            stretch = int((day + slot * sim.habit_days / sim.habits) // sim.habit_days)
            begin = max(0, round((stretch - slot / sim.habits) * sim.habit_days))
            chosen = self._drawn("ads", begin, users, slot, stretch)
            if domain == "natural":
                shared = uniform(self.seed, SHARED, users, slot) < sim.domain_correlation
                private = self._drawn("natural", begin, users, slot, stretch)
                there = self.items.living("natural", begin)[chosen]
                chosen = np.where(shared & there, chosen, private)
            columns.append(chosen)
        return np.stack(columns, axis=1)

    def _drawn(
        self, domain: Domain, begin: int, users: NDArray[np.int64], slot: int, stretch: int
    ) -> NDArray[np.int32]:
        what = HABIT if domain == "ads" else PRIVATE
        return self.items.alive(domain, begin).of(uniform(self.seed, what, users, slot, stretch))

    def kinds(self, users: NDArray[np.int64], domain: Domain) -> NDArray[np.int16]:
        """Return the categories [users, KINDS] that a user comes back to."""
        columns = []
        for slot in range(KINDS):
            mine = uniform(self.seed, KIND, users, slot, 0)
            if domain == "ads":
                shared = uniform(self.seed, SHARED, users, 1000 + slot)
                other = uniform(self.seed, KIND, users, slot, 1)
                mine = np.where(shared < self.sim.domain_correlation, mine, other)
            columns.append((mine * CATEGORIES).astype(np.int16))
        return np.stack(columns, axis=1)
