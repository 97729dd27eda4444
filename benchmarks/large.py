"""TPM on the `large` world, from 2 to 97 million impressions of a million users: time and memory as they grow.

The world is the one of benchmarks/day.py; at first a minute goes into it and some into its preparation.
"""

from __future__ import annotations

import datetime as dt
import math
import shutil

from benchmarks.common import Row, report
from benchmarks.day import FOLDER, configuration, ecdctr_json
from ecdctr.config import load_config
from ecdctr.data.days import window
from ecdctr.data.prepare import prepare
from ecdctr.data.simulate import PRESETS, simulate

DAYS = (1, 5, 50)


def main() -> None:
    """One training a size, each in a process of its own; the whole is too long to repeat it."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sim = PRESETS["large"]
    if not (FOLDER / "world").exists():
        simulate(sim, 1, FOLDER / "world")
    last = sim.start + dt.timedelta(days=sim.days - 1)
    config = configuration(FOLDER / "world")
    prepare(load_config(config), "natural", window(last, max(DAYS)), basic=True)
    found = []
    for days in DAYS:
        shutil.rmtree(FOLDER / "scratch", ignore_errors=True)
        one = configuration(FOLDER / "world", tpm_days=days)
        found.append(ecdctr_json(one, "train", "tpm", "--date", str(last), store="scratch"))
    seconds = [run["samples"] / run["samples_per_second"] for run in found]
    memory = [run["peak_memory_mb"] for run in found]
    samples = [run["samples"] for run in found]
    rows = []
    for what, values, unit in (("seconds", seconds, "s"), ("peak memory", memory, "MiB")):
        exponent = math.log(values[-1] / values[-2]) / math.log(samples[-1] / samples[-2])
        shown = ", ".join(f"{value:,.0f}" for value in values) + f" {unit}"
        work = f"TPM, impressions: {', '.join(f'{count:,}' for count in samples)}"
        rows.append(Row(work, f"{what}, exponent {exponent:.2f}", shown, "linear", 1.1 / max(exponent, 0.01), 1))
    report("large", rows)


if __name__ == "__main__":
    main()
