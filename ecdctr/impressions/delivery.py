"""Whether a day has been delivered whole.

Its files alone tell, a marker beside them, or the rows that it promises.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import is_part

if TYPE_CHECKING:
    from ecdctr.config import Data, Domain

MARKER_BYTES = 1000


def other_domain(domain: Domain) -> Domain:
    """Return the domain that is not this one."""
    return "ads" if domain == "natural" else "natural"


class Delivery(NamedTuple):
    """How days are delivered under a root.

    `ready` and `marker` as in the configuration's section data.
    """

    root: Path | str
    ready: str
    marker: str

    @classmethod
    def of(cls, data: Data) -> Delivery:
        """Make it as configured."""
        return cls(data.root, data.ready, data.marker)

    def entries(self, domain: Domain, date: dt.date) -> dict[str, int]:
        """Return the names and bytes of what lies in the day's folder."""
        return open_impressions(self.root).entries(domain, date)

    def lacks(self, domain: Domain, date: dt.date) -> str | None:
        """Return what the day lacks to be whole, in words; None if it is."""
        entries = self.entries(domain, date)
        if not any(map(is_part, entries)):
            other = open_impressions(self.root).has(domain, date)
            return "no .parquet file is there" + (", but a folder or a link" if other else "")
        if self.ready == "files":
            return None
        if self.marker not in entries:
            return f"the marker {self.marker} is not there"
        if self.ready == "marker":
            return None
        if entries[self.marker] > MARKER_BYTES:
            size = f"{entries[self.marker]:,} bytes"
            return f"the marker {self.marker} should hold the number of rows, found {size}"
        return self._lacks_rows(domain, date)

    def is_in_both(self, domain: Domain, date: dt.date) -> bool:
        """Tell whether a day's files are those of the other domain, byte for byte."""
        impressions, other = open_impressions(self.root), other_domain(domain)
        here, there = (
            sorted(size for name, size in self.entries(one, date).items() if is_part(name))
            for one in (domain, other)
        )
        return here == there and impressions.digest(domain, date) == impressions.digest(other, date)

    def lacks_for_examples(self, domain: Domain, date: dt.date) -> str | None:
        """Return what the day lacks for its examples: that of the other domain is read, too.

        Histories and counts are of both. Before the other domain's first day nothing lacks there.
        """
        lacking = self.lacks(domain, date)
        other = other_domain(domain)
        dates = open_impressions(self.root).dates(other)
        if lacking or not dates or date < dates[0]:
            return lacking
        lacking = self.lacks(other, date)
        return f"its examples look at {other}, of which {lacking}" if lacking else None

    def _lacks_rows(self, domain: Domain, date: dt.date) -> str | None:
        import pyarrow as pa  # not at the top: a DAG file is parsed without it
        import pyarrow.parquet as pq

        impressions = open_impressions(self.root)
        text = impressions.read_text(domain, date, self.marker).strip()
        if not (text.isascii() and text.isdigit()):
            return f"the marker {self.marker} should hold the number of rows, found {text!r:.40}"
        try:
            rows = sum(pq.read_metadata(path).num_rows for path in impressions.files(domain, date))
        except (pa.ArrowException, OSError):  # still being written
            return "a file cannot be read as Parquet"
        difference = f"the marker {self.marker} says {int(text):,} rows, {rows:,} are there"
        return None if rows == int(text) else difference
