"""What a request may hold: the parts of a bundle's requests, each value by its rule.

request.schema.json states the rules. They make the schema and check the requests, so that what is
valid by the schema is scored and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

from ecdctr.domains import DOMAINS
from ecdctr.serving.rules import NUMBER_LIMIT, Kind, RequestError, Rule, is_number, moment, shown

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
    """A request that fits.

    Each feature's values, one of the user's and the context's, one per candidate of the items'.
    """

    ts: float
    candidates: int
    values: dict[str, list[Any]]
    clicks: list[tuple[Any, ...]]  # seconds, item and the features that are read of it
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
        self.click_features: list[str] = description["history_features"]
        self.remembered: list[str] = description.get("memory", {}).get("keys", [])
        self.keys = (*KEYS, RECENT) if self.remembered else KEYS

    def check(self, request: Any) -> Checked:
        """Take a request apart; raises RequestError with the place of what does not fit."""
        if not isinstance(request, dict):
            raise RequestError(
                f"expected an object with a list 'candidates', found {shown(request)}; see "
                "request.schema.json."
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
                    f"{place}: expected an impression with {', '.join(sorted(RECENT_KEYS))} and "
                    f"at most {', '.join(self.remembered)}, found {_shape(one)}."
                )
            if one["domain"] not in DOMAINS:
                raise RequestError(
                    f"{place}.domain: expected {' or '.join(DOMAINS)}, found "
                    f"{shown(one['domain'])}."
                )
            click = one["click"]
            if not is_number(click) or click not in (0, 1):
                raise RequestError(f"{place}.click: expected 0 or 1, found {shown(click)}.")
            values = {}
            for key in self.remembered:
                rule = self.clicked if key == "item_id" else self.rules[key]
                (values[key],) = rule.checked([one.get(key)], _at(f"{place}.{key}"))
            made.append(Recent(moment(one["ts"], f"{place}.ts"), one["domain"], click == 1, values))
        return made

    def _clicks(self, history: Any) -> list[tuple[Any, ...]]:
        if not isinstance(history, list):
            raise RequestError(f"history: expected a list of clicks, found {shown(history)}.")
        allowed = CLICK_KEYS.union(self.click_features)
        for i, click in enumerate(history):
            if not isinstance(click, dict) or not CLICK_KEYS <= set(click) <= allowed:
                more = f"at most {', '.join(self.click_features)}"
                raise RequestError(
                    f"history[{i}]: expected a click with 'item_id' and 'ts' and "
                    f"{more if self.click_features else 'nothing else'}, found {_shape(click)}."
                )
        items = self.clicked.checked(
            [click["item_id"] for click in history], lambda i: f"history[{i}].item_id"
        )
        times = [moment(click["ts"], f"history[{i}].ts") for i, click in enumerate(history)]
        features = [
            self.rules[name].checked([click.get(name) for click in history], _of_click(name))
            for name in self.click_features
        ]
        return list(zip(times, items, *features, strict=True))


def _at(place: str) -> Callable[[int], str]:
    return lambda _: place


def _of_click(name: str) -> Callable[[int], str]:
    return lambda i: f"history[{i}].{name}"


def _of_candidate(name: str) -> Callable[[int], str]:
    return lambda i: f"candidates[{i}].{name}"


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


def _shape(value: Any) -> str:
    """Return an object's keys in words; of anything else what it is."""
    return f"the keys {', '.join(map(shown, value))}" if isinstance(value, dict) else shown(value)
