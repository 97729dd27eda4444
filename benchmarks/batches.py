"""Parquet to batches: what training reads, without training, against both ways that FuxiCTR has.

Its Parquet path goes through Ray; its default path is torch's DataLoader over an array that was
written before, which is not counted. The data is that of benchmarks/training.py, with a click
history.
"""

from __future__ import annotations

import sys

from benchmarks.common import Row, Timing, report
from benchmarks.training import HERE, REPEATS, TRAIN, install_peers, ours, run, write


def main() -> None:
    """In turns, each in a process of its own; then against the speed of training itself."""
    install_peers()
    write()
    ways = {
        "ours": ("ecdctr", "batches"),
        "Ray": ("fuxictr", "batches"),
        "DataLoader": ("fuxictr", "batches-npz"),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(REPEATS):
        for way, (who, name) in ways.items():
            measured = run(who, name)
            assert measured["rows"] == TRAIN
            rates[way].append(measured["seconds"])
            print(way, measured, file=sys.stderr)
    mine = Timing(rates["ours"])
    rows = []
    for way in ("Ray", "DataLoader"):
        theirs = Timing(rates[way])
        work = f"Parquet to batches, {TRAIN:,} rows with history"
        rows.append(
            Row(work, f"FuxiCTR by {way}", str(mine), str(theirs), theirs.median / mine.median, 10)
        )
    training = ours("din", list(HERE.values())[-1])["seconds"]
    ratio = training / mine.median
    rows.append(
        Row("the same, beside training", "its training", str(mine), f"{training:.3g} s", ratio, 1)
    )
    report("batches", rows)


if __name__ == "__main__":
    main()
