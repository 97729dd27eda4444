"""TPM on the `large` world, from 2 to 97 million impressions of a million users.

Time and memory as they grow. The world is the one of benchmarks/day.py; at first a minute goes into
it and some into its preparation.
"""

from __future__ import annotations

import datetime as dt
import shutil

from benchmarks.common import MOST, Row, ecdctr, json_of, report, slope
from benchmarks.day import FOLDER, configuration, world
from ecdctr.config import load_config
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window
from ecdctr.worlds.named import load_world

DAYS = (1, 5, 50)


def main() -> None:
    """Train once a size, each in a process of its own.

    The whole is too long to repeat it.
    """
    sim, root = load_world("large").settings, world()
    last = sim.start + dt.timedelta(days=sim.days - 1)
    config = configuration(root)
    prepare(load_config(config), "natural", window(last, max(DAYS)), basic=True)
    results = []
    for days in DAYS:
        shutil.rmtree(FOLDER / "scratch", ignore_errors=True)
        one = configuration(root, tpm_days=days)
        results.append(
            json_of(ecdctr(one, FOLDER / "scratch", "train", "tpm", "--date", str(last)))
        )
    seconds = [run["samples"] / run["samples_per_second"] for run in results]
    memory = [run["peak_memory_mb"] for run in results]
    samples = [run["samples"] for run in results]
    rows = []
    for what, values, unit in (("seconds", seconds, "s"), ("peak memory", memory, "MiB")):
        exponent = slope(samples, values)
        shown = ", ".join(f"{value:,.0f}" for value in values) + f" {unit}"
        work = f"TPM, impressions: {', '.join(f'{count:,}' for count in samples)}"
        rows.append(
            Row(
                work,
                f"{what}, exponent {exponent:.2f}",
                shown,
                "linear",
                MOST / max(exponent, 0.01),
                1,
            )
        )
    report("large", rows)


if __name__ == "__main__":
    main()
