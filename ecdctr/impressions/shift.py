"""How far two samples of a categorical feature are apart.

The population stability index, less what sampling alone makes. The plain index adds up a term per
value, and values that are rare differ between any two samples: of two samples of 2,000 draws from
one long-tailed distribution it is above 1. So values too rare to be compared are pooled, and what
is left for two samples of one distribution, about (B - 1) (1/n + 1/m) with B bins (half of PSI is a
chi-square statistic over n and m; Yurdakul and Naranjo, "Statistical properties of the population
stability index", 2020), is taken off. Rows of one user are no independent draws: a visit shows one
value several times. So n and m are users, not rows; and since users bring unequal rows, as many of
equal ones as are worth the same: (Σ r)² / Σ r² for r rows each (Kish, "Survey Sampling", 1965).

Of many rare values the index sees nothing. So the share of values that are new is looked at apart,
less what sampling makes of it, on those values whose hash is lowest: they are the same ones on
every day, so that whether one is new is known without keeping all (coordinated sampling; Cohen
2016). What sampling makes is the share of a day's rows whose values one user alone has brought, on
however many days: they would be new if that user were (Good 1953, with users in place of rows).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

FEWEST = 10  # users of a value that the smaller sample should hold, else the value is pooled
MOST_BINS = 50
HASHES = 2**64
PSEUDO_COUNT = 0.5  # so that a value that one sample lacks has a finite term


class Sample(NamedTuple):
    """Rows of a feature's most frequent values, rows that are not null, and users who have some.

    These as an effective number, as above.
    """

    counts: dict[str, int]
    total: int
    users: float

    @classmethod
    def pooled(cls, samples: Iterable[Sample]) -> Sample:
        """Pool samples as one."""
        counts: dict[str, int] = {}
        total, squares = 0, 0.0
        for sample in samples:
            total += sample.total
            squares += sample.total**2 / sample.users if sample.users else 0.0
            for value, count in sample.counts.items():
                counts[value] = counts.get(value, 0) + count
        return cls(counts, total, total**2 / squares if squares else 0)


class Distinct(NamedTuple):
    """Rows of the values whose hash lies below `limit`, by hash; `total` is that of all values.

    `lone` has of the values that one user alone has brought a hash of that user, and the rows of
    one day.
    """

    counts: dict[int, int]
    lone: dict[int, tuple[int, int]]
    total: int
    limit: int

    @classmethod
    def lowest(
        cls, counts: dict[int, int], users: dict[int, int], total: int, most: int
    ) -> Distinct:
        """Return of a day the `most` values with the lowest hashes, or all if there are fewer.

        `users` are those who alone had a value.
        """
        lone = {value: (user, counts[value]) for value, user in users.items()}
        return cls(counts, lone, total, max(counts) + 1 if len(counts) >= most else HASHES)

    @classmethod
    def pooled(cls, samples: Iterable[Distinct]) -> Distinct:
        """Pool samples as one."""
        samples = list(samples)
        limit = min((sample.limit for sample in samples), default=HASHES)
        counts: dict[int, int] = {}
        brought: dict[int, list[tuple[int, int] | None]] = {}
        for sample in samples:
            for value, count in sample.counts.items():
                if value < limit:
                    counts[value] = counts.get(value, 0) + count
                    brought.setdefault(value, []).append(sample.lone.get(value))
        lone = {}
        for value, days in brought.items():
            of_one = [day for day in days if day]
            if len(of_one) == len(days) and len({user for user, _ in of_one}) == 1:
                lone[value] = max(of_one)
        return cls(counts, lone, sum(sample.total for sample in samples), limit)


def unseen_share(expected: Distinct, today: Distinct) -> float:
    """Return the share of today's rows whose values `expected` lacks.

    Less what two samples of one distribution show, in [0, 1].
    """
    if not expected.total or not today.total:
        return 0.0
    limit = min(expected.limit, today.limit)
    new = sum(
        n for value, n in today.counts.items() if value < limit and value not in expected.counts
    )
    once = sum(n for value, (_, n) in expected.lone.items() if value < limit)
    part = limit / HASHES  # of all values
    return max(0.0, min(1.0, new / part / today.total) - once / part / expected.total)


def population_stability_index(expected: Sample, today: Sample) -> float:
    """Return Σ (q - p) ln(q / p) over bins, at least 0.

    Less its mean for two samples of one distribution.

    Shares p and q; a bin is a value that is frequent enough, or all others together. Above 0.25 is
    a big shift.
    """
    if not expected.total or not today.total:
        return 0.0
    values = _bins(expected, today)
    counts = [np.array([sample.counts.get(v, 0) for v in values]) for sample in (expected, today)]
    tails = [
        sample.total - int(kept.sum())
        for sample, kept in zip((expected, today), counts, strict=True)
    ]
    if any(tails):
        counts = [np.append(kept, tail) for kept, tail in zip(counts, tails, strict=True)]
    bins = len(counts[0])
    p, q = ((kept + PSEUDO_COUNT) / (kept.sum() + PSEUDO_COUNT * bins) for kept in counts)
    index = float(((q - p) * np.log(q / p)).sum())
    return max(0.0, index - (bins - 1) * (1 / expected.users + 1 / today.users))


def _bins(expected: Sample, today: Sample) -> list[str]:
    """Return the values of which the smaller sample holds FEWEST users' worth or more.

    They are ordered by their mean share, the most frequent ones first.
    """
    smaller = min(expected.users, today.users)
    shares = {
        value: (
            expected.counts.get(value, 0) / expected.total
            + today.counts.get(value, 0) / today.total
        )
        / 2
        for value in {*expected.counts, *today.counts}
    }
    frequent = [value for value, share in shares.items() if share * smaller >= FEWEST]
    return sorted(frequent, key=lambda value: (-shares[value], value))[: MOST_BINS - 1]
