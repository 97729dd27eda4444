"""request.schema.json: what a request to a bundle looks like, as JSON Schema 2020-12."""

from __future__ import annotations

from typing import Any

from ecdctr.domains import DOMAINS
from ecdctr.serving.request import PRIOR, RECENT, RECENT_KEYS, Shape
from ecdctr.serving.rules import LATEST

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COUNTED = {
    f"{side}_{what}": f"ads {what} of the {side} in the {{days}} days before today, 0 for one that "
    "was never shown; left out: unknown"
    for side in ("user", "item")
    for what in ("impressions", "clicks")
}  # clicks are at most impressions, which JSON Schema cannot say


def request_schema(description: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the rules that requests of a bundle are checked by, as JSON Schema."""
    transforms = description["numeric"].items()
    nulls = {name: transform["null"] for name, transform in transforms if "null" in transform}

    def value(name: str) -> dict[str, Any]:
        about = COUNTED.get(name, "").format(days=description["lookback_days"])
        if name in nulls:
            about = f"left out: {nulls[name]:g}, as in training"
        return shape.rules[name].schema() | ({"description": about} if about else {})

    def features(side: str, about: str) -> dict[str, Any]:
        properties = {name: value(name) for name in description[f"{side}_side"]}
        return {
            "type": "object",
            "description": about,
            "properties": properties,
            "additionalProperties": False,
        }

    moment = {"type": "number", "minimum": 0, "maximum": LATEST}
    moment |= {"description": "seconds since 1970 (UTC)"}
    click = {
        "type": "object",
        "required": ["item_id", "ts"],
        "additionalProperties": False,
        "properties": {"item_id": shape.clicked.schema(), "ts": moment}
        | {name: shape.rules[name].schema() for name in shape.click_features},
    }
    length = description["history_length"]
    days = description["history_days"]
    about = (
        f"the user's clicks on either domain, in any order; the newest {length} before ts are "
        f"read, none from before the day that lies {days} days before that of ts; "
        "left out: no clicks"
    )
    prior = (
        f"the click-through rate of all ads in the {description['lookback_days']} days before "
        f"today, which counts are smoothed with; left out: that of {description['data_date']}"
    )
    return {
        "$schema": DIALECT,
        "title": f"A request to {description['version']}",
        "description": (
            "Whatever is left out, null, or was never seen in training counts as unknown, where "
            "nothing else is said."
        ),
        "type": "object",
        "required": ["ts", "candidates"],
        "additionalProperties": False,
        "properties": {
            "ts": moment | {"description": "seconds since 1970 (UTC) of the impression"},
            "user_id": value("user_id") | {"description": "as in the logs"},
            "user": features("user", "the user's features"),
            "context": features("context", "features of the request"),
            "prior_ctr": PRIOR.schema() | {"description": prior},
            "history": {"type": "array", "description": about, "items": click},
            **({RECENT: _recent(description, shape)} if shape.remembered else {}),
            "candidates": {"type": "array", "minItems": 1, "items": features("item", "an ad")},
        },
    }


def _recent(description: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Return the user's impressions since the bundle's memory."""
    until = description["memory"]["until"]
    properties = {key: shape.rules[key].schema() for key in shape.remembered} | {
        "item_id": shape.clicked.schema(),
        "ts": {"type": "number", "minimum": 0, "maximum": LATEST},
        "domain": {"enum": list(DOMAINS)},
        "click": {"enum": [0, 1]},
    }
    return {
        "type": ["array", "null"],
        "description": f"the user's impressions of both domains after {until} and up to ts; those "
        "of the day of ts are not counted. Left out: what is remembered of the user is unknown",
        "items": {
            "type": "object",
            "required": sorted(RECENT_KEYS),
            "additionalProperties": False,
            "properties": properties,
        },
    }
