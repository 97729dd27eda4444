"""Lists of different lengths as rectangles, and seconds as buckets.

Needs numpy alone, for the scorer's sake.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

GAP_BUCKETS = 34


def pad(values: NDArray[Any], lengths: NDArray[np.int64], width: int) -> NDArray[Any]:
    """Return ragged values [sum of lengths] → [rows, width] of the same type, left-aligned, 0 pads.

    No list is longer.
    """
    padded = np.zeros((len(lengths), width), dtype=values.dtype)
    padded[np.arange(width) < lengths[:, None]] = values
    return padded


def gap_buckets(seconds: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Return seconds since a click [n] → 1 + log2 of them, at most GAP_BUCKETS - 1."""
    bucket = 1 + np.log2(1 + np.maximum(seconds, 0))
    buckets: NDArray[np.uint8] = np.minimum(bucket, GAP_BUCKETS - 1).astype(np.uint8)
    return buckets
