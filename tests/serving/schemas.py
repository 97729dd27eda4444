"""Values by a JSON Schema, as far as request.schema.json goes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def of_schema(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return values that a schema allows, as far as ours go."""
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
