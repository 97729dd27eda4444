"""False alarms of the daily check on distributions.

The plain population stability index against the one in use, and what is new with rows and with
users as the unit, on days drawn from one distribution: python -m benchmarks.quality
On a log's own days: python -m benchmarks.quality --config C --domain ads --days 200
"""

from __future__ import annotations

import argparse
import datetime as dt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ecdctr.config import Config, Quality, load_config
from ecdctr.impressions.contract import connect
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.profile import HASHED_VALUES, TOP_VALUES
from ecdctr.impressions.quality import FEWEST_DAYS, Days, check_day
from ecdctr.impressions.shift import (
    HASHES,
    Distinct,
    Sample,
    population_stability_index,
    unseen_share,
)

LIMIT, SEEDS, TRAILING = 0.25, 200, 7
DRAWS = tuple(
    (rows, *shape) for rows in (2_000, 10_000) for shape in ((20, 1), (5_000, 1), (5_000, 0))
)


def plain(expected: Sample, today: Sample) -> float:
    """Return the textbook's index over every value, shares smoothed by 1e-4.

    What the check was before.
    """
    names = sorted({*expected.counts, *today.counts})
    p, q = (
        np.array([sample.counts.get(name, 0) for name in names], np.float64)
        for sample in (expected, today)
    )
    p, q = p / max(p.sum(), 1) + 1e-4, q / max(q.sum(), 1) + 1e-4
    return float(((q - p) * np.log(q / p)).sum())


def drawn(rng: np.random.Generator, rows: int, values: int, power: float) -> Sample:
    """Return a day of one distribution, as its profile keeps it.

    The k-th value has a chance that goes with k^-power.
    """
    chance = np.arange(1, values + 1) ** -float(power)
    counts = rng.multinomial(rows, chance / chance.sum())
    frequent = np.argsort(-counts, kind="stable")[:TOP_VALUES]
    return Sample({str(i): int(counts[i]) for i in frequent if counts[i]}, rows, rows)


def identical() -> None:
    """Compute both indices on days that differ by chance alone."""
    print(
        "| rows a day | values | chance of the k-th | plain: median, alarms | in use: median, "
        "alarms |\n|---|---|---|---|---|"
    )
    for rows, values, power in DRAWS:
        pairs: list[tuple[float, float]] = []
        for seed in range(SEEDS):
            rng = np.random.default_rng([seed, rows, values])
            past = Sample.pooled(drawn(rng, rows, values, power) for _ in range(TRAILING))
            today = drawn(rng, rows, values, power)
            pairs.append((plain(past, today), population_stability_index(past, today)))
        said = [
            f"{np.median(column):.2f}, {sum(v > LIMIT for v in column)} of {SEEDS}"
            for column in zip(*pairs, strict=True)
        ]
        print(f"| {rows:,} | {values:,} | {'1/k' if power else 'even'} | {' | '.join(said)} |")


class Visits(NamedTuple):
    """A log in which a user shows one value several times a day, such as a city or a device."""

    users: int  # of a day
    rows: int  # of a user's day
    values: int
    power: float
    stays: int = 1  # days that a user comes in a row; then others do
    spread: float = 0  # of the rows' logarithm around that of `rows`; 0: all users have as many


def visited(rng: np.random.Generator, shape: Visits, days: int) -> list[np.ndarray]:
    """Return users and values [rows, 2] of days whose users all draw their value alike."""
    chance = np.arange(1, shape.values + 1) ** -float(shape.power)
    chance /= chance.sum()
    fresh = -(-shape.users // shape.stays)  # of a day
    users = np.arange(fresh * (days + shape.stays))
    value = rng.choice(shape.values, len(users), p=chance)
    of_day = [users[fresh * day : fresh * (day + shape.stays)] for day in range(days)]
    logged = []
    for who in of_day:
        drawn_rows = np.exp(rng.normal(np.log(shape.rows), shape.spread, len(who)))
        rows = np.maximum(1, np.round(drawn_rows)).astype(int)
        logged.append(np.repeat(np.stack([who, value[who]], 1), rows, axis=0))
    return logged


UNITS = ("rows", "users", "effective users")


def profiled(day: np.ndarray, unit: str) -> tuple[Sample, Distinct]:
    """Return what a profile keeps of a day, with one of UNITS as the unit."""
    values, first, counts = np.unique(day[:, 1], return_index=True, return_counts=True)
    of_user = np.unique(day, axis=0)[:, 1]
    users = dict(zip(*np.unique(of_user, return_counts=True), strict=True))
    units_of = dict(zip(values, counts, strict=True)) if unit == "rows" else users
    alone = [value for value in values if units_of[value] == 1]
    who = dict(zip(values.tolist(), day[first, 0].tolist(), strict=True))
    hashes = np.random.default_rng(7).integers(0, HASHES - 1, int(values.max()) + 1, np.uint64)
    lowest = sorted((int(hashes[v]), int(v)) for v in values)[:HASHED_VALUES]
    rows = dict(zip(values.tolist(), counts.tolist(), strict=True))
    lone = {h: who[v] for h, v in lowest if v in set(map(int, alone))}
    seen = Distinct.lowest({h: rows[v] for h, v in lowest}, lone, len(day), HASHED_VALUES)
    top = sorted(rows, key=lambda v: -rows[v])[:TOP_VALUES]
    of_users = np.unique(day[:, 0], return_counts=True)[1]
    units = {
        "rows": float(len(day)),
        "users": float(len(of_users)),
        "effective users": float(of_users.sum() ** 2 / (of_users**2).sum()),
    }
    return Sample({str(v): rows[v] for v in top}, len(day), units[unit]), seen


VISITS = (
    Visits(150, 4, 2_000, 0), Visits(150, 4, 2_000, 1), Visits(500, 4, 5_000, 1),
    Visits(500, 20, 200, 0.5), Visits(150, 4, 2_000, 0, 5), Visits(500, 4, 10**6, 0, 3),
    Visits(500, 2, 200, 1, 1, 1.0), Visits(500, 2, 200, 1, 1, 1.5), Visits(500, 20, 10, 0, 1, 1.5),
)  # fmt: skip


def first_days(shape: Visits, unit: str, seeds: int = 12) -> list[int]:
    """Count days of a log's second half week that are told: by new values, and by the index."""
    told = [0, 0]
    for seed in range(seeds):
        rng = np.random.default_rng([seed, shape.users, shape.values])
        days = [profiled(day, unit) for day in visited(rng, shape, FEWEST_DAYS + 3)]
        for n in range(FEWEST_DAYS, len(days)):
            past = Sample.pooled(sample for sample, _ in days[:n])
            seen = Distinct.pooled(distinct for _, distinct in days[:n])
            told[0] += unseen_share(seen, days[n][1]) > Quality().max_unseen_share
            told[1] += population_stability_index(past, days[n][0]) > LIMIT
    return told


def visits() -> None:
    """Count false alarms where rows come in visits, in the first days of a log."""
    print(
        "\n| users a day | rows of each, spread of their logarithm | days in a row | values "
        "| chance of the k-th | by rows: new values, index | by users | by effective users |\n"
        "|---|---|---|---|---|---|---|---|"
    )
    for shape in VISITS:
        said = [first_days(shape, unit) for unit in UNITS]
        told = " | ".join(f"{new} of 36, {index} of 36" for new, index in said)
        power = f"1/k^{shape.power:g}" if shape.power else "even"
        print(
            f"| {shape.users:,} | {shape.rows}, {shape.spread:g} | {shape.stays} | "
            f"{shape.values:,} | {power} | {told} |"
        )


def logged(config: Config, domain: str, last: int) -> None:
    """Run both checks on the newest days of a log.

    Alarms about distributions and new values by feature.
    """
    config = config.model_copy(
        update={"quality": config.quality.model_copy(update={"action": "warn"})}
    )
    before: dict[str, int] = {}
    after: dict[str, int] = {}
    alarmed = [0, 0]
    dates = open_impressions(config.data.root).dates(domain)[-last:]
    with connect(config) as connection:
        days = Days(connection, config, domain)
        for date in dates:
            past = [days.profile(day) for day in days.before(date)]
            if len(past) < FEWEST_DAYS:
                continue
            old = _plain_alarms(config, days, date)
            new = [
                f for f in check_day(config, domain, date) if f.measure.startswith(("dist", "val"))
            ]
            for name in old:
                before[name] = before.get(name, 0) + 1
            for finding in new:
                name = finding.measure.split(" of ")[1].split()[0]
                after[name] = after.get(name, 0) + 1
            alarmed[0] += bool(old)
            alarmed[1] += bool(new)
    print(
        f"{domain}, {len(dates)} days to {dates[-1]}: days with an alarm before {alarmed[0]}, now "
        f"{alarmed[1]}"
    )
    for name in sorted({*before, *after}):
        print(f"  {name}: before {before.get(name, 0)}, now {after.get(name, 0)}")


def _plain_alarms(config: Config, days: Days, date: dt.date) -> list[str]:
    today, past = days.profile(date), [days.profile(day) for day in days.before(date)]
    alarms = []
    for name in today.values:
        trailing = Sample.pooled(profile.sample(name) for profile in past)
        unseen = sum(n for value, n in today.values[name].items() if value not in trailing.counts)
        share = unseen / max(sum(today.values[name].values()), 1)
        if plain(trailing, today.sample(name)) > LIMIT or share > config.quality.max_unseen_share:
            alarms.append(name)
    return alarms


def main() -> None:
    """As the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    parser.add_argument("--domain", default="ads")
    parser.add_argument("--days", type=int, default=200)
    asked = parser.parse_args()
    if asked.config:
        logged(load_config(asked.config), asked.domain, asked.days)
    else:
        identical()
        visits()


if __name__ == "__main__":
    main()
