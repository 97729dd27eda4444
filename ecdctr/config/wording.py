"""What a value breaks, in the words of this project in place of pydantic's.

A key that there is not is told with those that there are, from the JSON Schema of what is read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Place = tuple[int | str, ...]
Schema = dict[str, Any]
ALIKE = 0.65  # of difflib: kee and key are, nothing and tuning are not
NUMBER, OBJECT = "a whole number", "keys with values, like {{key: value}}"
DATE = "a date, like 2026-01-31"
EXPECTED = {  # by pydantic's name of an error; what stands in braces is in its context
    "int_type": NUMBER,
    "int_from_float": NUMBER,
    "int_parsing": NUMBER,
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_too_long": "text of at most {max_length} letters",
    "string_too_short": "text of at least {min_length} letters",
    "list_type": "a list, like [a, b]",
    "tuple_type": "a list, like [a, b]",
    "dict_type": OBJECT,
    "model_type": OBJECT,
    "model_attributes_type": OBJECT,
    "date_type": DATE,
    "date_parsing": DATE,
    "date_from_datetime_parsing": DATE,
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "string_pattern_mismatch": "text of the form {pattern}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
}


def wording(item: ErrorDetails, schema: Schema, listed: set[Place]) -> str:
    """Return what is expected at the place of a problem of pydantic's list, without what is there.

    `schema` is the JSON Schema of all that was read, `listed` the places whose keys were told
    before, to which this adds.
    """
    if item["type"] == "missing":
        return "expected a value, found none; add it"
    if item["type"] == "extra_forbidden":
        return _no_such_key(item["loc"], schema, listed)
    if item["type"] in EXPECTED:
        limits = {name: _plain(value) for name, value in item.get("ctx", {}).items()}
        return f"expected {EXPECTED[item['type']].format(**limits)}"
    return item["msg"].removeprefix("Value error, ").rstrip(".")


def _plain(value: Any) -> Any:
    """Return a number without the fraction that it has not."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _no_such_key(place: Place, schema: Schema, listed: set[Place]) -> str:
    """Say what may stand in place of a key: the one that is meant, or where it belongs, or all."""
    *above, key = place
    names = sorted(_names(_at(schema, above, schema)))
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(str(key).lower(), by_lower, 1, ALIKE)
    if near:
        return f"there is no such key; did you mean '{by_lower[near[0]]}'?"
    sections = [name for name in _names([schema]) if key in _names(_at(schema, [name], schema))]
    if above and sections:
        return f"there is no such key; it is one of {' and '.join(sorted(sections))}"
    if tuple(above) in listed:
        return "there is no such key"
    listed.add(tuple(above))
    return f"there is no such key; expected some of {', '.join(names)}"


def _names(nodes: Iterable[Schema]) -> set[str]:
    """Return the keys that some of the objects have."""
    return {name for node in nodes for name in node.get("properties", {})}


def _at(schema: Schema, place: Iterable[int | str], root: Schema) -> list[Schema]:
    """Return what may stand at a place; pydantic's places name the kinds of a union, too."""
    nodes = list(_each(schema, root))
    for part in place:
        inside = [
            one for node in nodes for below in _below(node, part) for one in _each(below, root)
        ]
        nodes = inside or [node for node in nodes if _is_kind(node, part)] or nodes
    return nodes


def _is_kind(node: Schema, name: int | str) -> bool:
    """Tell whether an object is the one of a union that a key of its own names."""
    return any(one.get("const") == name for one in node.get("properties", {}).values())


def _below(node: Schema, part: int | str) -> Iterator[Schema]:
    """Yield what a node says of one of its keys, or of an element."""
    inside = node.get("properties", {}).get(part)
    for one in (inside or node.get("additionalProperties"), node.get("items")):
        if isinstance(one, dict):
            yield one


def _each(node: Schema, root: Schema) -> Iterator[Schema]:
    """Yield the kinds that a node may be of."""
    if "$ref" in node:
        node = root["$defs"][node["$ref"].rsplit("/", 1)[1]]
    options = [*node.get("anyOf", ()), *node.get("oneOf", ())]
    for one in options:
        yield from _each(one, root)
    if not options:
        yield node
