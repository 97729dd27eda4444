"""Is a day like the days before it?

Counts, click-through rate, nulls and distributions against a trailing window.

The contract says what a row must be; a day can keep it and still be wrong: half delivered, labels
flipped, a feature gone, a category flood. Each finding names the measure, what was expected and
what was found.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
from pathlib import Path
from typing import NamedTuple

import duckdb

from ecdctr.config import Config, Domain, digest
from ecdctr.errors import ContractError, lacks_room
from ecdctr.impressions.contract import connect, unreadable
from ecdctr.impressions.days import whole_days
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.profile import Profile, measure
from ecdctr.impressions.reading import keep, settled
from ecdctr.impressions.schema import sound_schema
from ecdctr.impressions.shift import (
    Distinct,
    Sample,
    population_stability_index,
    unseen_share,
)

FEWEST_DAYS = 3
DAY = dt.timedelta(days=1)
# A change is told when it is this many times that of the same days of earlier rotations
USUAL = 1.5
ROTATIONS = 3  # of which so many are looked at


class Finding(NamedTuple):
    """One way in which a day is unlike the days before it."""

    domain: Domain
    date: dt.date
    measure: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return (
            f"{self.domain} {self.date}: {self.measure}: expected {self.expected}, found "
            f"{self.actual}"
        )


@settled
def check_day(config: Config, domain: Domain, date: dt.date) -> list[Finding]:
    """Compare a day with the `quality.trailing_days` before it.

    Nothing is said with fewer than three days there. Raises ContractError with all findings when
    `quality.action` is 'stop'.
    """
    settings = config.quality
    if settings.action == "off":
        return []
    with connect(config) as connection:
        days = Days(connection, config, domain)
        before = days.before(date)
        if len(before) < FEWEST_DAYS:
            return []
        compared = _compare(config, days.profile(date), [days.profile(day) for day in before])
        usual = _usual_changes(days, config, date)
        compared += _compare_values(config, _changes(days, config, date), usual)
    findings = [Finding(domain, date, *finding) for finding in compared]
    if findings and settings.action == "stop":
        text = ". ".join(map(str, findings))
        raise ContractError(
            f"{text}. Deliver the day again, or set quality.action: warn if the day is right."
        )
    return findings


class Days:
    """The profiles of a domain's days that are delivered whole, each read once."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain
    ) -> None:
        self.connection, self.config, self.domain = connection, config, domain
        self._profiles: dict[dt.date, Profile] = {}

    def before(self, date: dt.date) -> list[dt.date]:
        """Return the trailing days of a date."""
        most = self.config.quality.trailing_days
        return whole_days(self.config, self.domain, dt.date.min, date - DAY, most, alone=True)

    def has(self, date: dt.date) -> bool:
        """Say whether a day is there."""
        return bool(whole_days(self.config, self.domain, date - DAY, date, 1, alone=True))

    def profile(self, date: dt.date) -> Profile:
        """Return the profile of one day."""
        if date not in self._profiles:
            self._profiles[date] = _profile(self.connection, self.config, self.domain, date)
        return self._profiles[date]


def _compare(config: Config, today: Profile, past: list[Profile]) -> list[tuple[str, str, str]]:
    q, findings = config.quality, []
    rows = statistics.median(profile.rows for profile in past)
    if not q.min_rows_ratio * rows <= today.rows <= q.max_rows_ratio * rows:
        expected = f"{q.min_rows_ratio * rows:,.0f} to {q.max_rows_ratio * rows:,.0f}"
        findings.append(("impressions", expected, f"{today.rows:,}"))
    total = max(sum(profile.rows for profile in past), 1)
    ctr = sum(profile.clicks for profile in past) / total
    if not ctr / q.max_ctr_ratio <= today.ctr <= ctr * q.max_ctr_ratio:
        expected = f"{ctr / q.max_ctr_ratio:.4f} to {min(ctr * q.max_ctr_ratio, 1):.4f}"
        findings.append(("click-through rate", expected, f"{today.ctr:.4f}"))
    for name in today.nulls:
        usual = sum(profile.nulls.get(name, 0) for profile in past) / total
        share = today.nulls[name] / max(today.rows, 1)
        if share - usual > q.max_null_increase:
            findings.append(
                (f"nulls of {name}", f"at most {usual + q.max_null_increase:.1%}", f"{share:.1%}")
            )
    return findings


class Change(NamedTuple):
    """How a categorical feature of a day differs from the days before it."""

    unseen: float  # share of values that none of them has, less what sampling makes
    shift: float  # population stability index, the smallest of several comparisons


def _changes(days: Days, config: Config, date: dt.date) -> dict[str, Change]:
    """Compare each categorical feature with the days before.

    The trailing days, the day before, and the day one rotation earlier.

    A mix that rotates is unlike the trailing days all week; it is like yesterday, or like this
    weekday a week ago.
    """
    q = config.quality
    today, past = days.profile(date), [days.profile(day) for day in days.before(date)]
    single = [past[-1]] if past else []
    rotation = date - dt.timedelta(days=q.rotation_days)
    single += [days.profile(rotation)] if days.has(rotation) else []
    changes = {}
    for name in today.values:
        sample = today.sample(name)
        trailing = Sample.pooled(profile.sample(name) for profile in past)
        past_values = Distinct.pooled(profile.distinct(name) for profile in past)
        references = [trailing, *(profile.sample(name) for profile in single)]
        changes[name] = Change(
            unseen_share(past_values, today.distinct(name)),
            min(population_stability_index(reference, sample) for reference in references),
        )
    return changes


def _usual_changes(days: Days, config: Config, date: dt.date) -> dict[str, Change]:
    """Return the largest of what the same days of the rotations before showed."""
    usual: dict[str, Change] = {}
    for n in range(1, ROTATIONS + 1):
        then = date - dt.timedelta(days=n * config.quality.rotation_days)
        if days.has(then) and len(days.before(then)) >= FEWEST_DAYS:
            for name, change in _changes(days, config, then).items():
                largest = usual.get(name, change)
                usual[name] = Change(*map(max, largest, change))
    return usual


def _compare_values(
    config: Config, now: dict[str, Change], usual: dict[str, Change]
) -> list[tuple[str, str, str]]:
    """Compare values; `usual` is what days one rotation earlier and more showed.

    A rotation's turn is unlike any day before it.
    """
    q, findings = config.quality, []
    for name, change in now.items():
        then = usual.get(name, Change(0, 0))
        unseen = max(q.max_unseen_share, USUAL * then.unseen)
        shift = max(q.max_psi, USUAL * then.shift)
        if change.unseen > unseen:
            text = f"at most {unseen:.1%}"
            findings.append((f"values of {name} never seen before", text, f"{change.unseen:.1%}"))
        elif change.shift > shift:
            text = f"PSI at most {shift:.2f}"
            findings.append((f"distribution of {name}", text, f"{change.shift:.2f}"))
    return findings


def _profile(
    connection: duckdb.DuckDBPyConnection, config: Config, domain: Domain, date: dt.date
) -> Profile:
    """Return a day's profile, kept beside the prepared examples under the digest of its content."""
    features = [(feature.name, feature.kind) for feature in config.features]
    impressions = open_impressions(config.data.root)
    folder = config.data.prepared / "profiles" / f"domain={domain}" / f"date={date}"

    def path() -> Path:
        said = [impressions.digest(domain, date), features, Profile._fields, duckdb.__version__]
        return folder / f"{digest(said)[:20]}.json"

    def write(temporary: Path) -> None:
        schema = sound_schema(impressions.files(domain, date), config.features)
        try:
            made = measure(connection, schema, features)
        except duckdb.Error as error:  # statistics of the file that its values contradict
            if lacks_room(error):
                raise
            raise ContractError(f"{unreadable(connection, schema, error)}.") from None
        temporary.write_text(json.dumps(made._asdict()), "utf-8")

    target = path()
    keep(target, write, lambda: path() == target, impressions.where(domain, date))
    return Profile(**json.loads(target.read_text("utf-8")))
