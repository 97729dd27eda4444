"""What one value of a request may be.

The rules that make request.schema.json and check requests by it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from ecdctr.errors import EcdctrError

Kind = Literal["integer", "string", "boolean", "number", "any"]

# Seconds since 1970 of the year 2100: what lies beyond is no time in seconds
LATEST = 4_102_444_800
NUMBER_LIMIT = 1e30  # of a numeric feature; the network computes in float32, which ends at 3.4e38
ID_LIMITS = -(2**63), 2**63 - 1
EXACT = 2**53  # floats hold every whole number up to here

EXPECTED: dict[Kind, str] = {
    "integer": "an integer of 64 bits",
    "string": "a string",
    "boolean": "true or false",
    "number": "a number",
    "any": "an integer, a string, true or false",
}
JSON_TYPES: dict[Kind, list[str]] = {
    "integer": ["integer"],
    "string": ["string"],
    "boolean": ["boolean"],
    "number": ["number"],
    "any": ["integer", "string", "boolean"],
}
PYTHON_TYPES: dict[Kind, set[type]] = {
    "integer": {int},
    "string": {str},
    "boolean": {bool},
    "number": {int, float},
    "any": {int, str, bool},
}


class RequestError(EcdctrError):
    """A request that does not fit the bundle: what, where, what is expected."""


@dataclass(frozen=True)
class Rule:
    """What one value may be; `many` for a list of such values, or of nulls, as a log may hold."""

    kind: Kind
    many: bool = False
    nullable: bool = True
    low: float | None = None
    high: float | None = None

    def schema(self) -> dict[str, Any]:
        """Return the rule as JSON Schema."""
        null = ["null"] if self.nullable else []
        single = {"type": _one_or_many(JSON_TYPES[self.kind] + null)}
        low, high = self.limits
        if low is not None:
            single |= {"minimum": low, "maximum": high}
        return {"type": _one_or_many(["array", *null]), "items": single} if self.many else single

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Return the least and greatest number allowed; None where it holds no number."""
        if self.kind in ("integer", "any"):
            return ID_LIMITS
        return self.low, self.high

    def checked(self, values: list[Any], place: Callable[[int], str]) -> list[Any]:
        """Return the values as they are looked up.

        Raises RequestError with the place of the first wrong one.
        """
        if self.many:
            given = [value for value in values if value is not None] if self.nullable else values
            if set(map(type, given)) <= {list} and self._as_they_are([*chain(*given)]):
                return values
            return [self._checked_list(value, place(i)) for i, value in enumerate(values)]
        if self._as_they_are(values):
            return values
        return [self._checked_one(value, place, i) for i, value in enumerate(values)]

    def _as_they_are(self, values: list[Any]) -> bool:
        """Tell at little cost whether single values fit and are looked up as they stand here."""
        types = set(map(type, values))
        if self.nullable:
            types.discard(type(None))
        return types <= PYTHON_TYPES[self.kind] and self._within(values, types)

    def _within(self, values: list[Any], types: set[type]) -> bool:
        """Tell whether all values of these types keep to the limits."""
        low, high = self.limits
        if low is None or high is None or not types & {int, float}:
            return True
        present = [value for value in values if value is not None and type(value) is not str]
        if not (low <= min(present) and max(present) <= high):
            return False
        return float not in types or not any(map(math.isnan, present))  # it has no order

    def _checked_list(self, value: Any, place: str) -> list[Any] | None:
        if value is None and self.nullable:
            return None
        if not isinstance(value, list):
            raise RequestError(f"{place}: expected a list, found {shown(value)}.")
        single = replace(self, many=False)
        return single.checked(value, lambda i: f"{place}[{i}]")

    def _checked_one(self, value: Any, place: Callable[[int], str], i: int) -> Any:
        """Return a value that the fast way did not take."""
        if value is None and self.nullable:
            return None
        fits: Callable[[Any], bool] = {
            "integer": _is_whole,
            "string": lambda value: isinstance(value, str),
            "boolean": lambda value: isinstance(value, bool),
            "number": is_number,
            "any": lambda value: isinstance(value, str | bool) or _is_whole(value),
        }[self.kind]
        if not fits(value):
            raise RequestError(f"{place(i)}: expected {EXPECTED[self.kind]}, found {shown(value)}.")
        if isinstance(value, str | bool):
            return value
        low, high = self.limits
        if low is not None and high is not None and not low <= value <= high:
            raise RequestError(f"{place(i)}: {self._beyond(value)}")
        return int(value) if self.kind in ("integer", "any") else value

    def _beyond(self, value: Any) -> str:
        if isinstance(value, float) and not math.isfinite(value):
            return f"expected a finite number, found {shown(value)}."
        if self.kind in ("integer", "any"):
            return f"expected {EXPECTED[self.kind]}, found {shown(value)}."
        low, high = self.limits
        return f"expected a number from {low:g} to {high:g}, found {shown(value)}."


def moment(value: Any, place: str) -> float:
    """Return seconds since 1970.

    Raises RequestError, which says so where the value looks like milliseconds.
    """
    if not is_number(value):
        raise RequestError(f"{place}: expected seconds since 1970 (UTC), found {shown(value)}.")
    if not 0 <= value <= LATEST:
        raise RequestError(
            f"{place}: expected seconds since 1970 (UTC), before 2100, found {shown(value)}"
            f"{_other_unit(value)}."
        )
    return float(value)


def _other_unit(value: Any) -> str:
    for name, per_second in (
        ("milliseconds", 10**3),
        ("microseconds", 10**6),
        ("nanoseconds", 10**9),
    ):
        if abs(value) < 1e30 and 1_000_000_000 <= value / per_second <= LATEST:
            return f", which looks like {name}; divide it by {per_second:,}"
    return ""


def is_number(value: Any) -> bool:
    """Say whether a value is a number, which true and false are not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _one_or_many(types: list[str]) -> Any:
    return types if len(types) > 1 else types[0]


def shown(value: Any) -> str:
    """Return a value in a message: short, and without what a terminal or an answer cannot carry."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None:
        return "null"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    text = repr(value)  # which escapes what is not printable
    return text if len(text) <= 60 else text[:60] + "…"
