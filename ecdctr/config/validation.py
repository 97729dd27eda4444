"""Validate what a person wrote by the rules of JSON, and say what is wrong in one sentence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ecdctr.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

PARTS_OF_UNIONS = ("path", "str", "[key]")  # of a place, as pydantic names it
Kind = TypeVar("Kind")


def validated(kind: type[Kind] | TypeAdapter[Kind], raw: dict[str, Any], where: str) -> Kind:
    """Validate by the rules of JSON: `true` is no number and 'yes' is no boolean.

    Raises ConfigError that names `where`, each key, what is expected and what was found.
    """
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    try:
        return adapter.validate_json(json.dumps(raw), strict=True)
    except ValidationError as error:
        items = error.errors(include_url=False)
        places = [item["loc"] for item in items]
        inmost = [i for i in items if not any(_within(place, i["loc"]) for place in places)]
        problems = "; ".join(map(_problem, inmost))
        raise ConfigError(f"{where} is not valid. {problems}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; write it flatter.") from None


def _within(place: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(place) > len(outer) and place[: len(outer)] == outer


def _problem(item: ErrorDetails) -> str:
    """Return one problem of pydantic's list: key, what is expected, what was found (shortened)."""
    key = ".".join(str(part) for part in item["loc"] if part not in PARTS_OF_UNIONS) or "file"
    message = item["msg"].removeprefix("Value error, ").rstrip(".")
    given = repr(item["input"])
    return f"{key}: {message} (found {given[:80]}{'…' if len(given) > 80 else ''})"
