"""What a form of Airflow says of a param that it refuses.

One sentence instead of a dump of the schema.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DUMP = "\n\nFailed validating"  # where jsonschema, whose words Airflow passes on, begins to dump
# As `expected` of a Param, a keyword that jsonschema skips and `sentence` reads
NAME = "lower-case letters, digits, dots, hyphens"


class OneSentence:
    """A middleware of Airflow's API server that shortens refused params.

    All else passes as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        start: Message | None = None
        body = b""

        async def shortened(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start" and message["status"] in (400, 422):
                start = message
                return
            if start is None:
                await send(message)
                return
            body += message.get("body", b"")
            if not message.get("more_body"):
                content = short_body(body)
                await send(dict(start) | {"headers": _with_length(start["headers"], len(content))})
                await send({"type": "http.response.body", "body": content})

        await self.app(scope, receive, shortened)


def short_body(body: bytes) -> bytes:
    """Shorten the detail of a refusal; anything else stays as it is."""
    try:
        answer = json.loads(body)
    except ValueError:
        return body
    detail = answer.get("detail") if isinstance(answer, dict) else None
    if not isinstance(detail, str) or DUMP not in detail:
        return body
    return json.dumps(answer | {"detail": sentence(detail)}).encode()


def sentence(detail: str) -> str:
    """Say which param is refused, what it was, and what is expected."""
    said, _, dump = detail.partition(DUMP)
    expected = re.search(r"""'expected': '([^']*)'""", dump)
    if expected:
        said = re.sub(r" does not match .*", f" is refused; expected {expected[1]}", said)
    return f"{said}."


def _with_length(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    kept = [header for header in headers if header[0].lower() != b"content-length"]
    return [*kept, (b"content-length", str(length).encode())]
