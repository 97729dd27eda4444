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
    return (
        "\n".join(
            [head, *(",".join([*c[:2], t, *c[3:]]) for c, t in zip(cells, moments, strict=True))]
        )
        + "\n"
    )


@pytest.mark.parametrize(
    "kind",
    [
        "text",
        "text, cast",
        "INT96",
        "text with an offset",
        "ns",
        "ns, UTC",
        "ns, a zone",
        "integers",
    ],
)
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
        table = pa.table(
            {
                "user": [c[0] for c in cells],
                "item": [c[1] for c in cells],
                "clicked": [int(c[3]) for c in cells],
                "kind": [c[4] for c in cells],
                "t": values if kind == "integers" else values.cast(pa.timestamp("ns", zone)),
            }
        )
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


ZONED = ("+02:00", "+02", " EST", " Europe/Berlin", "-0330")


@pytest.mark.parametrize("zone", ZONED)
@pytest.mark.parametrize(
    "ts",
    [
        "t::TIMESTAMP",
        "TRY_CAST(t AS TIMESTAMP) + INTERVAL 1 HOUR",
        "t::DATE",
        "t::TIMESTAMP_NS",
        "coalesce(t::VARCHAR::TIMESTAMP, to_timestamp(0))",
        "timezone('Europe/Berlin', t::TIMESTAMP)",
    ],
)
def test_a_zone_that_a_cast_would_drop_stops_the_import(tmp_path, ts, zone):
    """DuckDB reads 00:30+02:00 as 00:30 then: the time is another one, and maybe the day."""
    text = written(ticks()).replace(",1,ads", f"{zone},1,ads", 1)
    with pytest.raises(ContractError, match=rf"{re.escape(zone)} names a time zone.*TIMESTAMPTZ"):
        run(tmp_path, {"a.csv": text}, ts=ts)


@pytest.mark.parametrize("zone", ["Z", "+00", "+00:00", " UTC"])
def test_a_time_that_says_that_it_is_utc_may_be_cast(tmp_path, zone):
    text = written(ticks()).replace(",1,ads", f"{zone},1,ads")
    run(tmp_path, {"a.csv": text}, ts="t::TIMESTAMP")
    cast = column(tmp_path, "ts")
    run(tmp_path / "other", {"a.csv": text}, ts="t::TIMESTAMPTZ")
    assert cast == column(tmp_path / "other", "ts")


WRITTEN = "%Y-%m-%d %H:%M:%S.%n %Z"


@pytest.mark.parametrize("zone", ["BST", "PST", "est", "CET"])
@pytest.mark.parametrize(
    "ts",
    [
        "t",
        "t::TIMESTAMPTZ",
        "TRY_CAST(t AS TIMESTAMPTZ) + INTERVAL 1 HOUR",
        "coalesce(t, '2026-01-01')",
        f"strptime(t, '{WRITTEN}')",
        f"try_strptime(t, ['{WRITTEN}'])",
    ],
)
def test_a_zone_that_is_an_abbreviation_stops_the_import(tmp_path, ts, zone):
    """DuckDB takes BST for Dhaka's, five hours from London's, and PST in July for summer time."""
    text = written(ticks()).replace(",1,ads", f" {zone},1,ads")
    text = text.replace(",0,ads", " UTC,0,ads")
    match = rf" {zone} names a time zone by an abbreviation.*offset"
    with pytest.raises(ContractError, match=match):
        run(tmp_path, {"a.csv": text}, ts=ts)


@pytest.mark.parametrize("ts", ["timezone('BST', t::TIMESTAMP)", "t::TIMESTAMP AT TIME ZONE 'bst'"])
def test_a_zone_of_the_mapping_that_is_an_abbreviation_stops_the_import(tmp_path, ts):
    with pytest.raises(ContractError, match=r"(?i)BST names a time zone by an abbreviation"):
        run(tmp_path, {"a.csv": written(ticks())}, ts=ts)


@pytest.mark.parametrize("zone", [" -0300", " PM", " PDT"])
def test_a_zone_that_is_not_known_is_refused_with_a_way_to_read_it(tmp_path, zone):
    text = written(ticks()).replace(",1,ads", f"{zone},1,ads")
    with pytest.raises(ContractError, match=rf"'{zone[1:]}'.*strptime\(column.*%z"):
        run(tmp_path, {"a.csv": text}, ts="t")


@pytest.mark.parametrize("zone", [" UTC", " GMT", " Etc/UTC", " Africa/Abidjan", "+00:00"])
def test_a_zone_of_one_meaning_is_read(tmp_path, zone):
    text = written(ticks()).replace(",1,ads", f"{zone},1,ads").replace(",0,ads", f"{zone},0,ads")
    run(tmp_path, {"a.csv": text}, ts="t")
    assert max(column(tmp_path, "ts")).date() == dt.date(2026, 1, 1)


@pytest.mark.parametrize("ts", ["t", "t::TIMESTAMPTZ"])
def test_a_time_with_a_zone_is_kept_as_the_instant_that_it_is(tmp_path, ts):
    moments = [START * 10**9] * 2 + ticks()[2:]
    text = written(moments).replace(",0,ads", "+02:00,0,ads", 1)
    run(tmp_path, {"a.csv": text}, ts=ts)
    assert dt.datetime(2025, 12, 31, 22, tzinfo=dt.UTC) in column(tmp_path, "ts")


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
    table = pa.table(
        {
            "user": [c[0] for c in cells],
            "item": [c[1] for c in cells],
            "clicked": [int(c[3]) for c in cells],
            "kind": [c[4] for c in cells],
            "t": pa.array([tick] * 40).cast(pa.timestamp("us", "UTC")),
        }
    )
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


@pytest.mark.parametrize("ts", [
    "to_timestamp(t / 1e9)", "to_timestamp(t/1000000000)", "to_timestamp(t/(1e6*1e3))",
    "to_timestamp(t / power(10, 9))",
    "to_timestamp(t * 0.000000001)", "to_timestamp(t::DOUBLE / 1e9)",
    "to_timestamp(floor(t / 1e9)::BIGINT)",
    "to_timestamp(coalesce(t / 1e9, 0))", "to_timestamp(CASE WHEN t > 9 THEN t / 1e9 ELSE t END)",
    "main.to_timestamp(t / 1e9)",
    "to_timestamp(t / clicked)", "to_timestamp((t / 1e9)::DECIMAL(18, 3))",
    "epoch_ms((t / 1e6)::BIGINT)", "t::TIMESTAMP_S",
    "make_timestamp_ns((t / 1.0)::BIGINT)", "'1970-01-01'::TIMESTAMP + INTERVAL (t / 1e9) SECOND",
    "t::TIMESTAMP(0)",
    "'1970-01-01'::TIMESTAMP + to_seconds(t / 1e9)",
    "'1970-01-01'::TIMESTAMP + (t / 1e9) * INTERVAL 1 SECOND",
    "CAST(t AS timestamp_ms)", "TRY_CAST(t AS TIMESTAMP_S)::TIMESTAMP",
    "make_timestamp(2026, 1, 1, 23, 59, t / 1e9)",
    "make_timestamp(list_transform([t], lambda x: (x / 1e3)::BIGINT)[1])",
])  # fmt: skip
def test_a_time_that_is_rounded_before_it_can_be_cut_is_refused(tmp_path, ts):
    text = (
        written(ticks(999))
        if ("TIMESTAMP_" in ts.upper() and "/" not in ts) or "(0)" in ts
        else rows()
    )
    with pytest.raises(ConfigError, match=r"mapping ts: .* (rounds to the next day|be rounded)"):
        run(tmp_path, {"a.csv": text}, ts=ts)


LAST_MICROSECOND = dt.datetime(2026, 1, 1, 23, 59, 59, 999_999, tzinfo=dt.UTC)
LAST_MILLISECOND = dt.datetime(2026, 1, 1, 23, 59, 59, 999_000, tzinfo=dt.UTC)


def parquet_of_times(folder, values: pa.Array, **how) -> None:
    """A log in Parquet with these times."""
    cells = [line.split(",") for line in rows(n=len(values)).splitlines()[1:]]
    table = pa.table(
        {
            "user": [c[0] for c in cells],
            "item": [c[1] for c in cells],
            "clicked": [int(c[3]) for c in cells],
            "kind": [c[4] for c in cells],
            "t": values,
        }
    )
    (folder / "logs").mkdir()
    pq.write_table(table, folder / "logs" / "a.parquet", **how)


@pytest.mark.parametrize(("ts", "kind"), [
    ("t::TIMESTAMP", "ns"), ("t + INTERVAL 0 HOUR", "ns"), ("t AT TIME ZONE 'UTC'", "ns"),
    ("date_trunc('microsecond', t)", "ns"),
    ("make_timestamp(epoch_us(t))", "ns"),
    ("CASE WHEN clicked = 1 THEN t::TIMESTAMP ELSE t::TIMESTAMPTZ END", "ns"),
    ("t::TIMESTAMPTZ", "ns, UTC"), ("make_timestamp_ns(t)::TIMESTAMP", "integers"),
    ("coalesce(make_timestamp_ns(t)::TIMESTAMPTZ, NULL)", "integers"),
    ("to_timestamp(t)", "decimals"), ("to_timestamp(t::DOUBLE)", "decimals"),
    ("to_timestamp(t::DOUBLE)", "text"),
    ("to_timestamp(TRY_CAST(t AS DECIMAL(18, 3)))", "text"),
    ("to_timestamp(coalesce(t::DOUBLE, 0))", "text"),
])  # fmt: skip
def test_no_expression_moves_the_last_nanosecond_to_the_next_day(tmp_path, ts, kind):
    """DuckDB rounds whatever makes microseconds of nanoseconds, and seconds that are doubles."""
    heard: list[str] = []
    nanoseconds = ticks(999)
    decimals = [f"{t // 10**9}.{t % 10**9:09d}" for t in nanoseconds]
    values = {
        "ns": lambda: pa.array(nanoseconds).cast(pa.timestamp("ns")),
        "ns, UTC": lambda: pa.array(nanoseconds).cast(pa.timestamp("ns", "UTC")),
        "integers": lambda: pa.array(nanoseconds),
        "decimals": lambda: pa.array(decimals).cast(pa.decimal128(20, 9)),
        "text": lambda: pa.array(decimals),
    }[kind]()
    parquet_of_times(tmp_path, values)
    run(tmp_path, {}, {"files": ["a.parquet"]}, ts=ts, on_file=heard.append)
    assert max(column(tmp_path, "ts")) == LAST_MICROSECOND
    assert "a.parquet: ts of 40 rows has digits below a microsecond; they were cut" in heard


@pytest.mark.parametrize(("ts", "unit"), [
    ("to_timestamp(t / 1000)", 1000), ("to_timestamp(t / 1e3)", 1000),
    ("to_timestamp(t * 0.001)", 1000),
    ("to_timestamp(t / 1000.0)", 1000), ("to_timestamp(t::DOUBLE / power(10, 3))", 1000),
    ("to_timestamp(t / 1e6)", 10**6),
    ("to_timestamp(CASE WHEN t > 1e12 THEN t / 1000 ELSE t END)", 1000),
    ("to_timestamp(t // 1)", 1),
    ("make_timestamp(t * 1000)", 1000), ("epoch_ms(t::BIGINT)", 1000),
    ("to_timestamp(round(t / 1e3))", 1000),
    ("'1970-01-01'::TIMESTAMP + INTERVAL (t) SECOND", 1),
    ("to_timestamp(t) - INTERVAL (clicked * 0) HOUR", 1),
    ("'1970-01-01'::TIMESTAMP + to_milliseconds(t)", 1000),
])  # fmt: skip
@pytest.mark.parametrize("kind", [pa.int64(), pa.float64()], ids=str)
def test_whole_numbers_of_a_unit_are_times_without_a_word(tmp_path, ts, unit, kind):
    """Also as doubles, as pandas writes integers with nulls, where the expression takes those."""
    takes = ("to_timestamp(" in ts and "//" not in ts) or "BIGINT" in ts
    if kind == pa.float64() and not takes:
        pytest.skip("DuckDB takes no doubles there")
    heard: list[str] = []
    last = {
        1: LAST_MICROSECOND.replace(microsecond=0),
        1000: LAST_MILLISECOND,
        10**6: LAST_MICROSECOND,
    }[unit]
    parquet_of_times(tmp_path, pa.array([t * unit // 10**9 for t in ticks()]).cast(kind))
    run(tmp_path, {}, {"files": ["a.parquet"]}, ts=ts, on_file=heard.append)
    rounded = last + dt.timedelta(microseconds=1000) if "round(" in ts else last
    assert max(column(tmp_path, "ts")) == rounded
    assert heard == ["a.parquet: 40 rows"]


def test_fractions_of_milliseconds_are_cut_and_a_cast_that_would_round_them_is_refused(tmp_path):
    """As performance.now() gives them; the double nearest to …999.9998 is 0.24 before midnight."""
    heard: list[str] = []
    values = pa.array([LAST // 10**6 + 0.9998, *(t / 1e6 + 0.25 for t in ticks()[1:])])
    parquet_of_times(tmp_path, values)
    run(tmp_path, {}, {"files": ["a.parquet"]}, ts="to_timestamp(t / 1000)", on_file=heard.append)
    moments = column(tmp_path, "ts")
    assert max(moments) == LAST_MICROSECOND
    assert {moment.microsecond for moment in moments} == {250, 999_999}
    assert "a.parquet: ts of 1 rows has digits below a microsecond; they were cut" in heard
    (tmp_path / "other").mkdir()
    (tmp_path / "logs").rename(tmp_path / "other" / "logs")
    with pytest.raises(ContractError, match="has a fraction, which a cast to whole numbers would"):
        run(tmp_path / "other", {}, {"files": ["a.parquet"]}, ts="epoch_ms(t::BIGINT)")


def test_microseconds_and_milliseconds_as_doubles_keep_each_digit(tmp_path):
    """Every microsecond of a second comes back, whatever double stands for it."""
    micros = [START * 10**6 + i * 24_979 for i in range(4000)]
    parquet_of_times(tmp_path, pa.array([m / 1e3 for m in micros]))
    heard: list[str] = []
    run(tmp_path, {}, {"files": ["a.parquet"]}, ts="to_timestamp(t / 1000)", on_file=heard.append)
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    assert sorted((m - start) // dt.timedelta(microseconds=1) for m in column(tmp_path, "ts")) == [
        i * 24_979 for i in range(4000)
    ]
    assert heard == ["a.parquet: 4,000 rows"]


@pytest.mark.parametrize("read", ["ts", "a feature", "the key"])
def test_times_of_a_joined_table_are_cut_and_said_as_those_of_the_log(tmp_path, read):
    """INT96, as Spark and Impala wrote times."""
    heard: list[str] = []
    moments = pa.array(ticks(999)[:5]).cast(pa.timestamp("ns"))
    table = {"item": list(range(100, 105)), "t": moments}
    changes = {"item_id": "log.item", "joins": {"j": {"files": ["j.parquet"], "key": "item"}}}
    if read == "the key":
        head, *lines = rows().splitlines()
        shown = [str(m)[:26] for m in moments.to_numpy(zero_copy_only=False)]
        log = "\n".join([f"{head},at", *(f"{one},{shown[i % 5]}" for i, one in enumerate(lines))])
        table = {"at": moments, "colour": ["red"] * 5}
        changes = {
            "joins": {"j": {"files": ["j.parquet"], "key": "at"}},
            "features": {"f": "colour"},
        }
        files = {"a.csv": log.replace("T", " ") + "\n"}
    else:
        files = {"a.csv": rows().replace(",t,", ",seconds,", 1)}
        changes |= {"ts": "j.t + log.seconds % 86400 * INTERVAL 1 MICROSECOND"}
        changes |= {"features": {"f": "epoch_us(j.t)"}} if read == "a feature" else {}
        changes |= {"ts": "to_timestamp(log.seconds)"} if read == "a feature" else {}
    (tmp_path / "logs").mkdir()
    pq.write_table(
        pa.table(table), tmp_path / "logs" / "j.parquet", use_deprecated_int96_timestamps=True
    )
    run(tmp_path, files, on_file=heard.append, **changes)
    name = "at" if read == "the key" else "t"
    words = (
        f"j.parquet: column {name} (INT96) of 5 rows has digits below a microsecond; they were cut"
    )
    assert heard.count(words) == 1


def test_the_last_day_that_there_is_can_be_the_latest(tmp_path):
    """As databases write what never ends."""
    last = "'9999-12-31 23:59:59.999999'::TIMESTAMPTZ"
    ts = f"CASE WHEN clicked = 1 THEN to_timestamp(t) ELSE {last} END"
    done = run(tmp_path, {"a.csv": rows()}, ts=ts, latest=dt.date(9999, 12, 31))
    assert (done.read, str(done.last)) == (40, "9999-12-31")


def test_a_first_day_after_the_last_is_refused(tmp_path):
    limits = {"earliest": dt.date(2026, 2, 1), "latest": dt.date(2026, 1, 1)}
    with pytest.raises(
        ValueError, match=r"expected earliest \(2026-02-01\) not to be after latest"
    ):
        run(tmp_path, {"a.csv": rows()}, **limits)


@pytest.mark.parametrize("second", ["60", "60.5"])
def test_a_leap_second_is_refused_with_what_reads_it(tmp_path, second):
    """DuckDB has none; the advice for other formats would not help."""
    text = written(ticks()).replace("2026-01-01 00:10:00.000000000", f"2026-01-01 00:10:{second}")
    assert second in text
    with pytest.raises(ContractError, match="regexp_replace") as refused:
        run(tmp_path, {"a.csv": text}, ts="t::TIMESTAMP")
    (advice,) = re.findall(r"write ts: (.*::TIMESTAMP)", str(refused.value))
    run(tmp_path, {"a.csv": text}, ts=advice.replace("column", "t"))
    moments = [f"{moment:%H:%M:%S}" for moment in column(tmp_path, "ts")]
    assert "00:10:59" in moments


@pytest.mark.parametrize(
    "ts",
    [
        "timezone('Europe/Paris', t::TIMESTAMP)",
        "t AT TIME ZONE 'Europe/Paris'",
        "(t || ' Europe/Paris')::TIMESTAMPTZ",
        "TRY_CAST((t || ' Europe/Paris') AS TIMESTAMPTZ)",
        "t || ' Europe/Paris'",
    ],
)
def test_local_times_that_clocks_show_twice_or_never_are_counted_and_said(tmp_path, ts):
    heard: list[str] = []
    head, *lines = rows().splitlines()
    cells = [line.split(",") for line in lines]
    # Paris: 02:30 was shown twice on 26 October 2025, and skipped on 30 March
    shown = ["2025-10-26 02:30:00", "2025-03-30 02:30:00", "2025-10-26 01:30:00"]
    times = [*shown, *["2025-10-26 03:30:00"] * len(cells)]
    text = [head, *(",".join([*c[:2], t, *c[3:]]) for c, t in zip(cells, times, strict=False))]
    run(tmp_path, {"a.csv": "\n".join(text) + "\n"}, ts=ts, on_file=heard.append)
    assert "ts of 2 rows is a local time that clocks showed twice or skipped" in " ".join(heard)


SHARES = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
READERS = dict(
    zip(SHARES, ("to_timestamp", "epoch_ms", "make_timestamp", "make_timestamp_ns"), strict=True)
)


@pytest.mark.parametrize("read_as", SHARES)
@pytest.mark.parametrize("unit", SHARES)
def test_a_unit_read_as_another_is_told_with_what_reads_it(tmp_path, unit, read_as):
    ticks = [(START + i * 600) * SHARES[unit] for i in range(40)]
    parquet_of_times(tmp_path, pa.array(ticks))
    log = {"files": ["a.parquet"]}
    if unit == read_as:
        assert run(tmp_path, {}, log, ts=f"{READERS[read_as]}(t)").read == 40
        return
    with pytest.raises(ContractError) as refused:
        run(tmp_path, {}, log, ts=f"{READERS[read_as]}(t)")
    said = str(refused.value)
    one = f"look like {unit} read as {read_as}: write ts: {READERS[unit]}(column)"
    assert one in said or "smaller unit: write ts: make_timestamp(column) " in said
    assert run(tmp_path, {}, log, ts=f"{READERS[unit]}(t)").read == 40


@pytest.mark.parametrize("reader", ["to_timestamp", "epoch_ms", "make_timestamp"])
def test_days_read_as_seconds_are_told_with_what_reads_them(tmp_path, reader):
    parquet_of_times(tmp_path, pa.array([20_260_101 + i % 7 for i in range(40)]))
    with pytest.raises(ContractError, match=r"look like days read as \w+: write ts: strptime"):
        run(tmp_path, {}, {"files": ["a.parquet"]}, ts=f"{reader}(t)")


@pytest.mark.parametrize("reader", ["epoch_ms", "make_timestamp", "make_timestamp_ns"])
def test_a_larger_unit_among_others_is_no_time_of_1970(tmp_path, reader):
    """Seconds among milliseconds are days in January 1970, which DuckDB reads without a word."""
    unit = next(unit for unit, name in READERS.items() if name == reader)
    ticks = [(START + i * 600) * SHARES[unit] for i in range(39)]
    parquet_of_times(tmp_path, pa.array([*ticks, ticks[-1] // 1000]))
    log = {"files": ["a.parquet"]}
    words = r"ts lies in 1970, as .*, in 1 of 40 rows, first in row 40"
    with pytest.raises(ContractError, match=words):
        run(tmp_path, {}, log, ts=f"{reader}(t)")
    run(tmp_path, {}, log, ts=f"{reader}(t)", earliest="1970-01-01")


def test_what_the_sentence_says_of_two_units_reads_them(tmp_path):
    stamps = [str((START + i * 600) * (1000 if i % 2 else 1)) for i in range(40)]
    parquet_of_times(tmp_path, pa.array(list(map(int, stamps))))
    log = {"files": ["a.parquet"]}
    with pytest.raises(ContractError, match="in 20 of 40 rows") as refused:
        run(tmp_path, {}, log, ts="epoch_ms(t)")
    (rule,) = re.findall(r"CASE WHEN .* END", str(refused.value))
    run(tmp_path, {}, log, ts=rule.replace("column", "t"))
    assert sorted(moment.timestamp() for moment in column(tmp_path, "ts")) == [
        START + i * 600 for i in range(40)
    ]


@pytest.mark.parametrize(("text", "mend"), [(" PM", "%I:%M:%S %p"), (" -0300", "%H:%M:%S %z")])
def test_what_a_cast_would_drop_and_is_no_zone_is_told_with_what_reads_it(tmp_path, text, mend):
    log = written(ticks()).replace(".000000000", "").replace(",1,ads", f"{text},1,ads", 1)
    with pytest.raises(ContractError, match=rf"{text} ends with what is no time zone.*{mend}"):
        run(tmp_path, {"a.csv": log}, ts="t::TIMESTAMP")


@pytest.mark.parametrize("to", ["TIMESTAMP", "TIMESTAMPTZ", "DATE"])
def test_a_number_cast_to_a_time_is_told_with_what_reads_numbers(tmp_path, to):
    with pytest.raises(ContractError, match=r"Unimplemented.*to_timestamp\(column\) for seconds"):
        run(tmp_path, {"a.csv": rows()}, ts=f"t::{to}")


@pytest.mark.parametrize("stamp", ["0", str((START + 7 * 600) * 1000), "-1"])
def test_a_time_that_is_unlike_the_others_is_told_with_its_line(tmp_path, stamp):
    """A 0 where none was known, or milliseconds from one client: no rule for all rows mends it."""
    lines = rows().splitlines()
    cells = lines[8].split(",")
    lines[8] = ",".join([*cells[:2], stamp, *cells[3:]])
    with pytest.raises(ContractError, match=r"1 of 40 rows.* first in line 9") as refused:
        run(tmp_path, {"a.csv": "\n".join(lines) + "\n"})
    assert "epoch_ms" not in str(refused.value)
    if stamp == "0":
        run(tmp_path, {"a.csv": "\n".join(lines) + "\n"}, earliest="1970-01-01")
