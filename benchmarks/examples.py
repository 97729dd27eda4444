"""Made-up rows in the form that preparation writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecdctr.examples.histories import clicks_path

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def write_examples(
    path: Path, columns: dict[str, Any], clicked: NDArray[np.int64], lengths: NDArray[np.int64]
) -> None:
    """Write rows [n] in the prepared form, and the clicks of each, one after another, beside them.

    No row shares its clicks with another. All rows are of one instant, the clicks of an hour
    before.
    """
    moment, hour = pa.timestamp("us", tz="UTC"), 3_600_000_000
    stored = {
        "ts": pa.array(np.full(len(lengths), 24 * hour), moment),
        "history_start": (np.cumsum(lengths) - lengths).astype(np.int32),
        "history_length": lengths.astype(np.int32),
    }
    pq.write_table(pa.table({**columns, **stored}), path, compression="zstd")
    clicks = {"item_id": clicked, "ts": pa.array(np.full(len(clicked), 23 * hour), moment)}
    pq.write_table(pa.table(clicks), clicks_path(path), compression="zstd")
