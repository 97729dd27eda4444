"""Values by a JSON Schema, as far as request.schema.json goes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema allows, as far as ours go."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    low, high = schema.get("minimum"), schema.get("maximum")
    whole = st.integers(low, high) if low is None or float(low).is_integer() else st.nothing()
    some: list[st.SearchStrategy[Any]] = []
    for kind in types:
        if kind == "object":
            needed = set(schema.get("required", ()))
            inner = {name: of_schema(one) for name, one in schema["properties"].items()}
            some.append(
                st.fixed_dictionaries(
                    {name: one for name, one in inner.items() if name in needed},
                    optional={name: one for name, one in inner.items() if name not in needed},
                )
            )
        elif kind == "array":
            least = schema.get("minItems", 0)
            some.append(st.lists(of_schema(schema["items"]), min_size=least, max_size=least + 2))
        else:
            some.append(
                {
                    "null": st.none(),
                    "string": st.text(max_size=4),
                    "boolean": st.booleans(),
                    "integer": whole,
                    "number": whole | st.floats(low, high, allow_nan=False, allow_infinity=False),
                }[kind]
            )
    return st.one_of(some)


def schema_at(schema: dict[str, Any], place: tuple[Any, ...]) -> dict[str, Any]:
    """Return the schema of what stands at a place of a value."""
    for key in place:
        schema = schema["items"] if isinstance(key, int) else schema["properties"][key]
    return schema


def keys_of(schema: dict[str, Any], at: str = "") -> set[str]:
    """List every key that a schema allows, as a dotted place with [] for what a list holds."""
    places = {at} if at else set()
    for name, one in schema.get("properties", {}).items():
        places |= keys_of(one, f"{at}.{name}".lstrip("."))
    return places | keys_of(schema["items"], f"{at}[]") if "items" in schema else places


def keys_in(value: Any, at: str = "") -> set[str]:
    """List the keys of a value likewise."""
    places = {at} if at else set()
    if isinstance(value, dict):
        for name, one in value.items():
            places |= keys_in(one, f"{at}.{name}".lstrip("."))
    elif isinstance(value, list):
        places |= {place for one in value for place in keys_in(one, f"{at}[]")}
    return places
