"""False alarms of the daily check on distributions.

The plain population stability index against the one in use. python -m benchmarks.quality
# days drawn from one distribution python -m benchmarks.quality --config C --domain ads --days 200
# a log's own days
"""

from __future__ import annotations

import argparse
import datetime as dt
from pathlib import Path

import numpy as np

from ecdctr.config import Config, load_config
from ecdctr.impressions.contract import connect
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.quality import FEWEST_DAYS, TOP_VALUES, Days, check_day
from ecdctr.impressions.shift import Sample, population_stability_index

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
    return Sample({str(i): int(counts[i]) for i in frequent if counts[i]}, rows)


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


if __name__ == "__main__":
    main()
