"""The import of a log: rows as a mapping says, one ordered file per domain and day, run by DuckDB.

Every row of the log is kept, or counted under the reason for which it is left out; what cannot be an impression (an id
that is null, a label that is no label, a time that cannot be) stops the import with the file and the number of rows.
"""

from __future__ import annotations

import datetime as dt
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb

from ecdctr.config import DOMAINS
from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.files import duck
from ecdctr.files.duck import identifier, literal, parquet
from ecdctr.impressions.mapping import (
    Mapping,
    check_expressions,
    columns_of,
    refuse_names,
    scalar_kind,
)
from ecdctr.impressions.tables import TableFile, open_table

UNITS = {  # how many of a unit are a second, and how to read it
    1_000: ("milliseconds", "epoch_ms(column)"),
    1_000_000: ("microseconds", "make_timestamp(column)"),
    1_000_000_000: ("nanoseconds", "make_timestamp_ns(column)"),
}


class Imported(NamedTuple):
    """What became of the log's rows."""

    read: int
    natural: int
    ads: int
    left_out: int
    duplicates: int
    first: str
    last: str


def import_log(
    mapping: Mapping,
    source: Path,
    root: Path,
    memory: str = "2GB",
    threads: int = 2,
    on_file: Callable[[str], None] | None = None,
) -> Imported:
    """Stream a log into `root` as impressions; one file per domain and day, in order of time, doubles removed.

    Nothing appears under `root` until everything is written. `on_file` hears of each log file. Of doubles (same user,
    item and time) a click stays before none, then the least by all columns. Raises ConfigError for an expression that
    does not fit the columns, ContractError for files that cannot be read, rows that cannot be impressions, or a domain
    without clicks.
    """
    _refuse_taken(root)
    refuse_names(mapping)
    say = on_file or (lambda _: None)
    root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=root, prefix="_import-") as folder,
        _connect(Path(folder), memory, threads) as db,
    ):
        scratch = Path(folder)
        for name, join in mapping.joins.items():
            files = open_table(
                db, join, source, scratch / f"join-{name}", lambda path: say(path.name)
            )
            db.execute(
                f"CREATE TABLE {identifier(name)} AS {' UNION ALL '.join(f.query for f in files)}"
            )
        log = open_table(db, mapping.log, source, scratch / "log")
        db.execute(f"CREATE VIEW log AS {' UNION ALL '.join(file.query for file in log)}")
        types = check_expressions(db, mapping)
        for i, file in enumerate(log):
            _stage(db, mapping, file, types, scratch / f"raw-{i}")
            absent = (
                f"; without {', '.join(file.absent)}, null there"
                if file.absent and file.rows
                else ""
            )
            say(f"{file.path.name}: {file.rows:,} rows{absent}")
        done = _finish(db, mapping, types, scratch, sum(file.rows for file in log))
        for domain_folder in sorted((scratch / "final").iterdir()):
            domain_folder.rename(root / domain_folder.name)
    return done


def _refuse_taken(root: Path) -> None:
    taken = [path.name for path in root.glob("domain=*")] if root.exists() else []
    if taken:
        raise ConfigError(
            f"{root} already holds {', '.join(sorted(taken))}; import into an empty folder."
        )


@contextmanager
def _connect(folder: Path, memory: str, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with duck.connect(memory, threads) as db:
        db.execute(f"SET temp_directory = {literal(folder / 'spill')}")
        db.execute("SET preserve_insertion_order = false")
        yield db


def _stage(
    db: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    file: TableFile,
    types: dict[str, str],
    target: Path,
) -> None:
    """Map one log file and split it by domain and day, every row of it; raises ContractError for bad rows."""
    db.execute(f"CREATE OR REPLACE VIEW log AS {file.query}")
    joins = " ".join(
        f"LEFT JOIN {identifier(name)} ON {_same_key(db, name, join.key)}"
        for name, join in mapping.joins.items()
    )
    features = "".join(
        f", {_typed(text, types[f'features.{name}'])} AS {identifier(name)}"
        for name, text in mapping.features.items()
    )
    query = f"""
        SELECT {_typed(mapping.user_id, types["user_id"])} AS user_id,
            {_typed(mapping.item_id, types["item_id"])} AS item_id,
            ({mapping.ts})::TIMESTAMPTZ AS ts, {_label(mapping.click)} AS click,
            ({mapping.click})::VARCHAR AS _label,
            CASE WHEN ({mapping.domain})::VARCHAR IN ('natural', 'ads') THEN ({mapping.domain})::VARCHAR
                ELSE 'other' END AS _domain {features}
        FROM log {joins}
    """
    staged = target.with_suffix(".parquet")
    try:
        db.execute(f"COPY ({query}) TO {literal(staged)} (FORMAT parquet, COMPRESSION zstd)")
        _refuse_rows(db, mapping, types, file, staged)
        db.execute(
            f"COPY (SELECT * EXCLUDE (_label), ts::DATE AS _date FROM {parquet([staged])}) TO {literal(target)} "
            "(FORMAT parquet, PARTITION_BY (_domain, _date), COMPRESSION zstd)"
        )
    except duckdb.Error as error:
        raise ContractError(
            f"{file.path} cannot be read as the mapping says: {first_line(error)}"
        ) from None
    staged.unlink()


def _same_key(db: duckdb.DuckDBPyConnection, name: str, key: str) -> str:
    """Equality of a join's key with the log's; of keys of other types their text is compared."""
    log, other = f"log.{identifier(key)}", f"{identifier(name)}.{identifier(key)}"
    if columns_of(db, "log")[key] != columns_of(db, name)[key]:
        return f"{log}::VARCHAR = {other}::VARCHAR"
    return f"{log} = {other}"


def _typed(text: str, kind: str) -> str:
    """An expression in the type that it is staged as; `_finish` narrows what is wide."""
    lists = "[]" if kind.endswith("[]") else ""
    # wide as text: DuckDB writes HUGEINT to Parquet as DOUBLE, which merges ids above 2^53
    targets = {"whole": "BIGINT", "text": "VARCHAR", "wide": "VARCHAR"}
    target = targets.get(scalar_kind(kind.removesuffix("[]")) or "", "")
    return f"({text})::{target}{lists}" if target else f"({text})"


def _label(text: str) -> str:
    """1, 0 or null: of 1, 0, true and false in any type; anything else is null too, and refused."""
    value = f"lower(trim(({text})::VARCHAR))"
    return (
        f"CASE WHEN {value} IN ('1', 'true', '1.0') THEN 1 WHEN {value} IN ('0', 'false', '0.0') THEN 0 "
        "END::TINYINT"
    )


def _refuse_rows(
    db: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    types: dict[str, str],
    file: TableFile,
    staged: Path,
) -> None:
    """Raise ContractError when rows of a domain cannot be impressions; rows of neither may be anything."""
    infinite = {
        name: f"count(*) FILTER (isinf({identifier(name)}))"
        for name in mapping.features
        if types[f"features.{name}"] in ("FLOAT", "DOUBLE")
    }
    columns = ", ".join(
        (
            "count(*)",
            "count(*) FILTER (user_id IS NULL OR item_id IS NULL)",
            "count(*) FILTER (ts IS NULL)",
            "count(*) FILTER (click IS NULL)",
            "min(_label) FILTER (click IS NULL)",
            "min(ts)::VARCHAR",
            "max(ts)::VARCHAR",
            _seconds("min(ts)"),
            _seconds("max(ts)"),
            *infinite.values(),
        )
    )
    row = db.execute(
        f"SELECT {columns} FROM {parquet([staged])} WHERE _domain <> 'other'"
    ).fetchone()
    assert row is not None  # noqa: S101  # an aggregate always has one row
    rows, no_id, no_time, no_label, label, first, last, low, high, *bad = row
    if no_id:
        raise ContractError(f"{file.path}: {no_id:,} of {rows:,} rows without user or item id "
                            f"(mapping user_id: {mapping.user_id}; item_id: {mapping.item_id}).")  # fmt: skip
    if no_time:
        raise ContractError(
            f"{file.path}: {no_time:,} of {rows:,} rows have no time (mapping ts: {mapping.ts})."
        )
    if no_label:
        raise ContractError(
            f"{file.path}: click of {no_label:,} of {rows:,} rows is {label or 'null'}, expected 0 or 1, true or "
            f"false; write a rule in the mapping, such as click: {mapping.click} >= 1."
        )
    for name, count in zip(infinite, bad, strict=True):
        if count:
            raise ContractError(
                f"{file.path}: features.{name} is infinite in {count:,} of {rows:,} rows; expected finite numbers."
            )
    if rows:
        _refuse_times(mapping, file, (first, last), (low, high))


def _seconds(moment: str) -> str:
    """SQL of the seconds since 1970; infinity of an infinite time."""
    infinite = f"CASE WHEN {moment} > TIMESTAMPTZ '1970-01-01' THEN 'inf' ELSE '-inf' END::DOUBLE"
    return f"coalesce(epoch({moment}), {infinite})"


def _refuse_times(
    mapping: Mapping, file: TableFile, printed: tuple[str, str], seconds: tuple[float, float]
) -> None:
    """Raise ContractError for times before `earliest` or after `latest`, with the unit that they seem to be in."""
    earliest = mapping.earliest or dt.date(1970, 1, 1)
    latest = mapping.latest or dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    low, high = (_midnight(earliest), _midnight(latest + dt.timedelta(days=1)))
    too_early = mapping.earliest is None and seconds[1] < _midnight(dt.date(1971, 1, 1))
    if low <= seconds[0] and seconds[1] < high and not too_early:
        return
    hint = ""
    for factor, (unit, how) in UNITS.items():
        if _midnight(dt.date(1990, 1, 1)) <= seconds[1] / factor < high:
            hint = f" They look like {unit} read as seconds: write ts: {how}."
    if too_early:
        hint = " They look like seconds read as a smaller unit: write ts: to_timestamp(column)."
    expected = f"{earliest if not too_early else dt.date(1971, 1, 1)} and {latest}"
    raise ContractError(
        f"{file.path}: ts lies between {printed[0]} and {printed[1]}, expected between {expected} "
        f"(mapping ts: {mapping.ts}).{hint} Other times that are right: set earliest or latest in the mapping."
    )


def _midnight(date: dt.date) -> float:
    return dt.datetime.combine(date, dt.time(), dt.UTC).timestamp()


def _finish(
    db: duckdb.DuckDBPyConnection,
    mapping: Mapping,
    types: dict[str, str],
    scratch: Path,
    read: int,
) -> Imported:
    """One ordered file per domain and day without doubles; every row that was read is in one of the counts."""
    narrow = _narrow(db, mapping, types, scratch)
    counts = {str(domain): [0, 0, 0] for domain in DOMAINS}  # rows, clicks, doubles
    partitions = {
        path.relative_to(path.parents[1]) for path in scratch.glob("raw-*/_domain=*/_date=*")
    }
    days = set()
    left_out = 0
    for partition in sorted(partitions):
        domain, date = (part.split("=", 1)[1] for part in partition.parts)
        rows = parquet(sorted(scratch.glob(f"raw-*/{partition}/*.parquet")))
        if domain == "other":
            left_out += _one(db, f"SELECT count(*) FROM {rows}")[0]
            continue
        target = scratch / "final" / f"domain={domain}" / f"date={date}" / "part-0.parquet"
        target.parent.mkdir(parents=True)
        others = "".join(f", {identifier(name)}" for name in mapping.features)
        db.execute(
            f"COPY (SELECT DISTINCT ON (ts, user_id, item_id) user_id, item_id, ts, click{others} "
            f"FROM (SELECT * {narrow} FROM {rows}) ORDER BY ts, user_id, item_id, click DESC{others}) "
            f"TO {literal(target)} (FORMAT parquet, COMPRESSION zstd)"
        )
        before = _one(db, f"SELECT count(*) FROM {rows}")[0]
        kept, clicks = _one(
            db, f"SELECT count(*), coalesce(sum(click), 0) FROM {parquet([target])}"
        )
        days.add(date)
        for i, number in enumerate((kept, int(clicks), before - kept)):
            counts[domain][i] += number
    _refuse_empty(mapping, counts)
    natural, ads = counts["natural"], counts["ads"]
    done = Imported(read, natural[0], ads[0], left_out, natural[2] + ads[2], min(days), max(days))
    if read != done.natural + done.ads + done.left_out + done.duplicates:
        raise ContractError(f"Rows got lost: {done}. Nothing was imported; please report this.")
    return done


def _narrow(
    db: duckdb.DuckDBPyConnection, mapping: Mapping, types: dict[str, str], scratch: Path
) -> str:
    """REPLACE for wide integers: int64 where all of the log's values fit, else text."""
    staged = sorted(scratch.glob("raw-*/_domain=*/_date=*/*.parquet"))
    names = {key.removeprefix("features."): kind for key, kind in types.items()}
    wide = [name for name, kind in names.items() if scalar_kind(kind.removesuffix("[]")) == "wide"]
    replaced = []
    for name in wide:
        column = identifier(name)
        many = names[name].endswith("[]")
        values = f"unnest({column})" if many else column
        fits = f"SELECT bool_and(TRY_CAST(v AS BIGINT) IS NOT NULL OR v IS NULL) FROM (SELECT {values} AS v FROM {parquet(staged)})"
        target = "BIGINT" if _one(db, fits)[0] is not False else "VARCHAR"
        replaced.append(f"{column}::{target}{'[]' if many else ''} AS {column}")
    return f"REPLACE ({', '.join(replaced)})" if replaced else ""


def _refuse_empty(mapping: Mapping, counts: dict[str, list[int]]) -> None:
    for domain, (rows, clicks, _) in counts.items():
        if not clicks:
            raise ContractError(
                f"The log has {rows:,} impressions and {clicks} clicks of domain '{domain}', "
                "expected some of both; check 'domain' and 'click' in the mapping: "
                f"{mapping.domain}; {mapping.click}."
            )


def _one(db: duckdb.DuckDBPyConnection, query: str) -> tuple[int, ...]:
    row = db.execute(query).fetchone()
    assert row is not None  # noqa: S101  # an aggregate always has one row
    return row
