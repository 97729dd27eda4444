"""Floors of a data date, kept in a file that names what they rest on."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ecdctr.code import code_digest
from ecdctr.config import digest
from ecdctr.examples.held_out import prepare_held_out
from ecdctr.examples.prepare import prepare
from ecdctr.files import durable
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.studies.floors import Floor, floors, remembering

if TYPE_CHECKING:
    from ecdctr.config import Config

# Where floors and their metrics are defined; days have fingerprints of their own
EVALUATED_BY = (
    "evaluation.basis",
    "evaluation.evaluate",
    "evaluation.expected",
    "evaluation.metrics",
    "examples.batches",
    "examples.chunks",
    "examples.transforms",
    "examples.vocabulary",
    "memory.columns",
    "studies.floors",
)
DAMAGE = (ValueError, KeyError, TypeError)  # of a file that a disk, or a person, changed


def kept_floors(config: Config, date: dt.date, folder: Path) -> list[Floor]:
    """Return the floors of a data date, kept in a file of `folder` that names what they rest on.

    Raises as `floors` does.
    """
    path = folder / f"{date}-{_basis(config, date)[:20]}.json"
    with contextlib.suppress(FileNotFoundError, *DAMAGE):  # then they are made, or made anew
        return [_unpacked(one) for one in json.loads(path.read_bytes())]
    made = floors(config, date)
    durable.make_dir(folder)
    durable.replace_text(path, json.dumps([_packed(one) for one in made]))
    return made


def _basis(config: Config, date: dt.date) -> str:
    """Digest what the floors of a data date rest on: code, settings, and all days that they read.

    Each day's fingerprint knows the days that it looks back on.
    """
    config, next_day = remembering(config), date + dt.timedelta(days=1)
    until = [one for one in open_impressions(config.data.root).dates("ads") if one <= date]
    read = prepare(config, "ads", [*window(date, config.actr.window_days), next_day])
    counted = prepare(config, "ads", until, basic=True)
    held_out = prepare_held_out(config, next_day)
    days = [day.fingerprint for day in (*read, *counted, *([held_out] if held_out else []))]
    return digest(
        [
            code_digest(["studies.floors"], EVALUATED_BY),
            config.relevant("actr"),
            config.evaluation.low_activity_below,
            days,
        ]
    )


def _packed(floor: Floor) -> dict[str, Any]:
    expected = None if floor.expected is None else floor.expected.to_pydict()
    return floor._asdict() | {"users": floor.users.to_pydict(), "expected": expected}


def _unpacked(packed: dict[str, Any]) -> Floor:
    expected = None if packed["expected"] is None else pa.table(packed["expected"])
    return Floor(**packed | {"users": pa.table(packed["users"]), "expected": expected})
