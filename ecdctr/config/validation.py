"""Validate what a person wrote by the rules of JSON, and say what is wrong in one sentence."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ecdctr.config.wording import wording
from ecdctr.errors import ConfigError
from ecdctr.files.urls import shown_url

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MOST_TOLD = 20  # problems of one file
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
        outer = {item["loc"][:n] for item in items for n in range(len(item["loc"]))}
        inmost = [item for item in items if item["loc"] not in outer]
        schema, listed = adapter.json_schema(), set[tuple[int | str, ...]]()
        problems = "; ".join(_problem(item, schema, listed) for item in inmost[:MOST_TOLD])
        if len(inmost) > MOST_TOLD:
            problems += f"; and {len(inmost) - MOST_TOLD:,} more"
        raise ConfigError(f"{where} is not valid. {problems}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; write it flatter.") from None


def _problem(item: ErrorDetails, schema: dict[str, Any], listed: set[tuple[int | str, ...]]) -> str:
    """Return one problem of pydantic's list: key, what is expected, what was found (shortened)."""
    key = ".".join(_part(p) for p in item["loc"] if p not in PARTS_OF_UNIONS)
    message = wording(item, schema, listed)
    if not item["loc"]:  # of all sections together: what was found is the file
        return message
    if item["type"] == "missing" or "found" in message:
        return f"{key}: {message}"
    given = shown_url(repr(item["input"]))
    return f"{key}: {message} (found {given[:80]}{'…' if len(given) > 80 else ''})"


def _part(part: int | str) -> str:
    """Return a key; one with letters that are not seen or look like others, as escapes."""
    text = str(part)
    plain = text and text.isascii() and text.isprintable() and text == text.strip()
    return text if plain else ascii(text)
