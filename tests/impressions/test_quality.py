"""Bad days that keep the contract: each is found, named, and stopped where the configuration says so."""

from __future__ import annotations

import datetime as dt
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.config import Config, Quality
from ecdctr.errors import ContractError
from ecdctr.impressions.days import day_files
from ecdctr.impressions.quality import check_day, population_stability_index
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from tests.conftest import DATE


@pytest.fixture
def copied(config: Config, tmp_path: Path) -> Config:
    """Eight days of natural content that a test may spoil."""
    for back in range(8):
        date = DATE - dt.timedelta(days=back)
        folder = f"domain=natural/date={date}"
        shutil.copytree(config.data.root / folder, tmp_path / "data" / folder)
    data = config.data.model_copy(
        update={"root": tmp_path / "data", "prepared": tmp_path / "prepared"}
    )
    return config.model_copy(update={"data": data})


def spoil(config: Config, change: Callable[[pa.Table], pa.Table]) -> None:
    files = day_files(config.data.root, "natural", DATE)
    table = change(pa.concat_tables([pq.read_table(path, partitioning=None) for path in files]))
    for path in files[1:]:
        path.unlink()
    pq.write_table(table, files[0])


def replaced(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(
        table.schema.get_field_index(name), name, values.cast(table.schema.field(name).type)
    )


def test_an_ordinary_day_raises_no_finding(copied):
    assert check_day(copied, "natural", DATE) == []


def half(table: pa.Table) -> pa.Table:
    return table.slice(0, table.num_rows // 2)


def flipped(table: pa.Table) -> pa.Table:
    return replaced(table, "click", pc.subtract(pa.scalar(1, pa.int8()), table["click"]))


def clickier(table: pa.Table) -> pa.Table:
    """Every fifth impression that was not clicked is."""
    click = table["click"].to_numpy().copy()
    click[::5] = 1
    return replaced(table, "click", pa.array(click))


def without_slots(table: pa.Table) -> pa.Table:
    return replaced(table, "slot", pa.nulls(table.num_rows, table.schema.field("slot").type))


def flooded(table: pa.Table) -> pa.Table:
    new = np.where(np.arange(table.num_rows) % 3 == 0, 9999, table["category"].to_numpy())
    return replaced(table, "category", pa.array(new))


def one_slot(table: pa.Table) -> pa.Table:
    return replaced(table, "slot", pa.array(np.full(table.num_rows, table["slot"][0].as_py())))


@pytest.mark.parametrize(
    ("change", "measure"),
    [
        (half, "impressions"),
        (lambda table: pa.concat_tables([table, table]), "impressions"),
        (flipped, "click-through rate"),
        (clickier, "click-through rate"),
        (without_slots, "nulls of slot"),
        (flooded, "values of category never seen before"),
        (one_slot, "distribution of slot"),
    ],
)
def test_a_bad_day_is_found_and_stopped_when_asked_for(copied, change, measure):
    spoil(copied, change)
    findings = check_day(copied, "natural", DATE)
    assert measure in [finding.measure for finding in findings]
    assert all("expected" in str(finding) and str(DATE) in str(finding) for finding in findings)
    stopping = copied.model_copy(update={"quality": Quality(action="stop")})
    with pytest.raises(ContractError, match=rf"natural {DATE}: .*{measure}.*quality.action: warn"):
        check_day(stopping, "natural", DATE)
    off = copied.model_copy(update={"quality": Quality(action="off")})
    assert check_day(off, "natural", DATE) == []


def test_what_was_found_is_stored_with_the_version_or_stops_the_training(copied, store):
    spoil(copied, clickier)
    manifest = train_tpm(Request(copied, store, DATE)).manifest
    assert len(manifest.quality) == 1
    assert "click-through rate: expected" in manifest.quality[0]
    assert store.manifest(manifest.ref).quality == manifest.quality
    stopping = copied.model_copy(update={"quality": Quality(action="stop"), "seed": 2})
    with pytest.raises(ContractError, match="click-through rate"):
        train_tpm(Request(stopping, store, DATE))
    assert store.versions("production", "tpm") == [manifest.ref]


def test_a_day_is_measured_again_when_its_files_change(copied):
    assert check_day(copied, "natural", DATE) == []
    spoil(copied, flipped)
    assert [finding.measure for finding in check_day(copied, "natural", DATE)] == [
        "click-through rate"
    ]


def test_the_days_after_a_date_have_no_say(copied):
    early = DATE - dt.timedelta(days=4)
    before = check_day(copied, "natural", early)
    spoil(copied, flipped)
    assert check_day(copied, "natural", early) == before


def test_with_fewer_than_three_days_before_nothing_is_said(copied):
    early = DATE - dt.timedelta(days=5)
    assert check_day(copied, "natural", early) == []


counts = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 1000), min_size=1)


@given(counts, counts)
def test_the_stability_index_is_zero_for_equal_shares_and_never_negative(first, second):
    assert population_stability_index(
        first, {name: 3 * n for name, n in first.items()}
    ) == pytest.approx(0, abs=1e-9)
    assert population_stability_index(first, second) >= 0
    assert population_stability_index(first, second) == pytest.approx(
        population_stability_index(second, first)
    )
