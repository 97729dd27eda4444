"""What users like: a lasting taste, and interests that return after their period, or never.

On day t user u likes x = lasting * b + returning_interest * m(t), both with b and m of length
    about 1, and m(t) = cos(2 pi t / P) p + sin(2 pi t / P) q   for the user's period P (a week, a
    month, a season), or m(t) = cos(a) v_k + sin(a) v_(k+1)              for users whose interests
    never return: a goes from 0 to pi / 2 during
the k-th renewal, towards a direction that was never there. Ads see rho x + sqrt(1 - rho^2) s
    with the user's own shift s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ecdctr.worlds.draws import normal, uniform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.config import Domain, Visits

CITIES = 50
PERIOD, OFFSET, DIRECTION = range(100, 103)  # what is drawn


class Interests:
    """Latent interests; every array of users is indexed by user.

    Factors are [users, latent_dim] float32.
    """

    def __init__(self, sim: Visits, seed: int) -> None:
        self.sim, self.seed = sim, seed
        rng = np.random.default_rng([seed, 2])

        def factors(rows: int) -> NDArray[np.float32]:
            scale = np.float32(1 / np.sqrt(sim.latent_dim))
            return rng.standard_normal((rows, sim.latent_dim), dtype=np.float32) * scale

        self.city = rng.integers(0, CITIES, sim.users).astype(np.int16)
        self.age_band = rng.integers(0, 7, sim.users).astype(np.int8)
        # Users of one city like alike a little, so that features help a newcomer.
        taste = factors(sim.users) + factors(CITIES)[self.city] * np.float32(0.5)
        self.lasting = np.float32(sim.lasting) * taste
        self.cosine, self.sine, self.shift = (factors(sim.users) for _ in range(3))
        self.period = self._periods()
        self.offset = uniform(seed, OFFSET, np.arange(sim.users)) * sim.renewal_days

    def _periods(self) -> NDArray[np.float64]:
        """Return each user's period in days, infinite where interests never return."""
        bounds = np.cumsum(self.sim.period_shares)
        drawn = uniform(self.seed, PERIOD, np.arange(self.sim.users))
        kind = np.searchsorted(bounds, drawn, side="right")
        periods: NDArray[np.float64] = np.array([*self.sim.periods, np.inf])[kind]
        return periods

    def on(self, day: int, users: NDArray[np.int64], domain: Domain) -> NDArray[np.float32]:
        """Return what users [n] like on a day, float32 [n, latent_dim]."""
        angle = (2 * np.pi * day / self.period[users]).astype(np.float32)[:, None]
        moving = np.cos(angle) * self.cosine[users] + np.sin(angle) * self.sine[users]
        never = np.flatnonzero(np.isinf(self.period[users]))
        moving[never] = self._passing(day, users[never])
        moving = np.float32(self.sim.returning_interest) * moving
        liked = (self.lasting[users] + moving).astype(np.float32, copy=False)
        if domain == "ads":
            rho = np.float32(self.sim.domain_correlation)
            liked = rho * liked + np.sqrt(1 - rho**2, dtype=np.float32) * self.shift[users]
        return liked

    def _passing(self, day: int, users: NDArray[np.int64]) -> NDArray[np.float32]:
        renewals = (day + self.offset[users]) / self.sim.renewal_days
        number = np.floor(renewals).astype(np.int64)
        angle = (np.pi / 2 * (renewals - number)).astype(np.float32)[:, None]
        old, new = (self._direction(users, n) for n in (number, number + 1))
        passing: NDArray[np.float32] = (np.cos(angle) * old + np.sin(angle) * new).astype(
            np.float32
        )
        return passing

    def _direction(
        self, users: NDArray[np.int64], number: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        dims = np.arange(self.sim.latent_dim)
        drawn = normal(self.seed, DIRECTION, users[:, None], number[:, None], dims)
        scale = np.float32(np.sqrt(self.sim.latent_dim))
        directions: NDArray[np.float32] = drawn.astype(np.float32) / scale
        return directions
