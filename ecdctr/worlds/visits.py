"""When users come: visits with heavy-tailed gaps, users that arrive, leave and return.

A user's gaps are log-normal around a mean of the user's own. After each gap the user may have left:
for good, or for an absence. The n-th gap of a user depends on (seed, user, n) alone, so that the
state is two numbers a user, days can be skipped, and nothing depends on how many days are made at
once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ecdctr.worlds.draws import normal, uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Visits

RATE, FIRST, PHASE, GAP, LEAVES, RETURNS, AWAY, ARRIVES = range(8)  # what is drawn
SHORTEST = 1 / 24  # days between visits: sessions of less are one (Halfaker et al. 2015)
MONTH = 30.0


class DayVisits(NamedTuple):
    """Visits of a day in order of time.

    Users [V], days since the world began, with fractions [V].
    """

    users: NDArray[np.int64]
    times: NDArray[np.float64]


class Arrivals:
    """Every user's next visit; `day` goes forward, or starts again for an earlier day."""

    def __init__(self, sim: Visits, seed: int) -> None:
        self.sim, self.seed = sim, seed
        users = np.arange(sim.users)
        rates = np.exp(sim.activity_spread * normal(seed, RATE, users) - sim.activity_spread**2 / 2)
        self.mean_gap = MONTH / (sim.visits_per_month * rates)
        self._start()

    def _start(self) -> None:
        """Put users somewhere into a gap, longer ones more likely.

        Newcomers arrive with their first visit.
        """
        sim, users = self.sim, np.arange(self.sim.users)
        spread = sim.gap_spread
        longer = np.exp(spread * normal(self.seed, FIRST, users) + spread**2 / 2)
        arrival = uniform(self.seed, ARRIVES, users) / max(sim.new_user_share, 1e-12) * sim.days
        old = uniform(self.seed, PHASE, users) * self.mean_gap * longer
        self.next = np.where(arrival < sim.days, arrival, old)
        self.number = np.zeros(sim.users, dtype=np.int64)
        self.done = 0  # days

    def day(self, day: int) -> DayVisits:
        """Return the visits of a day."""
        if day < self.done:
            self._start()
        self._before(float(day))
        users, times = self._before(float(day + 1))
        self.done = day + 1
        order = np.lexsort((users, times))
        return DayVisits(users[order], times[order])

    def _before(self, end: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return all visits up to a time, each user's next one set behind it."""
        visits: list[tuple[NDArray[np.int64], NDArray[np.float64]]] = []
        due = np.flatnonzero(self.next < end)
        while len(due):
            visits.append((due, self.next[due]))
            self.next[due] += self._gaps(due)
            self.number[due] += 1
            due = due[self.next[due] < end]
        if not visits:
            return np.empty(0, np.int64), np.empty(0)
        return np.concatenate([users for users, _ in visits]), np.concatenate(
            [t for _, t in visits]
        )

    def _gaps(self, users: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return days until the next visit of each of these users.

        Infinite for those that left for good.
        """
        sim, keys = self.sim, (users, self.number[users])
        spread = sim.gap_spread
        gaps = np.exp(spread * normal(self.seed, GAP, *keys) - spread**2 / 2)
        gaps = np.maximum(gaps * self.mean_gap[users], SHORTEST)
        stays = np.exp(-sim.leaving_per_month * gaps / MONTH)
        left = uniform(self.seed, LEAVES, *keys) > stays
        away = sim.away_days * np.exp(normal(self.seed, AWAY, *keys))
        back = uniform(self.seed, RETURNS, *keys) < sim.returning
        result: NDArray[np.float64] = gaps + np.where(left, np.where(back, away, np.inf), 0.0)
        return result


def time_of_day(fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread even fractions of a day [n] over its hours: a quiet night and a busy evening.

    Order stays.
    """
    hours = 1.0 + 0.7 * np.sin((np.arange(24) - 13) * 2 * np.pi / 24)
    cumulative = np.concatenate([[0.0], np.cumsum(hours)]) / hours.sum()
    spread: NDArray[np.float64] = np.interp(fractions, cumulative, np.arange(25) / 24)
    return spread
