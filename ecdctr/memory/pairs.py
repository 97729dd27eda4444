"""A day's extract: what each user was shown and clicked, per item or per value of a feature."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from ecdctr.domains import DOMAINS


def pairs_sql(views: dict[str, str], key: str, date: dt.date) -> str:
    """Return a query over a day's impressions, of which `views` names one relation per domain.

    Columns: user_id, value, day, and per domain shown and clicks; rows without a value left out.
    """
    parts = [
        f"SELECT '{domain}' AS domain, user_id, \"{key}\" AS value, click FROM {view}"
        for domain, view in views.items()
    ]
    sums = ", ".join(
        f"count(*) FILTER (domain = '{domain}')::INTEGER AS {domain}_shown, "
        f"coalesce(sum(click) FILTER (domain = '{domain}'), 0)::INTEGER AS {domain}_clicks"
        for domain in DOMAINS
    )
    return f"""
        SELECT user_id, value, DATE '{date}' AS day, {sums}
        FROM ({" UNION ALL ".join(parts)}) WHERE value IS NOT NULL
        GROUP BY user_id, value ORDER BY user_id, value
    """


def as_counts(windows: Sequence[int], sign: int = 1) -> str:
    """Return a day's columns as those of a table: the same counts for every window given."""
    columns = [
        f"{'-' if sign < 0 else ''}{domain}_{what} AS {domain}_{what}_{window}"
        for domain in DOMAINS
        for what in ("shown", "clicks")
        for window in windows
    ]
    if sign > 0:
        columns += [
            f"CASE WHEN {domain}_clicks > 0 THEN day END AS {domain}_last" for domain in DOMAINS
        ]
    return ", ".join(["user_id", "value", *columns])
