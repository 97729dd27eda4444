"""request.schema.json: what a request to a bundle looks like, as JSON Schema 2020-12."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COUNTS = {
    "user_impressions": "ads impressions of the user in the lookback before today",
    "item_impressions": "ads impressions of the item in the lookback before today",
    "user_ctr": "(clicks + 10 p) / (impressions + 10) of the same, p being all ads' click-through rate",
    "item_ctr": "(clicks + 10 p) / (impressions + 10) of the same, p being all ads' click-through rate",
}


def request_schema(description: dict[str, Any], strings: Iterable[str]) -> dict[str, Any]:
    """Of the bundle with this description; `strings` are the fields whose values are strings, others have integers."""
    text = set(strings)
    multi, numeric = {name for name, _ in description["multi"]}, set(description["numeric"])

    def value(name: str) -> dict[str, Any]:
        single: dict[str, Any] = {"type": ["string" if name in text else "integer", "null"]}
        if name in numeric:
            single = {"type": ["number", "null"]}
        elif name in multi:
            single = {
                "type": ["array", "null"],
                "items": {"type": "string" if name in text else "integer"},
            }
        return single | ({"description": COUNTS[name]} if name in COUNTS else {})

    def features(side: str, about: str) -> dict[str, Any]:
        properties = {name: value(name) for name in description[f"{side}_side"]}
        return {
            "type": "object",
            "description": about,
            "properties": properties,
            "additionalProperties": False,
        }

    item = {"type": "string" if "item_id" in text else "integer"}
    moment = {"type": "number", "description": "seconds since 1970 (UTC)"}
    click = {
        "type": "object",
        "required": ["item_id", "ts"],
        "properties": {"item_id": item, "ts": moment},
    }
    length = description["history_length"]
    about = (
        f"the user's clicks on either domain, in any order; the newest {length} before ts are read"
    )
    return {
        "$schema": DIALECT,
        "title": f"A request to {description['version']}",
        "description": "Whatever is left out, null, or was never seen in training counts as unknown.",
        "type": "object",
        "required": ["ts", "candidates"],
        "additionalProperties": False,
        "properties": {
            "ts": moment | {"description": "seconds since 1970 (UTC) of the impression"},
            "user_id": value("user_id") | {"description": "as in the logs"},
            "user": features("user", "the user's features"),
            "context": features("context", "features of the request"),
            "history": {"type": "array", "description": about, "items": click},
            "candidates": {"type": "array", "minItems": 1, "items": features("item", "an ad")},
        },
    }
