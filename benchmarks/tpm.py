"""TPM over 90 and over 180 days, and its weekly refresh: the days since, or the whole window again.

What either refresh is worth downstream is measured by the study: docs/performance.md has its
command.
"""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import yaml

from benchmarks.common import ONE_ROW, RESULTS, ROOT, Row, Timing, ecdctr, json_of, report
from ecdctr.config import load_config
from ecdctr.examples.prepare import prepare
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate

FOLDER, REPEATS = RESULTS / "tpm", 5
DAYS = (90, 180)


def configuration(window: int, refresh: str) -> Path:
    """Return the demo's with another window."""
    raw = yaml.safe_load((ROOT / "configs" / "daily.yaml").read_text())
    raw["data"] |= {"root": str(FOLDER / "world"), "prepared": str(FOLDER / "prepared")}
    raw |= {"tpm": {"window_days": window, "refresh": refresh}} | ONE_ROW
    path = FOLDER / f"{refresh}-{window}.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def train(config: Path, date: dt.date, store: str) -> dict[str, float]:
    """Train in a process of its own; what it says of itself."""
    return json_of(ecdctr(config, FOLDER / store, "train", "tpm", "--date", str(date), "--force"))


def seconds(runs: list[dict[str, float]]) -> Timing:
    """Return of training itself."""
    return Timing([run["samples"] / run["samples_per_second"] for run in runs])


def main() -> None:
    """180 days of the world `daily`; every comparison in turns."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    sim = load_world("daily").settings.model_copy(update={"days": max(DAYS) + 1})
    simulate(sim, 1, FOLDER / "world")
    last = sim.start + dt.timedelta(days=max(DAYS) - 1)
    everything = [last - dt.timedelta(days=back) for back in range(max(DAYS))]
    prepare(load_config(configuration(max(DAYS), "window")), "natural", everything, basic=True)

    runs: dict[int, list[dict[str, float]]] = {days: [] for days in DAYS}
    for _ in range(REPEATS):
        for days in DAYS:
            shutil.rmtree(FOLDER / "scratch", ignore_errors=True)
            runs[days].append(train(configuration(days, "window"), last, "scratch"))
    short, long = (seconds(runs[days]) for days in DAYS)
    memory = [max(run["peak_memory_mb"] for run in runs[days]) for days in DAYS]
    growth = long.median / short.median
    rows = [
        Row("TPM, 180 days", "90 days", str(long), str(short), 2.1 / growth, 1),
        Row(
            "its peak memory",
            "90 days",
            f"{memory[1]:.0f} MiB",
            f"{memory[0]:.0f} MiB",
            memory[0] / memory[1],
            0.95,
        ),
    ]

    week_before = last - dt.timedelta(days=7)
    kinds = ("incremental", "window")
    refreshes: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for kind in kinds:
        shutil.rmtree(FOLDER / kind, ignore_errors=True)
        train(configuration(84, kind), week_before, kind)
    for _ in range(REPEATS):
        for kind in kinds:
            refreshes[kind].append(train(configuration(84, kind), last, kind))
    part, whole = (seconds(refreshes[kind]) for kind in kinds)
    ratio = whole.median / part.median
    rows.append(
        Row(
            "weekly refresh, incremental",
            "whole window of 84 days",
            str(part),
            str(whole),
            ratio,
            10,
        )
    )
    report("tpm", rows)


if __name__ == "__main__":
    main()
