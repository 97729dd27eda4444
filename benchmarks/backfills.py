"""The study of docs/forgetting.md through Airflow's backfills, beside the same without Airflow.

python -m benchmarks.backfills [DAYS] [ROWS]     # 30 days of no_tpm,full by default, an hour

On one world: `run_forgetting` trains the rows in processes, as `./run forgetting` does; then an
Airflow of its own runs ecdctr_tpm for the same weeks and ecdctr_forgetting for the same days. Both
ways must lead to the same matrices, cell by cell.
"""

from __future__ import annotations

import shutil
import sys

import numpy as np
import yaml

from benchmarks.common import RESULTS, ROOT
from ecdctr.airflow.standalone import Airflow, free_port
from ecdctr.config import load_config
from ecdctr.config.terms import DEFAULT, FULL, dag_of
from ecdctr.console import Bars
from ecdctr.demo.run import SLOTS
from ecdctr.store.places import experiment_of
from ecdctr.store.store import Store
from ecdctr.studies.ablation.plan import Study
from ecdctr.studies.forgetting.basis import row_bases
from ecdctr.studies.forgetting.measures import Matrix
from ecdctr.studies.forgetting.study import collect, run_forgetting
from ecdctr.worlds.named import load_world

HOME, CONFIG = RESULTS / "backfills", ROOT / "configs" / "forgetting.yaml"
ROWS, SEED, EVERY, DAYS = ("no_tpm", FULL), 1, 2, 30
NAME = "backfills"
PATIENCE = 6 * 3600.0  # seconds


def without_airflow(days: int, rows: tuple[str, ...]) -> tuple[Study, dict[str, Matrix]]:
    """Train the rows in processes; what a run before this one has trained is used again."""
    world = load_world("forgetting")
    study = Study(
        CONFIG, world, (SEED,), rows, days, HOME / "processes", chain_days=0, hold_out_every=EVERY
    )
    bars = Bars()
    try:
        matrices, failed = run_forgetting(study, SLOTS, bars)
    finally:
        bars.close()
    assert not failed, failed  # a measurement, not a command
    return study, matrices


def through_airflow(study: Study) -> dict[str, Matrix]:
    """Run the weeks of TPM and the study in an Airflow whose store is empty."""
    place, store = HOME / "config.yaml", Store(HOME / "store")
    raw = yaml.safe_load(CONFIG.read_text("utf-8"))
    data = study.config(SEED).data
    raw["data"] |= {"root": str(data.root), "prepared": str(data.prepared)}
    place.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")
    config, dates = load_config(place), study.dates(SEED)
    airflow = Airflow(HOME / "airflow", place, store.root, free_port(), scheduled=False, warm=True)
    airflow.kill()  # what a run that was killed has left
    for folder in (store.root, airflow.home):
        shutil.rmtree(folder, ignore_errors=True)
    with airflow.running():
        airflow.api.pool(config.airflow.pool, SLOTS)
        airflow.wait_for_dags("tpm", "cpm", "actr", "forgetting")
        for date in sorted({date for row in study.rows for date in study.tpm_dates(SEED, row)}):
            _finish(airflow, "tpm", f"tpm-{date}", {"data_date": str(date)})
        form = {"study": NAME, "from_date": str(dates[0]), "to_date": str(dates[-1])}
        variants = [DEFAULT if row == FULL else row for row in study.rows]
        form |= {"variants": variants, "seeds": str(SEED), "hold_out_every": EVERY}
        _finish(airflow, "forgetting", NAME, form)
    experiments = {name: [experiment_of(NAME, name, SEED)] for name in variants}
    matrices, failed = collect(store, experiments, row_bases(config, variants, dates, EVERY))
    assert not failed, failed  # a measurement, not a command
    return dict(zip(study.rows, matrices.values(), strict=True))


def _finish(airflow: Airflow, name: str, run: str, conf: dict[str, object]) -> None:
    airflow.api.trigger(dag_of(name), run, conf)
    state = airflow.wait_for_run(dag_of(name), run, PATIENCE)
    print(f"{dag_of(name)} {run}: {state}", flush=True)


def main() -> None:
    """Run both and compare; ends with 1 if a cell differs."""
    days = int(sys.argv[1]) if len(sys.argv) > 1 else DAYS
    rows = tuple(sys.argv[2].split(",")) if len(sys.argv) > 2 else ROWS
    study, here = without_airflow(days, rows)
    there = through_airflow(study)
    differ = 0
    for row in study.rows:
        apart = np.abs(here[row].r - there[row].r)
        other = np.count_nonzero(apart)
        differ += other
        print(f"{row}: {other} of {apart.size} cells differ, by {apart.max():.2g} of GAUC at most")
    sys.exit(int(differ > 0))  # numpy's own truth is no exit code


if __name__ == "__main__":
    main()
