"""Examples of a simulated world's held-out ads.

Rows that nobody trains on, looking back on the world itself.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from ecdctr.config import Config, digest
from ecdctr.examples import histories
from ecdctr.examples.prepare import Prepared, build_examples, example_fingerprint
from ecdctr.files import durable
from ecdctr.impressions import contract
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.layout import HELD_OUT


def prepare_held_out(config: Config, date: dt.date) -> Prepared | None:
    """Prepare the held-out ads of a day; None where the impressions have none.

    History, counts and memory are those of the world's own impressions: a held-out click is seen by
    nobody.
    """
    fingerprint = held_out_fingerprint(config, date)
    if fingerprint is None:
        return None
    data = config.data.model_copy(update={"root": Path(config.data.root) / HELD_OUT})
    apart = config.model_copy(update={"data": data})
    path = config.data.prepared / HELD_OUT / f"date={date}" / f"{fingerprint[:20]}.parquet"
    if not histories.is_whole(path):  # a simulated world is never delivered again
        durable.make_dir(path.parent)
        with contract.connect(config) as connection, histories.sealing(path) as temporary:
            build_examples(connection, config, "ads", date, temporary, rows_of=apart)
    return Prepared(date, path, fingerprint)


def held_out_fingerprint(config: Config, date: dt.date) -> str | None:
    """Return what the examples of a day's held-out ads are made of; None where there are none."""
    root = config.data.root
    if not isinstance(root, Path):
        return None
    apart = open_impressions(root / HELD_OUT)
    if not apart.has("ads", date):
        return None
    return digest([example_fingerprint(config, "ads", date), apart.digest("ads", date)])
