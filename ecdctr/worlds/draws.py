"""Random numbers that depend on their keys alone, so that nobody need draw them in an order.

The generator is counter-based (splitmix64).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix bits as Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators".

    The finaliser of SplitMix64.
    """
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def uniform(*keys: int | NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers in (0, 1) for keys [n] or scalars, broadcast against each other.

    Equal keys give equal numbers.
    """
    bits = np.zeros((), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            bits = _mixed((bits + np.asarray(key).astype(np.uint64) + np.uint64(1)) * GOLDEN)
    numbers: NDArray[np.float64] = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return numbers


def normal(*keys: int | NDArray[Any]) -> NDArray[np.float64]:
    """Draw standard normal numbers for keys [n] or scalars (Box-Muller)."""
    radius = np.sqrt(-2 * np.log(uniform(0, *keys)))
    numbers: NDArray[np.float64] = radius * np.cos(2 * np.pi * uniform(1, *keys))
    return numbers


class Weighted:
    """Draws of candidates with weights through a table of quantiles: one gather a draw.

    The table has 2^16 steps, or at least eight for each candidate, so that the tail is not cut off.
    """

    def __init__(self, candidates: NDArray[np.int32], weights: NDArray[np.float64]) -> None:
        cumulative = np.cumsum(weights)
        self.steps = 1 << max(16, min(24, (8 * len(candidates)).bit_length()))
        steps = (np.arange(self.steps) + 0.5) * (cumulative[-1] / self.steps)
        self.table = candidates[np.searchsorted(cumulative, steps)].astype(np.int32)

    def of(self, quantiles: NDArray[np.floating]) -> NDArray[np.int32]:
        """Return the candidates at numbers of [0, 1), of any shape → the same."""
        drawn: NDArray[np.int32] = self.table[(quantiles * self.steps).astype(np.int32)]
        return drawn
