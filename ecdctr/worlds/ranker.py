"""What is shown of it, and where: an earlier ranker that sees a user's lasting taste through noise.

Each impression is the best of a few candidates by lasting taste, quality and noise; habits are
candidates that always win. Within a visit the better ones stand higher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Domain, Visits
    from ecdctr.worlds.habits import Habits
    from ecdctr.worlds.interests import Interests
    from ecdctr.worlds.items import Items


class Ranker:
    """The earlier ranker."""

    def __init__(self, sim: Visits, items: Items, interests: Interests, habits: Habits) -> None:
        self.sim, self.items, self.interests, self.habits = sim, items, interests, habits

    def choose(
        self,
        rng: np.random.Generator,
        day: int,
        domain: Domain,
        users: NDArray[np.int64],
        visit: NDArray[np.int64],
        habits: NDArray[np.int32],
    ) -> NDArray[np.int32]:
        """Choose items of rows [R] whose `visit` [R] ascends.

        `users` [V] and `habits` [V, habits] are those of the visits. Rows of one visit come in the
        order of their positions, and get the better items first.
        """
        rows, count = len(visit), self.sim.candidates
        alive = self.items.alive(domain, day)
        best = np.full(rows, -np.inf, dtype=np.float32)
        chosen = np.empty(rows, dtype=np.int32)
        taste = self.interests.lasting[users][visit]
        skill = np.float32(self.sim.ranker_skill)
        for _ in range(count):
            items = alive.of(rng.random(rows, dtype=np.float32))
            score = rng.random(rows, dtype=np.float32)
            score *= 3  # noise about as wide as taste
            if skill:
                liked = np.einsum("rd,rd->r", taste, self.items.factors[items])
                score += skill * (liked + self.items.quality[items])
            better = score > best
            best, chosen = np.where(better, score, best), np.where(better, items, chosen)
        self._put_habits(rng, day, domain, visit, habits, chosen)
        # One sort for all visits: the visit's number, and within it the better first
        order = np.argsort(visit + 1 / (1 + np.exp(best.astype(np.float64))), kind="stable")
        return chosen[order]

    def _put_habits(
        self,
        rng: np.random.Generator,
        day: int,
        domain: Domain,
        visit: NDArray[np.int64],
        habits: NDArray[np.int32],
        chosen: NDArray[np.int32],
    ) -> None:
        """Show one of the user's living habits in place of what was chosen, in some rows."""
        shown = np.flatnonzero(rng.random(len(visit), dtype=np.float32) < self.sim.repetition)
        slot = rng.integers(0, self.sim.habits, len(shown))
        items = habits[visit[shown], slot]
        living = self.items.living(domain, day)[items]
        chosen[shown[living]] = items[living]
