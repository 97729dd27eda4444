"""What a prepared day costs by how long its click histories are.

python -m benchmarks.histories            # a day of 480,000 rows: 20, 100 and 300 clicks

Per length: seconds to prepare the day (the extracts of the days before are there), bytes a row on
disk, and rows a second from Parquet to batches.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import Row, Timing, report
from benchmarks.preparation import settings
from ecdctr.config import Config
from ecdctr.examples.batches import Cut, Inputs, training_batches
from ecdctr.examples.chunks import Part
from ecdctr.examples.histories import clicks_path
from ecdctr.examples.prepare import Prepared, prepare
from ecdctr.examples.vocabulary import EMPTY, Vocabulary

LENGTHS, REPEATS = (20, 100, 300), 5


def main(*lengths: str) -> None:
    """Measure each length in turns."""
    config, day = settings(10)
    chosen = {
        length: config.model_copy(
            update={"data": config.data.model_copy(update={"history_length": length})}
        )
        for length in map(int, lengths or LENGTHS)
    }
    seconds: dict[int, dict[str, list[float]]] = {
        length: {"prepare": [], "read": []} for length in chosen
    }
    made: dict[int, Prepared] = {}
    for _ in range(REPEATS):
        for length, one in chosen.items():
            (made[length],) = prepare(one, "natural", [day])
            for path in _files(made[length]):
                path.unlink()
            began = time.perf_counter()
            prepare(one, "natural", [day])
            seconds[length]["prepare"].append(time.perf_counter() - began)
            seconds[length]["read"].append(_read(one, made[length]))
    rows = []
    for length, prepared in made.items():
        count = pq.read_metadata(prepared.path).num_rows
        size = sum(path.stat().st_size for path in _files(prepared))
        work = f"{count:,} rows, {length} clicks"
        nan = float("nan")
        preparing, reading = (Timing(seconds[length][what]) for what in ("prepare", "read"))
        rows += [
            Row(f"{work}: prepare", "–", str(preparing), "–", nan),
            Row(f"{work}: on disk", "–", f"{size / count:.0f} bytes a row", "–", nan),
            Row(f"{work}: to batches", "–", f"{count / reading.median:,.0f} rows/s", "–", nan),
        ]
    report("histories", rows)


def _files(made: Prepared) -> list[Path]:
    return [made.path, clicks_path(made.path)]


def _read(config: Config, made: Prepared) -> float:
    """Return the seconds of one reading in batches, ids looked up in vocabularies of the day."""
    inputs = Inputs.of(config, "cpm")
    table = pq.read_table(made.path, columns=[*inputs.vocabularies], partitioning=None)
    vocabularies: dict[str, Vocabulary] = {}
    for name in inputs.vocabularies:
        column = table[name].combine_chunks()
        values = column.flatten() if pa.types.is_list(column.type) else column
        vocabularies[name] = EMPTY.extended(values)
    part = Part(made.path, "natural")
    began = time.perf_counter()
    for _ in training_batches([part], inputs, vocabularies, Cut(1024, config.cpm.chunk_rows, 1)):
        pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main(*sys.argv[1:])
