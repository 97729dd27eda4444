"""Small JSON files of a store, read back: what is damaged is named with how to mend it."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from ecdctr.errors import StoreError, first_line

Content = TypeVar("Content", dict[str, Any], list[Any])
COPY = "put it back from a copy"


def read_json(text: bytes, kind: type[Content], what: str, mend: str = COPY, *keys: str) -> Content:
    """Return a stored object that has these keys, or a list.

    Raises StoreError that says what is damaged and how to mend it.
    """
    try:
        content = json.loads(text)
        if not isinstance(content, kind) or not set(keys) <= set(content):
            raise ValueError("it is not what was written")
    except ValueError as error:
        raise StoreError(f"{what} is damaged ({first_line(error)}); {mend}.") from None
    return content


def read_document(text: bytes, what: str, mend: str = COPY, *keys: str) -> dict[str, Any]:
    """Return a stored object that has these keys; raises StoreError as read_json does."""
    return read_json(text, dict, what, mend, *keys)
