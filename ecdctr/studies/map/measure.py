"""Measure the cells of a map one after another.

Every row, floors included, by true probabilities of held-out ads. A cell's result is a small file;
worlds, prepared data and weights of a cell are removed when it is written. A killed map goes on
with the first cell that has no result, and inside it where the study was.
"""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecdctr.config import digest
from ecdctr.config.terms import FULL
from ecdctr.errors import ConfigError, EcdctrError, first_line
from ecdctr.files import durable
from ecdctr.impressions.statistics import measure as measure_log
from ecdctr.studies.ablation.plan import Study
from ecdctr.studies.ablation.power import ahead
from ecdctr.studies.ablation.records import per_seed
from ecdctr.studies.ablation.study import measuring_code, run_study
from ecdctr.studies.ablation.worth import FLOOR, WORTH, parts_of
from ecdctr.studies.floors import FLOORS

if TYPE_CHECKING:
    from ecdctr.levels.request import Reporter
    from ecdctr.worlds.named import NamedWorld

ROWS = ("ads_only", "no_tpm", "memory", "vectors", FULL, "paper")
Result = dict[str, Any]


@dataclass(frozen=True)
class MapStudy:
    """How every cell is measured; `work` keeps the results."""

    config_path: Path
    seeds: tuple[int, ...]
    eval_days: int
    chain_days: int
    work: Path
    rows: tuple[str, ...] = ROWS

    def result_path(self, world: NamedWorld) -> Path:
        """Return where a cell's result lies.

        Its name says the world, the settings, the design and the code that measures.
        """
        settings = [self.rows, self.config_path.read_text("utf-8"), measuring_code()]
        design = digest([self.seeds, self.eval_days, self.chain_days, *settings])
        return self.work / "cells" / f"{world.name}-{design[:8]}.json"

    def study(self, world: NamedWorld) -> Study:
        """Return the ablation of a cell."""
        folder = self.work / world.name
        return Study(
            self.config_path, world, self.seeds, self.rows, self.eval_days, folder, self.chain_days
        )


def run_map(
    study: MapStudy,
    worlds: list[NamedWorld],
    workers: int,
    reporter: Reporter,
    until: dt.datetime | None = None,
    on_cell: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Measure the cells that have no result yet.

    Returns all results that there are, in their order. No cell begins after `until`. Raises
    ConfigError for rows that tell of no part.
    """
    _refuse_no_part(study.rows)
    for world in worlds:
        path = study.result_path(world)
        if path.exists() or (until and dt.datetime.now(dt.UTC) > until):
            continue
        result = _measure(study, world, workers, reporter)
        durable.replace_text(path, json.dumps(result, indent=1))
        shutil.rmtree(study.study(world).work)
        if on_cell:
            on_cell(result)
    return load_results([study.result_path(world) for world in worlds])


def _refuse_no_part(rows: tuple[str, ...]) -> None:
    if not parts_of(rows):
        pairs = "; ".join(f"{part}: {', '.join(pair)}" for part, pair in WORTH.items())
        raise ConfigError(
            f"--rows {','.join(rows)} tells the worth of no part; expected both rows of one "
            f"({pairs})."
        )


def load_results(paths: list[Path]) -> list[Result]:
    """Return the results that there are; raises EcdctrError that names a damaged one."""
    return [_read(path) for path in paths if path.exists()]


def _read(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_bytes())
        _ = result["world"]
    except (ValueError, KeyError, TypeError) as error:
        raise EcdctrError(
            f"{path} is damaged ({first_line(error)}); remove it, and its cell is measured again."
        ) from None
    return result


def _measure(study: MapStudy, world: NamedWorld, workers: int, reporter: Reporter) -> Result:
    ablation = study.study(world)
    records, users = run_study(ablation, workers, reporter)
    judged = [record for record in records if record.get("expected_gauc") is not None]
    names = list(dict.fromkeys(record["row"] for record in judged))
    metrics = ("expected_gauc", "expected_log_loss", "gauc", "daily_samples")
    rows = {
        row: {metric: float(per_seed(judged, row, metric).mean()) for metric in metrics}
        for row in names
    }
    best_floor = max(FLOORS, key=lambda row: rows[row]["expected_gauc"])
    worth, by_seed = {}, {}
    for part, (first, second) in parts_of(study.rows).items():
        other = best_floor if second == FLOOR else second
        one = ahead(users, first, other)
        worth[part] = {"difference": one.difference, "error": one.error}
        by_seed[part] = [
            ahead([r for r in users if r["seed"] == seed], first, other).difference
            for seed in study.seeds
        ]
    drawn = {r["date"] for r in judged}
    return {
        "name": world.name,
        "world": world.settings.model_dump(mode="json"),
        "statistics": measure_log(ablation.config(study.seeds[0]))._asdict(),
        "seeds": list(study.seeds),
        "days": len(drawn),
        "held_out": sum(r["expected_impressions"] for r in judged if r["row"] == names[0]),
        "code": judged[0]["code"],
        "best_floor": best_floor,
        "rows": rows,
        "worth": worth,
        "by_seed": by_seed,
    }
