"""What a form of Airflow says of a param that it refuses, and what it calls the run that it starts.

One sentence instead of a dump of the schema; data date, experiment and variant instead of the
moment at which somebody pressed the button.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import TYPE_CHECKING

from ecdctr.config.terms import DEFAULT, LEVELS, PRODUCTION, dag_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

DUMP = "\n\nFailed validating"  # where jsonschema, whose words Airflow passes on, begins to dump
TRIGGER = re.compile(rf"/api/v2/dags/({'|'.join(map(dag_of, LEVELS))})/dagRuns")


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


class NamesRuns:
    """A middleware of Airflow's API server that names a level's run whose asker names none."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; what triggers a run by hand is read whole, and named."""
        if not (
            scope["type"] == "http"
            and scope["method"] == "POST"
            and TRIGGER.fullmatch(scope["path"])
        ):
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return  # whoever asked has gone
            body += message.get("body", b"")
            more = message.get("more_body", False)
        named = named_body(body, dt.datetime.now(dt.UTC))
        first: list[Message] = [{"type": "http.request", "body": named, "more_body": False}]

        async def replayed() -> Message:
            return first.pop() if first else await receive()

        headers = _with_length(scope["headers"], len(named))
        await self.app(dict(scope) | {"headers": headers}, replayed, send)


def named_body(body: bytes, now: dt.datetime) -> bytes:
    """Name the run of a data date by it, by experiment, variant and the moment of asking.

    A run that has a name, or no data date among its params, stays as it is.
    """
    try:
        asked = json.loads(body)
    except ValueError:
        return body
    conf = asked.get("conf") if isinstance(asked, dict) else None
    if not isinstance(conf, dict) or not conf.get("data_date") or asked.get("dag_run_id"):
        return body
    about = [conf["data_date"], conf.get("experiment", PRODUCTION), conf.get("variant", DEFAULT)]
    name = f"manual__{'_'.join(map(str, about))}__{now:%Y-%m-%dT%H:%M:%S}"
    return json.dumps(asked | {"dag_run_id": name}).encode()


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
