"""What a request may hold: JSON that says one thing, and values by one rule each, which request.schema.json states.

The rules here make the schema and check the requests, so that what is valid by the schema is scored and nothing else is.
"""

from __future__ import annotations

import json
import math
import numbers
from collections.abc import Callable, Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from ecdctr.errors import EcdctrError

Kind = Literal["integer", "string", "boolean", "number", "any"]

LATEST = (
    4_102_444_800  # seconds since 1970 of the year 2100: what lies beyond is no time in seconds
)
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


class NoJson(RequestError):
    """Bytes that are no JSON, or JSON that can be read in two ways."""


def parse_json(content: bytes) -> Any:
    """Parse UTF-8 JSON strictly.

    Raises NoJson for other encodings, keys given twice, NaN and infinities, lone surrogates, and JSON that is nested
    too deeply. Whole numbers keep all their digits, also where they are written with a fraction or an exponent.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(
            text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_exact
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise NoJson(f"no UTF-8: found the byte 0x{content[error.start]:02x}") from None
    except UnicodeEncodeError:
        raise NoJson("no JSON: half of a surrogate pair stands alone") from None
    except RecursionError:
        raise NoJson("no JSON that can be read: it is nested too deeply") from None
    except ValueError as error:
        raise NoJson(f"no JSON: {error}") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r:.60} is given twice")
    return made


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _exact(text: str) -> float | int:
    value = float(text)
    if abs(value) < EXACT or not math.isfinite(value):
        return value
    exact = Decimal(text)
    return int(exact) if exact == exact.to_integral_value() else value


@dataclass(frozen=True)
class Rule:
    """What one value may be; `many` for a list of such values."""

    kind: Kind
    many: bool = False
    nullable: bool = True
    low: float | None = None
    high: float | None = None

    def schema(self) -> dict[str, Any]:
        """The rule as JSON Schema."""
        null = ["null"] if self.nullable else []
        single = {"type": _one_or_many(JSON_TYPES[self.kind] + ([] if self.many else null))}
        low, high = self.limits
        if low is not None:
            single |= {"minimum": low, "maximum": high}
        return {"type": _one_or_many(["array", *null]), "items": single} if self.many else single

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """The least and greatest number allowed; None where it holds no number."""
        if self.kind in ("integer", "any"):
            return ID_LIMITS
        return self.low, self.high

    def checked(self, values: list[Any], place: Callable[[int], str]) -> list[Any]:
        """The values as they are looked up; raises RequestError with the place of the first wrong one."""
        if self.many:
            return [self._checked_list(value, place(i)) for i, value in enumerate(values)]
        types = set(map(type, values))
        if self.nullable:
            types.discard(type(None))
        if types <= PYTHON_TYPES[self.kind] and self._within(values, types):
            return values
        return [self._checked_one(value, place, i) for i, value in enumerate(values)]

    def _within(self, values: list[Any], types: set[type]) -> bool:
        """Whether all values of these types keep to the limits."""
        low, high = self.limits
        if low is None or high is None or not types & {int, float}:
            return True
        present = [value for value in values if value is not None and type(value) is not str]
        return all(low <= value <= high for value in present)  # false for what is no number

    def _checked_list(self, value: Any, place: str) -> list[Any] | None:
        if value is None and self.nullable:
            return None
        if not isinstance(value, list):
            raise RequestError(f"{place}: expected a list, found {shown(value)}.")
        single = Rule(self.kind, nullable=False, low=self.low, high=self.high)
        return single.checked(value, lambda i: f"{place}[{i}]")

    def _checked_one(self, value: Any, place: Callable[[int], str], i: int) -> Any:
        """A value that the fast way did not take."""
        if value is None and self.nullable:
            return None
        fits: Callable[[Any], bool] = {
            "integer": _is_whole,
            "string": lambda value: isinstance(value, str),
            "boolean": lambda value: isinstance(value, bool),
            "number": _is_number,
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
    """Seconds since 1970; raises RequestError, which says so where the value looks like milliseconds."""
    if not _is_number(value):
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


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _one_or_many(types: list[str]) -> Any:
    return types if len(types) > 1 else types[0]


def shown(value: Any) -> str:
    """A value in a message: short, and without what a terminal or an answer cannot carry."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    if value is None:
        return "null"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "a number of more than 30 digits"
    text = repr(value)  # which escapes what is not printable
    return text if len(text) <= 60 else text[:60] + "…"


def refuse_unknown(place: str, features: Any, names: Collection[str]) -> None:
    """Raise RequestError unless `features` is an object whose keys are all among `names`."""
    if not isinstance(features, dict):
        raise RequestError(f"{place}: expected an object of features, found {shown(features)}.")
    unknown = sorted(set(features).difference(names), key=str)
    if unknown:
        raise RequestError(
            f"{place}: the model has no feature {shown(unknown[0])}; it knows "
            f"{', '.join(sorted(names))}."
        )


COUNTS = tuple(f"{side}_{what}" for side in ("user", "item") for what in ("impressions", "clicks"))
PRIOR = Rule("number", low=0, high=1)
KEYS = ("ts", "user_id", "user", "context", "history", "prior_ctr", "candidates")
CLICK_KEYS = frozenset({"item_id", "ts"})
RECENT = "recent"  # of a bundle that remembers users
RECENT_KEYS = frozenset({"item_id", "ts", "domain", "click"})


class Recent(NamedTuple):
    """An impression since a bundle's memory: what of it is remembered, by key."""

    ts: float
    domain: str
    click: bool
    values: dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """A request that fits: each feature's values, one of the user's and the context's, one per candidate of the items'."""

    ts: float
    candidates: int
    values: dict[str, list[Any]]
    clicks: list[tuple[float, Any]]
    prior: float | None
    recent: list[Recent] | None  # None is unknown


class Shape:
    """What a bundle's requests look like: the names of each part, and the rule of each value."""

    def __init__(self, description: dict[str, Any], kinds: dict[str, Kind]) -> None:
        self.sides = {
            side: frozenset(description[f"{side}_side"]) for side in ("user", "context", "item")
        }
        multi = {name for name, _ in description["multi"]}
        self.rules = {name: Rule(kind, many=name in multi) for name, kind in kinds.items()}
        for name in frozenset.union(*self.sides.values()).difference(kinds):
            self.rules[name] = Rule(
                "number", low=0 if name in COUNTS else -NUMBER_LIMIT, high=NUMBER_LIMIT
            )
        self.clicked = Rule(kinds.get("item_id", "any"), nullable=False)
        self.remembered: list[str] = description.get("memory", {}).get("keys", [])
        self.keys = (*KEYS, RECENT) if self.remembered else KEYS

    def check(self, request: Any) -> Checked:
        """Take a request apart; raises RequestError with the place of what does not fit."""
        if not isinstance(request, dict):
            raise RequestError(
                f"expected an object with a list 'candidates', found {shown(request)}; see request.schema.json."
            )
        unknown = sorted(set(request).difference(self.keys), key=str)
        if unknown:
            raise RequestError(
                f"Unknown key {shown(unknown[0])} in the request; see request.schema.json."
            )
        candidates = request.get("candidates")
        if not isinstance(candidates, list) or not candidates:
            raise RequestError("candidates: expected a list with at least one candidate.")
        item_side = self.sides["item"]
        for i, candidate in enumerate(candidates):
            if not isinstance(candidate, dict) or not item_side.issuperset(candidate):
                refuse_unknown(f"candidates[{i}]", candidate, item_side)
        values = {
            "user_id": self.rules["user_id"].checked([request.get("user_id")], _at("user_id"))
        }
        for side in ("user", "context"):
            part = request.get(side, {})
            refuse_unknown(side, part, self.sides[side])
            for name in self.sides[side]:
                values[name] = self.rules[name].checked([part.get(name)], _at(f"{side}.{name}"))
        for name in item_side:
            column = [candidate.get(name) for candidate in candidates]
            values[name] = self.rules[name].checked(column, _of_candidate(name))
        (prior,) = PRIOR.checked([request.get("prior_ctr")], _at("prior_ctr"))
        return Checked(
            ts=moment(request.get("ts"), "ts"),
            candidates=len(candidates),
            values=values,
            clicks=self._clicks(request.get("history", [])),
            prior=prior,
            recent=self._recent(request.get(RECENT)),
        )

    def _recent(self, impressions: Any) -> list[Recent] | None:
        if impressions is None:
            return None
        if not isinstance(impressions, list):
            raise RequestError(
                f"{RECENT}: expected a list of impressions, found {shown(impressions)}."
            )
        allowed = RECENT_KEYS.union(self.remembered)
        made = []
        for i, one in enumerate(impressions):
            place = f"{RECENT}[{i}]"
            if not isinstance(one, dict) or not RECENT_KEYS <= set(one) <= allowed:
                raise RequestError(
                    f"{place}: expected an impression with {', '.join(sorted(RECENT_KEYS))} and at most "
                    f"{', '.join(self.remembered)}, found "
                    f"{'the keys ' + ', '.join(map(shown, one)) if isinstance(one, dict) else shown(one)}."
                )
            if one["domain"] not in ("natural", "ads"):
                raise RequestError(
                    f"{place}.domain: expected natural or ads, found {shown(one['domain'])}."
                )
            click = one["click"]
            if not _is_number(click) or click not in (0, 1):
                raise RequestError(f"{place}.click: expected 0 or 1, found {shown(click)}.")
            values = {}
            for key in self.remembered:
                rule = self.clicked if key == "item_id" else self.rules[key]
                (values[key],) = rule.checked([one.get(key)], _at(f"{place}.{key}"))
            made.append(Recent(moment(one["ts"], f"{place}.ts"), one["domain"], click == 1, values))
        return made

    def _clicks(self, history: Any) -> list[tuple[float, Any]]:
        if not isinstance(history, list):
            raise RequestError(f"history: expected a list of clicks, found {shown(history)}.")
        for i, click in enumerate(history):
            if not isinstance(click, dict) or set(click) != CLICK_KEYS:
                raise RequestError(
                    f"history[{i}]: expected a click with 'item_id' and 'ts' and nothing else, found "
                    f"{'the keys ' + ', '.join(map(shown, click)) if isinstance(click, dict) else shown(click)}."
                )
        items = self.clicked.checked(
            [click["item_id"] for click in history], lambda i: f"history[{i}].item_id"
        )
        times = [moment(click["ts"], f"history[{i}].ts") for i, click in enumerate(history)]
        return list(zip(times, items, strict=True))


def _at(place: str) -> Callable[[int], str]:
    return lambda _: place


def _of_candidate(name: str) -> Callable[[int], str]:
    return lambda i: f"candidates[{i}].{name}"
