"""The cells of a map: settings of a world with visits.

Each cell with the same number of impressions a day.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from ecdctr.errors import ConfigError
from ecdctr.files.strict_yaml import parse_yaml
from ecdctr.worlds.named import NamedWorld, load_world

# A plane is spanned by two axes; where planes cross they share their cells.
PLANES = (
    "visits_per_month=0.5,4,60 ads_share=0.003,0.02,0.1",
    "visits_per_month=0.5,4,60 repetition=0,0.1,0.3",
    "period=0,7,30,91 returning_interest=0.3,1.2",
    "domain_correlation=0.2,0.5,0.8 ads_share=0.003,0.02,0.1",
)
PERIOD = "period"  # days after which every user's interests return, 0: never


class Axis(NamedTuple):
    """One setting and its values."""

    name: str
    values: tuple[float, ...]


class Plane(NamedTuple):
    """Two axes; everything else is as in the base world."""

    x: Axis
    y: Axis


def parse_plane(text: str) -> Plane:
    """Read 'SETTING=VALUE,VALUE SETTING=VALUE,VALUE'; raises ConfigError for anything else."""
    parts = [part.partition("=") for part in text.split()]
    if len(parts) != 2 or not all(equals for _, equals, _ in parts):
        raise ConfigError(
            f"--plane '{text}': expected two axes like "
            "'visits_per_month=0.5,4,60 ads_share=0.003,0.02,0.1'."
        )
    x, y = (Axis(name, _values(name, values)) for name, _, values in parts)
    if x.name == y.name:
        raise ConfigError(f"--plane '{text}': expected two different settings.")
    return Plane(x, y)


def _values(name: str, text: str) -> tuple[float, ...]:
    values = tuple(parse_yaml(value, f"--plane {name}") for value in text.split(","))
    if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ConfigError(f"--plane {name}: expected numbers with commas, found '{text}'.")
    return values


def cells(
    plane: Plane, base: str, changes: Iterable[str], impressions_a_day: int
) -> dict[tuple[float, float], NamedWorld]:
    """Return the worlds of a plane by their place on it.

    Where planes cross, a world is the same on both. Raises ConfigError for a setting out of range.
    """
    return {
        (x, y): _world({plane.x.name: x, plane.y.name: y}, base, list(changes), impressions_a_day)
        for x, y in itertools.product(plane.x.values, plane.y.values)
    }


def _world(
    point: dict[str, float], base: str, changes: list[str], impressions_a_day: int
) -> NamedWorld:
    """Return the base with a point's settings, and the users that make the wanted impressions.

    A setting that equals the base's is left out, so that planes that cross share the cell.
    """
    before: Any = load_world(base, changes).settings
    if getattr(before, "kind", "") != "visits":
        raise ConfigError(f"World '{base}' has no visits; a map needs one that has.")
    values: dict[str, Any] = {}
    for name, value in point.items():
        values |= _settings(name, value, before.model_dump())
    rate = values.get("visits_per_month", before.visits_per_month)
    users = round(impressions_a_day * 30 / (rate * before.per_visit))
    told = {**values, "users": max(10, users)}
    return load_world(base, [*changes, *(f"{key}={json.dumps(told[key])}" for key in sorted(told))])


def _settings(name: str, value: float, before: dict[str, Any]) -> dict[str, Any]:
    if name == PERIOD:
        return (
            {"periods": [value], "period_shares": [1.0]}
            if value
            else {"period_shares": [0.0] * len(before["periods"])}
        )
    return {} if before.get(name) == value else {name: value}
