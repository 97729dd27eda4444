"""Whether a text is a schedule that cron can keep.

No library, since a configuration loads without Airflow.
"""

from __future__ import annotations

import re

MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
DAYS_IN_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
FIELDS = (
    ("minute", 0, 59, ()),
    ("hour", 0, 23, ()),
    ("day of the month", 1, 31, ()),
    ("month", 1, 12, MONTHS),
    ("day of the week", 0, 7, WEEKDAYS),
)
PART = re.compile(r"(\*|(?P<low>\w+)(-(?P<high>\w+))?)(/(?P<step>\d{1,4}))?", re.ASCII)


def cron_problem(text: str) -> str | None:
    """Say what keeps a text from being five fields of cron, or one of PRESETS; None if it is."""
    if text in PRESETS:
        return None
    parts = text.split()
    if len(parts) != len(FIELDS):
        return f"'{text}' has {len(parts)} fields"
    values = []
    for part, (name, low, high, names) in zip(parts, FIELDS, strict=True):
        numbers = _values(part, low, high, names)
        if not numbers:
            return f"'{part}' is no {name}, which is {low} to {high}"
        values.append(numbers)
    _, _, days, months, _ = values
    if parts[4] == "*" and not any(min(days) <= DAYS_IN_MONTH[month - 1] for month in months):
        return f"'{text}' names a day that no month has"
    return None


def _values(field: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    """Return the numbers that a field stands for; none if a part of it cannot be read."""
    values: set[int] = set()
    for part in field.split(","):
        match = PART.fullmatch(part)
        step = int(match["step"] or 1) if match else 0
        if match is None or not 1 <= step <= high:
            return set()
        first, last = low, high
        if match["low"]:
            first = _number(match["low"], low, names)
            last = _number(match["high"], low, names) if match["high"] else first
            if match["step"] and not match["high"]:
                last = high
        if not low <= first <= last <= high:
            return set()
        values.update(range(first, last + 1, step))
    return values


def _number(text: str, low: int, names: tuple[str, ...]) -> int:
    """Return a number or a name as a number; -1 for anything else."""
    if text.lower() in names:
        return names.index(text.lower()) + (low if low else 0)
    return int(text) if text.isdigit() and len(text) < 3 else -1
