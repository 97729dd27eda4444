"""Logs of any shape become the contract: a mapping of SQL expressions over CSV or Parquet files, run by DuckDB."""

from __future__ import annotations

import glob
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import duckdb
from pydantic import Field, ValidationError

from ecdctr.config import DOMAINS, RESERVED_COLUMNS, Section
from ecdctr.errors import ConfigError, ContractError, first_line
from ecdctr.files.strict_yaml import read_yaml


class Table(Section):
    """Files of one kind: CSV (.csv, .csv.gz, .tsv, .dat) or Parquet."""

    files: tuple[str, ...] = Field(
        min_length=1, description="names or patterns, relative to the source folder"
    )
    delimiter: str | None = Field(None, description="CSV only; found by itself when left out")
    header: bool | None = Field(None, description="CSV only; found by itself when left out")
    names: tuple[str, ...] | None = Field(
        None, description="CSV without a header: the columns in order"
    )


class Join(Table):
    """A table with one row per key, joined to the log; its columns are written as NAME.column."""

    key: str = Field(description="column of the same name in the log and here")


class Mapping(Section):
    """How a log becomes impressions; every value on the right is a DuckDB SQL expression over its columns."""

    log: Table
    joins: dict[str, Join] = Field(default_factory=dict)
    user_id: str
    item_id: str
    ts: str = Field(
        description="a timestamp in UTC, e.g. epoch_ms(time_ms) or to_timestamp(seconds)"
    )
    click: str = Field(description="the label rule, true or 1 for a click, e.g. rating >= 4")
    domain: str = Field(
        description="'natural' or 'ads'; rows with anything else are left out and counted"
    )
    features: dict[str, str] = Field(default_factory=dict)

    def expressions(self) -> dict[str, str]:
        """Every expression by its key in the mapping."""
        own = {key: getattr(self, key) for key in ("user_id", "item_id", "ts", "click", "domain")}
        return own | {f"features.{name}": text for name, text in self.features.items()}


class Imported(NamedTuple):
    """What became of the log's rows."""

    read: int
    natural: int
    ads: int
    left_out: int
    duplicates: int
    first: str
    last: str


def load_mapping(path: Path) -> Mapping:
    """Read a mapping file; raises ConfigError with the key that is wrong."""
    try:
        mapping = Mapping.model_validate(read_yaml(path, "mapping"))
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, item['loc'])) or 'file'}: {item['msg']}" for item in error.errors()
        ]
        raise ConfigError(f"{path} is not a mapping. " + "; ".join(problems)) from None
    return mapping


def import_log(
    mapping: Mapping,
    source: Path,
    root: Path,
    memory: str = "2GB",
    threads: int = 2,
    on_file: Callable[[str, int], None] | None = None,
) -> Imported:
    """Stream a log into `root` as impressions; one file per domain and day, in order of time, doubles removed.

    Nothing appears under `root` until everything is written. `on_file` hears of each log file and each day.
    Raises ConfigError for an expression that does not fit the columns, ContractError for files that cannot be read,
    rows without id or time, or a domain without clicks.
    """
    taken = [path.name for path in root.glob("domain=*")] if root.exists() else []
    if taken:
        raise ConfigError(
            f"{root} already holds {', '.join(sorted(taken))}; import into an empty folder."
        )
    bad = sorted(set(mapping.features) & RESERVED_COLUMNS)
    if bad:
        raise ConfigError(
            f"mapping features.{bad[0]}: the contract itself has a column of that name; choose another."
        )
    root.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=root, prefix="_import-") as folder,
        _connect(folder, memory, threads) as db,
    ):
        staging = Path(folder)
        for name, join in mapping.joins.items():
            db.execute(f"CREATE TABLE {_name(name)} AS SELECT * FROM {_reader(join, source)}")
        logs = _matches(mapping.log, source)
        read = 0
        for position, path in enumerate(logs):
            db.execute(
                f"CREATE OR REPLACE VIEW log AS SELECT * FROM {_reader(mapping.log, source, [path])}"
            )
            _check(db, mapping)
            read += _stage(db, mapping, staging / f"raw-{position}", Path(path))
            if on_file:
                on_file(Path(path).name, 1)
        counts = _finish(db, staging, on_file)
        kept = {domain: counts.get(domain, (0, 0, 0)) for domain in DOMAINS}
        for domain, (rows, clicks, _) in kept.items():
            if not clicks:
                raise ContractError(
                    f"The log has {rows:,} impressions and {clicks} clicks of domain '{domain}', "
                    "expected some of both; check 'domain' and 'click' in the mapping: "
                    f"{mapping.domain}; {mapping.click}."
                )
        days = sorted(
            path.name.split("=")[1] for path in (staging / "final").glob("domain=*/date=*")
        )
        for domain_folder in sorted((staging / "final").iterdir()):
            domain_folder.rename(root / domain_folder.name)
    natural, ads = kept["natural"], kept["ads"]
    duplicates = natural[2] + ads[2]
    left_out = read - natural[0] - ads[0] - duplicates
    return Imported(read, natural[0], ads[0], left_out, duplicates, days[0], days[-1])


def _stage(db: duckdb.DuckDBPyConnection, mapping: Mapping, target: Path, path: Path) -> int:
    """One log file, mapped and split by domain and day; returns its rows."""
    joins = " ".join(
        f"LEFT JOIN {_name(n)} ON log.{_name(j.key)} = {_name(n)}.{_name(j.key)}"
        for n, j in mapping.joins.items()
    )
    features = "".join(f", ({text}) AS {_name(name)}" for name, text in mapping.features.items())
    try:
        row = db.execute("SELECT count(*) FROM log").fetchone()
        db.execute(
            f"""
            COPY (
                SELECT * EXCLUDE _domain, _domain AS domain, ts::DATE AS date FROM (
                    SELECT ({mapping.user_id}) AS user_id, ({mapping.item_id}) AS item_id,
                           ({mapping.ts})::TIMESTAMPTZ AS ts, ({mapping.click})::BOOLEAN::TINYINT AS click,
                           ({mapping.domain})::VARCHAR AS _domain {features}
                    FROM log {joins}
                ) WHERE _domain IN ('natural', 'ads')
            ) TO '{_quoted(target)}' (FORMAT parquet, PARTITION_BY (domain, date), COMPRESSION zstd)
            """
        )
    except duckdb.Error as error:
        raise ContractError(
            f"{path} cannot be read as the mapping says: {first_line(error)}"
        ) from None
    return int(row[0]) if row else 0


def _finish(
    db: duckdb.DuckDBPyConnection, staging: Path, on_file: Callable[[str, int], None] | None
) -> dict[str, tuple[int, int, int]]:
    """One ordered file per domain and day without doubles; returns rows, clicks and doubles per domain."""
    counts: dict[str, tuple[int, int, int]] = {}
    for partition in sorted(
        {path.relative_to(path.parents[1]) for path in staging.glob("raw-*/domain=*/date=*")}
    ):
        domain, date = (part.split("=")[1] for part in partition.parts)
        if date.startswith("__"):
            raise ContractError(
                f"Rows of domain '{domain}' have no time; check 'ts' in the mapping."
            )
        files = ", ".join(
            f"'{_quoted(path)}'" for path in sorted(staging.glob(f"raw-*/{partition}/*.parquet"))
        )
        db.execute(
            f"CREATE OR REPLACE VIEW day AS SELECT * FROM read_parquet([{files}], hive_partitioning = false)"
        )
        target = staging / "final" / partition / "part-0.parquet"
        target.parent.mkdir(parents=True)
        db.execute(
            "COPY (SELECT DISTINCT ON (user_id, item_id, ts) * FROM day ORDER BY ts, user_id, item_id, click DESC) "
            f"TO '{_quoted(target)}' (FORMAT parquet, COMPRESSION zstd)"
        )
        before = db.execute(
            "SELECT count(*), count(user_id), count(item_id) FROM day"
        ).fetchone() or (0, 0, 0)
        if min(before[1:]) < before[0]:
            raise ContractError(
                f"{domain} {date}: {before[0] - min(before[1:])} rows without user or item id; check the mapping."
            )
        made = f"read_parquet('{_quoted(target)}', hive_partitioning = false)"
        rows, clicks = db.execute(
            f"SELECT count(*), coalesce(sum(click), 0) FROM {made}"
        ).fetchone() or (0, 0)
        known = counts.get(domain, (0, 0, 0))
        counts[domain] = (known[0] + rows, known[1] + int(clicks), known[2] + before[0] - rows)
        if on_file:
            on_file(f"{domain} {date}", 0)
    return counts


def _check(db: duckdb.DuckDBPyConnection, mapping: Mapping) -> None:
    """Bind every expression alone, so that an error names its key."""
    columns = [row[0] for row in db.execute("DESCRIBE log").fetchall()]
    for name, join in mapping.joins.items():
        own = [row[0] for row in db.execute(f"DESCRIBE {_name(name)}").fetchall()]
        if join.key not in columns or join.key not in own:
            where = "the log" if join.key not in columns else f"its files ({', '.join(own)})"
            raise ConfigError(f"mapping joins.{name}.key: no column '{join.key}' in {where}.")
        row = db.execute(
            f"SELECT count(*) - count(DISTINCT {_name(join.key)}) FROM {_name(name)}"
        ).fetchone()
        if row and row[0]:
            raise ContractError(
                f"mapping joins.{name}: expected one row per {join.key}, found {row[0]} more."
            )
    tables = " ".join(f", {_name(name)}" for name in mapping.joins)
    for key, text in mapping.expressions().items():
        try:
            db.execute(f"SELECT ({text}) FROM log {tables} LIMIT 0")
        except duckdb.Error as error:
            raise ConfigError(
                f"mapping {key}: '{text}' does not fit the log: {first_line(error)}. "
                f"The log's columns: {', '.join(columns)}."
            ) from None


@contextmanager
def _connect(folder: str, memory: str, threads: int) -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as db:
        db.execute(f"SET memory_limit = '{memory}'")
        db.execute(f"SET threads = {threads}")
        db.execute(f"SET temp_directory = '{_quoted(Path(folder) / 'spill')}'")
        db.execute("SET TimeZone = 'UTC'")
        db.execute("SET enable_progress_bar = false")
        db.execute("SET preserve_insertion_order = false")
        yield db


def _matches(table: Table, source: Path) -> list[str]:
    found = []
    for pattern in table.files:
        matches = sorted(glob.glob(str(source / pattern)))
        if not matches:
            raise ConfigError(f"No file matches '{pattern}' in {source}.")
        found += matches
    return found


def _reader(table: Table, source: Path, paths: list[str] | None = None) -> str:
    files = ", ".join(f"'{_quoted(path)}'" for path in paths or _matches(table, source))
    if ".parquet" in files:
        return f"read_parquet([{files}], hive_partitioning = false)"
    options = ["union_by_name = true", "sample_size = 200000"]
    if table.delimiter:
        options.append(f"delim = '{_quoted(table.delimiter)}'")
    if table.header is not None:
        options.append(f"header = {str(table.header).lower()}")
    if table.names:
        options.append("names = [" + ", ".join(f"'{_quoted(name)}'" for name in table.names) + "]")
    return f"read_csv([{files}], {', '.join(options)})"


def _quoted(value: object) -> str:
    return str(value).replace("'", "''")


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
