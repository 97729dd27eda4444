"""What an afternoon's work reaches, beside the experiments of the demo's report."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import numpy as np

from ecdctr.demo.page import Row
from ecdctr.errors import StoreError
from ecdctr.evaluation.stored import judged_on, other_impressions
from ecdctr.store.manifest import Ref
from ecdctr.studies.floors import quick_floors, require_boosting

if TYPE_CHECKING:
    from ecdctr.config import Config
    from ecdctr.store.store import Store


def best_floor(config: Config, store: Store, rows: list[Row]) -> list[Row]:
    """Evaluate the quick floors on the days of the experiments; return the rows of the best one.

    Best by mean GAUC. Raises ConfigError without scikit-learn, StoreError where ads are missing or
    have been delivered again since an experiment was evaluated.
    """
    require_boosting()
    judged = {row.date: Ref.parse(row.version) for row in rows}
    floors: dict[str, list[Row]] = {}
    for day, ref in sorted(judged.items()):
        date = dt.date.fromisoformat(day)
        for floor in quick_floors(config, date - dt.timedelta(days=1)):
            if floor.judged_on != judged_on(store, ref, date):
                raise StoreError(other_impressions(date, ref, f"the floor '{floor.name}'"))
            floors.setdefault(floor.name, []).append(Row(floor.name, day, "", floor.metrics, []))
    return max(floors.values(), key=_mean_gauc)


def _mean_gauc(rows: list[Row]) -> float:
    return float(np.mean([row.metrics["all"].get("gauc", 0.0) for row in rows]))
