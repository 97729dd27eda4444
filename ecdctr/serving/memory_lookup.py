"""What a bundle remembers of users: its weekly tables, and the days since them from the request."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ecdctr.domains import DOMAINS
from ecdctr.errors import EcdctrError
from ecdctr.examples import transforms
from ecdctr.memory.columns import input_names, inputs, never
from ecdctr.memory.lookup import NEVER, Facts, KeyTable
from ecdctr.serving.once import Once
from ecdctr.serving.rules import RequestError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ecdctr.serving.request import Recent

EPOCH = dt.date(1970, 1, 1)
WEEK = 7  # days after it of which preparation reads a table


class Remembered:
    """The memory of a bundle; what is unknown is nan, for which the network takes the mean."""

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        """Map the tables; raises EcdctrError when one is missing or damaged."""
        self.windows: list[int] = description["windows"]
        self.end = dt.date.fromisoformat(description["until"])
        self.until = (self.end - EPOCH).days
        self._once = Once()
        try:
            self.tables = {key: KeyTable(folder, key) for key in description["keys"]}
        except (OSError, ValueError) as error:
            raise EcdctrError(
                f"{folder}: the memory of users cannot be read ({error}); export the bundle again."
            ) from None

    def columns(
        self, values: dict[str, list[Any]], recent: list[Recent] | None, moment: int
    ) -> dict[str, NDArray[np.float32]]:
        """Make what preparation makes of the user's memory for each candidate [candidates].

        `values` are the request's, by name; `recent` the user's impressions since the tables, None
        where they are unknown. Raises RequestError for one in the future or from before.
        """
        inputs: dict[str, NDArray[np.float32]] = {}
        (user,) = values["user_id"]
        self._tell_if_old(moment // transforms.DAY)
        events = None if recent is None else self._events(recent, moment)
        for key, table in self.tables.items():
            names = input_names([key], self.windows)
            made = np.full((len(values[key]), len(names)), np.nan, np.float32)
            rows = [i for i, value in enumerate(values[key]) if value is not None]
            if user is not None and events is not None and rows:
                asked = [values[key][i] for i in rows]
                day = moment // transforms.DAY
                made[rows] = self._inputs(key, table.facts(user, asked), asked, events, day)
            inputs |= dict(zip(names, made.T, strict=True))
        return inputs

    def _tell_if_old(self, day: int) -> None:
        """Say once where training would have read a newer table on a day since 1970."""
        if day - self.until > WEEK:
            self._once.warn(
                "This bundle remembers users up to %s, and a request is of %s: training reads "
                "tables of at most %d days, so counts are of longer windows than it saw. Export a "
                "version with a newer TPM behind it.",
                self.end, EPOCH + dt.timedelta(days=day), WEEK,
            )  # fmt: skip

    def _inputs(
        self,
        key: str,
        facts: Facts,
        values: list[Any],
        events: list[tuple[int, Recent]],
        day: int,
    ) -> NDArray[np.float32]:
        """Return the inputs of values that are known [n, inputs of a key], on a day since 1970."""
        shape = (len(values), len(DOMAINS), len(self.windows), 2)
        counts, last = facts.counts.reshape(shape).astype(np.int64), facts.last
        for when, event in events:
            if when >= day:
                continue  # counts end with the day before
            domain = DOMAINS.index(event.domain)
            same = np.array([value == event.values[key] for value in values], bool)
            counts[same, domain, :, 0] += 1
            if event.click:
                counts[same, domain, :, 1] += 1
                last[same, domain] = np.maximum(last[same, domain], when)
        gaps = np.where(last == NEVER, never(self.windows[-1]), day - last.astype(np.float64))
        made = []
        for domain in range(len(DOMAINS)):
            shown, clicks = (list(counts[:, domain, :, part].T) for part in (0, 1))
            made += inputs(np.log, clicks, shown, gaps[:, domain])
        return np.stack(made, axis=1).astype(np.float32)

    def _events(self, recent: list[Recent], moment: int) -> list[tuple[int, Recent]]:
        """Return the day since 1970 of each impression, and the impression."""
        events = []
        for i, event in enumerate(recent):
            then = round(event.ts * transforms.SECOND)
            if then > moment:
                raise RequestError(
                    f"recent[{i}].ts: expected nothing after ts, found {event.ts:.0f}."
                )
            if then // transforms.DAY <= self.until:
                raise RequestError(
                    f"recent[{i}].ts: expected a time after {self.end}, up to which this bundle "
                    f"remembers, found {event.ts:.0f}; leave out what lies before."
                )
            events.append((then // transforms.DAY, event))
        return events
