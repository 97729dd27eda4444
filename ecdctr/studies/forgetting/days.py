"""The days that a study asks about."""

from __future__ import annotations

import datetime as dt

from ecdctr.errors import ConfigError
from ecdctr.impressions.days import window

# To forget a day it takes one to learn it, one to forget it, and one to compare them with
LEAST = 3


def study_days(first: dt.date, last: dt.date) -> list[dt.date]:
    """Return the days of a study, oldest first; raises ConfigError for fewer than three."""
    count = (last - first).days + 1
    if count < LEAST:
        raise ConfigError(f"{first} to {last}: expected three days or more, oldest first.")
    return window(last, count)
