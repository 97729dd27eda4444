"""Figures of a study's records: one record per seed, row, day and cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Records = list[dict[str, Any]]


def mean_gauc(records: Records, metric: str = "gauc") -> dict[str, float]:
    """Return GAUC of each row, the mean over seeds; `expected_gauc` is that of held-out ads."""
    rows = dict.fromkeys(record["row"] for record in records)
    return {row: float(per_seed(records, row, metric).mean()) for row in rows}


def per_seed(records: Records, row: str, metric: str, cohort: str = "all") -> NDArray[np.float64]:
    """Return one value per seed, nan where a seed has none: [seeds]."""
    values = []
    for seed in sorted({record["seed"] for record in records}):
        of_seed = [
            record[metric]
            for record in records
            if (record["seed"], record["row"], record["cohort"]) == (seed, row, cohort)
            and record.get(metric) is not None
        ]
        values.append(np.mean(of_seed) if of_seed else np.nan)
    return np.array(values)


def price(records: Records, row: str) -> str:
    """Return the seconds that a row trains a day, all levels together; a dash where none know."""
    seconds = per_seed(records, row, "daily_seconds").mean()
    return f"{seconds:.1f} s" if np.isfinite(seconds) else "–"
