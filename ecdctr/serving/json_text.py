"""JSON that says one thing: bytes that could be read in two ways are refused."""

from __future__ import annotations

import json
import math
from decimal import Decimal, InvalidOperation
from typing import Any

from ecdctr.serving.rules import EXACT, RequestError

DIGITS = 4_000  # of a whole number; Python itself refuses a few more


class NoJson(RequestError):
    """Bytes that are no JSON, or JSON that can be read in two ways."""


def parse_json(content: bytes) -> Any:
    """Parse UTF-8 JSON strictly.

    Raises NoJson for other encodings, keys given twice, NaN and infinities, lone surrogates, and
    JSON that is nested too deeply. Whole numbers keep all their digits, also where they are written
    with a fraction or an exponent.
    """
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_exact,
            parse_int=_whole,
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
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                raise ValueError(f"the key {name!r:.60} is given twice")
            seen.add(name)
    return made


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


class Fraction(float):
    """A number whose fraction a float cannot hold: it is no whole number all the same."""

    def is_integer(self) -> bool:
        """Say no: 9007199254740993.5 is no id, though its float is one."""
        return False


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise ValueError(f"a number has {len(text):,} digits")
    return int(text)


def _exact(text: str) -> float | int:
    value = float(text)
    if not math.isfinite(value) or not value.is_integer():
        return value
    try:
        exact = Decimal(text)
    except InvalidOperation:  # its exponent is beyond int64: 0, or too small for any float
        return Fraction(value) if text.lower().partition("e")[0].strip("-0.") else value
    if exact != exact.to_integral_value():
        return Fraction(value)
    return int(exact) if abs(value) >= EXACT else value
