"""The bootstrap over users: each is drawn whole, with all days, since these are not independent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWN_AT_ONCE = 4_000_000  # draws in memory; 32 MB


def drawn_sums(
    of_users: NDArray[np.float64], samples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return sums [samples, columns] over users [users, columns] drawn Poisson(1) times each.

    The bootstrap of large samples (Hanley and MacGibbon 2006); memory does not grow with users.
    """
    step = max(DRAWN_AT_ONCE // max(len(of_users), 1), 1)
    parts = [
        rng.poisson(1.0, (min(step, samples - start), len(of_users))) @ of_users
        for start in range(0, samples, step)
    ]
    return np.concatenate(parts)
