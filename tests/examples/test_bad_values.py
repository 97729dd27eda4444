"""What training would refuse, validation names first.

Any numbers, unsigned ids, conflicting doubles, in any mixture.
"""

from __future__ import annotations

import datetime as dt
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ecdctr.config import Config
from ecdctr.errors import ContractError
from ecdctr.examples.batches import Inputs, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import EMPTY, distinct
from ecdctr.files import duck
from ecdctr.impressions.contract import validate

DATE = dt.date(2026, 1, 5)
MIDNIGHT = dt.datetime.combine(DATE, dt.time(), dt.UTC)
FEATURES = [
    {"name": "kind", "side": "item", "kind": "categorical"},
    {"name": "price", "side": "item", "kind": "numeric", "transform": "log1p"},
    {"name": "score", "side": "item", "kind": "numeric"},
]
FLOAT32_MAX = float(np.finfo(np.float32).max)
NUMBERS = st.none() | st.floats() | st.sampled_from([math.nan, FLOAT32_MAX, 3.5e38, -1e39])
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "user_id": st.integers(0, 2),
            "item_id": st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]),
            "second": st.integers(0, 2),
            "click": st.integers(0, 1),
            "kind": st.none() | st.sampled_from([0, 7, 2**63 - 1, 2**63]),
            "price": NUMBERS,
            "score": NUMBERS,
        }
    ),
    min_size=1,
    max_size=12,
)


def fits(row: dict[str, Any]) -> bool:
    """By the sentences of the contract, not by its code."""
    numbers = [row[name] for name in ("price", "score") if row[name] is not None]
    small = all(math.isnan(x) or abs(x) <= FLOAT32_MAX for x in numbers)  # NaN counts as null
    return small and all(row[n] is None or row[n] < 2**63 for n in ("item_id", "kind"))


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True)
    moments = [MIDNIGHT + dt.timedelta(seconds=row["second"]) for row in rows]
    columns = {
        "user_id": pa.array([row["user_id"] for row in rows], pa.int64()),
        "item_id": pa.array([row["item_id"] for row in rows], pa.uint64()),
        "ts": pa.array(moments, pa.timestamp("us", tz="UTC")),
        "click": pa.array([row["click"] for row in rows], pa.int8()),
        "kind": pa.array([row["kind"] for row in rows], pa.uint64()),
        "price": pa.array([row["price"] for row in rows], pa.float64()),
        "score": pa.array([row["score"] for row in rows], pa.float64()),
    }
    pq.write_table(pa.table(columns), folder / "part-0.parquet")


def trainable(config: Config) -> list[dict[str, Any]]:
    """Return the prepared rows.

    Once they have been through all that training does before the network.
    """
    (day,) = prepare(config, "ads", [DATE])
    (table,) = read_chunks([Part(day.path, "ads")], None, 1000)
    inputs = Inputs.of(config, "actr")
    with duck.connect() as connection:
        vocabularies = {
            name: EMPTY.extended(distinct(connection, [day.path], name, False))
            for name in inputs.vocabularies
        }
    assert np.isfinite(encode(table, inputs, vocabularies).numeric.numpy()).all()
    return table.to_pylist()


def row_of(**values: Any) -> dict[str, Any]:
    return dict.fromkeys(("user_id", "item_id", "second", "click"), 0) | {
        "kind": None, "price": None, "score": None, **values,
    }  # fmt: skip


@settings(max_examples=60)
@given(ROWS)
# what a file's statistics say beside not-a-number is not so of it
@example([row_of(price=float("nan")), row_of(item_id=2**64 - 1), row_of(price=-1.4e177)])
def test_a_day_trains_or_validation_has_named_column_file_and_rows_and_quarantine_mends_it(rows):
    good = [row for row in rows if fits(row)]
    keys = [(row["user_id"], row["item_id"], row["second"]) for row in good]
    kept: dict[tuple[int, int, int], int] = {}
    for key, row in zip(keys, good, strict=True):
        kept[key] = max(kept.get(key, 0), row["click"])  # of doubles a click stays
    with tempfile.TemporaryDirectory() as name:
        write(Path(name) / "log" / "domain=ads" / f"date={DATE}", rows)
        paths = {"root": Path(name) / "log", "prepared": Path(name) / "prepared"}
        strict = Config.model_validate({"data": paths, "features": FEATURES})
        (report,) = validate(strict, ["ads"], [DATE])
        assert bool(report.violations) == (len(kept) < len(rows))
        for violation in report.violations:
            assert "part-0.parquet" in violation.where
            assert 0 < violation.bad_rows <= len(rows)
            assert any(word in str(violation) for word in ("item_id", "kind", "price", "score"))
        if report.violations:
            with pytest.raises(ContractError, match=r"data\.quarantine: true"):
                prepare(strict, "ads", [DATE])
        else:
            assert len(trainable(strict)) == len(rows)
        if kept:
            data = paths | {"quarantine": True}
            examples = trainable(Config.model_validate({"data": data, "features": FEATURES}))
            assert {
                (row["user_id"], row["item_id"], row["ts"].second): row["click"] for row in examples
            } == kept
            aside = list((Path(name) / "log" / "_quarantine").rglob("*.parquet"))
            assert sum(pq.read_metadata(path).num_rows for path in aside) == len(rows) - len(kept)
