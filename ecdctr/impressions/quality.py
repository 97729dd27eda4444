"""Is a day like the days before it? Counts, click-through rate, nulls and distributions against a trailing window.

The contract says what a row must be; a day can keep it and still be wrong: half delivered, labels flipped, a feature
gone, a category flood. Each finding names the measure, what was expected and what was found.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

import duckdb
import numpy as np

from ecdctr.config import Config, Domain, digest
from ecdctr.errors import ContractError
from ecdctr.files import durable
from ecdctr.impressions.contract import connect
from ecdctr.impressions.days import available_dates, day_files, digest_day

TOP_VALUES = 1000
SMOOTHING = 1e-4
FEWEST_DAYS = 3


class Profile(NamedTuple):
    """What is kept of a day: sizes, nulls per feature, counts of each categorical feature's most frequent values."""

    rows: int
    clicks: int
    nulls: dict[str, int]
    values: dict[str, dict[str, int]]

    @property
    def ctr(self) -> float:
        """Click-through rate."""
        return self.clicks / max(self.rows, 1)


class Finding(NamedTuple):
    """One way in which a day is unlike the days before it."""

    domain: Domain
    date: dt.date
    measure: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.domain} {self.date}: {self.measure}: expected {self.expected}, found {self.found}"


def check_day(config: Config, domain: Domain, date: dt.date) -> list[Finding]:
    """Compare a day with the `quality.trailing_days` before it; nothing is said with fewer than three days there.

    Raises ContractError with all findings when `quality.action` is 'stop'.
    """
    wanted = config.quality
    if wanted.action == "off":
        return []
    before = [day for day in available_dates(config.data.root, domain) if day < date][
        -wanted.trailing_days :
    ]
    if len(before) < FEWEST_DAYS:
        return []
    with connect(config) as connection:
        past = [_profile(connection, config, domain, day) for day in before]
        today = _profile(connection, config, domain, date)
    findings = [Finding(domain, date, *finding) for finding in _compare(config, today, past)]
    if findings and wanted.action == "stop":
        text = ". ".join(map(str, findings))
        raise ContractError(
            f"{text}. Deliver the day again, or set quality.action: warn if the day is right."
        )
    return findings


def population_stability_index(expected: dict[str, int], found: dict[str, int]) -> float:
    """PSI = Σ (q - p) ln(q / p) over the values of both, shares p and q smoothed by 1e-4; above 0.25 is a big shift."""
    names = sorted(set(expected) | set(found))
    p, q = (
        np.array([counts.get(name, 0) for name in names], dtype=np.float64)
        for counts in (expected, found)
    )
    p, q = p / max(p.sum(), 1) + SMOOTHING, q / max(q.sum(), 1) + SMOOTHING
    return float(((q - p) * np.log(q / p)).sum())


def _compare(config: Config, today: Profile, past: list[Profile]) -> list[tuple[str, str, str]]:
    q, found = config.quality, []
    rows = statistics.median(profile.rows for profile in past)
    if not q.min_rows_ratio * rows <= today.rows <= q.max_rows_ratio * rows:
        expected = f"{q.min_rows_ratio * rows:,.0f} to {q.max_rows_ratio * rows:,.0f}"
        found.append(("impressions", expected, f"{today.rows:,}"))
    total = max(sum(profile.rows for profile in past), 1)
    ctr = sum(profile.clicks for profile in past) / total
    if not ctr / q.max_ctr_ratio <= today.ctr <= ctr * q.max_ctr_ratio:
        expected = f"{ctr / q.max_ctr_ratio:.4f} to {ctr * q.max_ctr_ratio:.4f}"
        found.append(("click-through rate", expected, f"{today.ctr:.4f}"))
    for name in today.nulls:
        usual = sum(profile.nulls.get(name, 0) for profile in past) / total
        share = today.nulls[name] / max(today.rows, 1)
        if share - usual > q.max_null_increase:
            found.append(
                (f"nulls of {name}", f"at most {usual + q.max_null_increase:.1%}", f"{share:.1%}")
            )
    for name, counts in today.values.items():
        known: dict[str, int] = {}
        for profile in past:
            for value, count in profile.values.get(name, {}).items():
                known[value] = known.get(value, 0) + count
        size = max(sum(counts.values()), 1)
        if all(len(profile.values.get(name, {})) < TOP_VALUES for profile in past):
            unseen = sum(count for value, count in counts.items() if value not in known) / size
            if unseen > q.max_unseen_share:
                expected = f"at most {q.max_unseen_share:.1%}"
                found.append((f"values of {name} never seen before", expected, f"{unseen:.1%}"))
                continue
        shift = population_stability_index(known, counts)
        if shift > q.max_psi:
            found.append((f"distribution of {name}", f"PSI at most {q.max_psi}", f"{shift:.2f}"))
    return found


def _profile(
    connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain, date: dt.date
) -> Profile:
    """A day's profile, kept beside the prepared examples under the digest of its content."""
    features = [(feature.name, feature.kind) for feature in config.features]
    name = digest([digest_day(config.data.root, domain, date), features])[:20]
    path = config.data.prepared / "profiles" / f"domain={domain}" / f"date={date}" / f"{name}.json"
    if path.exists():
        return Profile(**json.loads(path.read_text()))
    made = _measure(
        connection, [str(file) for file in day_files(config.data.root, domain, date)], features
    )
    durable.make_dir(path.parent)
    with durable.replacing(path) as temporary:
        temporary.write_text(json.dumps(made._asdict()))
    return made


def _measure(
    connection: duckdb.DuckDBPyConnection, paths: list[str], features: Sequence[tuple[str, str]]
) -> Profile:
    source = "read_parquet($files, hive_partitioning = false)"
    nulls = "".join(f', count(*) - count("{name}")' for name, _ in features)
    row = _one(connection, f"SELECT count(*), coalesce(sum(click), 0){nulls} FROM {source}", paths)
    values = {}
    for name, kind in features:
        if kind == "categorical":
            query = (
                f'SELECT "{name}"::VARCHAR, count(*) AS n FROM {source} WHERE "{name}" IS NOT NULL '
                f"GROUP BY 1 ORDER BY n DESC, 1 LIMIT {TOP_VALUES}"
            )
            values[name] = dict(connection.execute(query, {"files": paths}).fetchall())
    names = [name for name, _ in features]
    return Profile(
        int(row[0]), int(row[1]), dict(zip(names, map(int, row[2:]), strict=True)), values
    )


def _one(connection: duckdb.DuckDBPyConnection, query: str, paths: list[str]) -> tuple[Any, ...]:
    row = connection.execute(query, {"files": paths}).fetchone()
    assert row is not None  # noqa: S101  # an aggregate always has one row
    return row
