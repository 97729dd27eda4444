"""Times of a log that are finer than a microsecond: cut, never rounded, and said so."""

from __future__ import annotations

import datetime as dt
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ConfigError, ContractError
from tests.impressions.imported import START, column, rows, run

LAST = 1_767_311_999_999_999_999  # nanoseconds: the last one of 2026-01-01


def ticks(nanoseconds: int = 0) -> list[int]:
    return [LAST] + [(START + i * 600) * 10**9 + nanoseconds for i in range(1, 40)]


def written(ticks: list[int]) -> str:
    head, *lines = rows().splitlines()
    moments = [
        f"{dt.datetime.fromtimestamp(t // 10**9, dt.UTC):%Y-%m-%d %H:%M:%S}.{t % 10**9:09d}"
        for t in ticks
    ]
    cells = [line.split(",") for line in lines]
    return "\n".join([head, *(",".join([*c[:2], t, *c[3:]]) for c, t in zip(cells, moments, strict=True))]) + "\n"  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "text, cast", "INT96", "text with an offset", "ns", "ns, UTC", "ns, a zone", "integers"])  # fmt: skip
def test_digits_below_a_microsecond_are_cut_in_every_type_and_said(tmp_path, kind):
    heard: list[str] = []
    text = written(ticks(999))
    (tmp_path / "logs").mkdir()
    if kind.startswith("text"):
        text = (
            text.replace(",1,ads", "Z,1,ads").replace(",0,ads", "Z,0,ads")
            if "offset" in kind
            else text
        )
        ts = "t::TIMESTAMP" if "cast" in kind else "t"
        run(tmp_path, {"a.csv": text}, ts=ts, on_file=heard.append)
    else:
        zone = {"ns, UTC": "UTC", "ns, a zone": "Asia/Tokyo"}.get(kind)
        values = pa.array(ticks(999))
        cells = [line.split(",") for line in rows().splitlines()[1:]]
        table = pa.table({
            "user": [c[0] for c in cells], "item": [c[1] for c in cells], "clicked": [int(c[3]) for c in cells],
            "kind": [c[4] for c in cells], "t": values if kind == "integers" else values.cast(pa.timestamp("ns", zone)),
        })  # fmt: skip
        old = kind == "INT96"
        pq.write_table(table, tmp_path / "logs" / "a.parquet", use_deprecated_int96_timestamps=old)
        ts = "make_timestamp_ns(t)" if kind == "integers" else "t"
        run(tmp_path, {}, {"files": ["a.parquet"]}, ts=ts, on_file=heard.append)
    name = "a.csv" if kind.startswith("text") else "a.parquet"
    what = "column t (INT96)" if kind == "INT96" else "ts"
    assert f"{name}: {what} of 40 rows has digits below a microsecond; they were cut" in heard
    moments = column(tmp_path, "ts")
    assert max(moments) == dt.datetime(2026, 1, 1, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    assert {moment.microsecond for moment in moments} == {0, 999_999}


def test_times_in_microseconds_are_kept_without_a_word(tmp_path):
    heard: list[str] = []
    whole = [START * 10**9 + 123_456_000, *ticks(123_456_000)[1:]]
    run(tmp_path, {"a.csv": written(whole)}, ts="t", on_file=heard.append)  # fmt: skip
    assert heard == ["a.csv: 40 rows"]
    assert {moment.microsecond for moment in column(tmp_path, "ts")} == {123_456}


def test_a_declared_type_that_would_cut_digits_is_refused(tmp_path):
    log = {"types": {"t": "TIMESTAMP"}}
    with pytest.raises(
        ContractError, match="column t is declared as TIMESTAMP under 'types', but 40"
    ):
        run(tmp_path, {"a.csv": written(ticks(999))}, log, ts="t")
    whole = [START * 10**9 + 123_456_000, *ticks(123_456_000)[1:]]
    assert run(tmp_path, {"a.csv": written(whole)}, log, ts="t").read == 40  # fmt: skip


@pytest.mark.parametrize("tick", [-(2**63), 2**63 - 1, -1, 253_402_300_799_999_999])
def test_times_beyond_all_others_are_told_without_advice_that_does_not_help(tmp_path, tick):
    """The ends of what microseconds hold, before 1970, and the last one of the year 9999."""
    cells = [line.split(",") for line in rows().splitlines()[1:]]
    table = pa.table({
        "user": [c[0] for c in cells], "item": [c[1] for c in cells], "clicked": [int(c[3]) for c in cells],
        "kind": [c[4] for c in cells], "t": pa.array([tick] * 40).cast(pa.timestamp("us", "UTC")),
    })  # fmt: skip
    (tmp_path / "logs").mkdir()
    pq.write_table(table, tmp_path / "logs" / "a.parquet")
    with pytest.raises(ContractError, match=r"a\.parquet: ts lies between .* expected") as refused:
        run(tmp_path, {}, {"files": ["a.parquet"]}, ts="t")
    assert "look like" not in str(refused.value)


def test_seconds_as_doubles_never_move_to_the_next_day(tmp_path):
    heard: list[str] = []
    last = rows().replace(str(START), "1767311999.9999998", 1)
    run(tmp_path, {"a.csv": last}, on_file=heard.append)
    assert "a.csv: ts of 1 rows has digits below a microsecond; they were cut" in heard
    end = dt.datetime(2026, 1, 1, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    assert max(column(tmp_path, "ts")) == end
    heard = []
    whole = re.sub(r"(\d{10}),", r"\1.123457,", rows())
    run(tmp_path / "whole", {"a.csv": whole}, on_file=heard.append)
    assert heard == ["a.csv: 40 rows"]
    assert {moment.microsecond for moment in column(tmp_path / "whole", "ts")} == {123_457}


@pytest.mark.parametrize(
    "ts", ["to_timestamp(t / 1e9)", "to_timestamp(t/1000000000)", "t::TIMESTAMP_S", "CAST(t AS timestamp_ms)"]
)  # fmt: skip
def test_a_time_that_is_rounded_before_it_can_be_cut_is_refused(tmp_path, ts):
    text = rows() if "to_" in ts else written(ticks(999))
    with pytest.raises(ConfigError, match=r"mapping ts: .* rounds to the next day"):
        run(tmp_path, {"a.csv": text}, ts=ts)
