"""What the log says of requests once and not at each of them."""

from __future__ import annotations

import datetime as dt
import logging
import threading

from ecdctr.examples import transforms

logger = logging.getLogger("ecdctr")


class Once:
    """Warnings of one loaded bundle, each said the first time that there is a reason."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._adding = threading.Lock()  # a service scores in several threads

    def warn(self, message: str, *values: object) -> None:
        """Log a warning unless one of this wording was logged before."""
        with self._adding:
            said = message in self._said
            self._said.add(message)
        if not said:
            logger.warning(message, *values)


def warn_of_unread(once: Once, times: list[int], moment: int, days: int) -> None:
    """Warn that a request brings clicks which no training would have read, once of each kind.

    The times of its clicks and its own are microseconds since 1970.
    """
    if max(times) > moment:
        once.warn(
            "A request's history holds a click after its ts, which is not read: %s is after %s. "
            "Look at the clocks and units of both.", _shown(max(times)), _shown(moment),
        )  # fmt: skip
    if min(times) < transforms.horizon(moment, days):
        once.warn(
            "A request's history holds a click of %s, from before the %d days up to %s that this "
            "model reads; it is not read and can be left out.",
            _shown(min(times)), days, _shown(moment),
        )  # fmt: skip


def _shown(moment: int) -> str:
    """Return microseconds since 1970 as a time, with its fraction of a second where it has one."""
    return dt.datetime.fromtimestamp(moment / transforms.SECOND, dt.UTC).isoformat(" ")
