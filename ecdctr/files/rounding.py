"""What vectors in files are stored as: float32, float16, or int8 with a scale per row.

Needs numpy alone. Networks are trained and read as float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Precision = Literal["float32", "float16", "int8"]


def quantized(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Round vectors [n, w] to int8 with a scale per row [n]: symmetric, the largest is ±127."""
    import numpy as np  # the configuration, which every command reads, takes the names above alone

    largest = np.abs(vectors).max(axis=1, initial=0.0) / 127
    scales = np.nextafter(largest.astype(np.float16), np.float16(np.inf))  # never below
    divisor = scales.astype(np.float32)[:, None]
    return np.rint(vectors / divisor).astype(np.int8), scales
