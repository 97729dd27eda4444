"""A connection of the service: what a client may do with it, and how long its requests may take.

By h11: httptools, where it is installed, loses the body of a request that offers another protocol
(as Java's client does with h2c), and reads headers without an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
from collections.abc import Callable, Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ecdctr.console import log

LONGEST_HEAD = 64 << 10  # bytes of a request line and headers
COMES_WITHIN = 30.0  # seconds from the first byte of a request to its last
ACTIVE = (h11.IDLE, h11.SEND_BODY)  # of the client: bytes of a request may still come


def too_slow() -> str:
    """Say that a request took too long to come."""
    return f"The request was not whole within {COMES_WITHIN:g} seconds; send it again."


@lru_cache(maxsize=1)
def most_connections() -> int:
    """Return how many connections may be open, and as many more accepted at one go.

    The limit of open files is raised as far as it goes first. Beyond it no connection is accepted
    any more, which Python's event loop reports thousands of times a second. Some are left for the
    files of bundles.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # where the system has a lower one of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    return max(1, (limit - len(os.listdir("/dev/fd")) - min(512, limit // 4)) // 2)


@lru_cache(maxsize=1)
def tell_too_many(most: int) -> None:
    """Say once on the log that connections are turned away."""
    log(
        f"more than {most:,} connections are open, and further ones are answered with 503; raise "
        "the limit of open files (ulimit -n) or end idle ones"
    )


class Lingering:
    """A transport that is not closed before the client has sent what it is sending.

    The system resets a connection that is closed while bytes come, and the answer is lost with it.
    """

    def __init__(self, transport: Any, lingers: Callable[[], bool]) -> None:
        self._transport, self._lingers = transport, lingers
        self._ended = False

    def close(self) -> None:
        """Say that no more is answered, and leave the closing to who lingers; or close."""
        if not self._ended and self._lingers():
            self._transport.write_eof()
        else:
            self._transport.close()
        self._ended = True

    def is_closing(self) -> bool:
        """Tell whether no more is answered."""
        return self._ended or bool(self._transport.is_closing())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class HalfOpen(H11Protocol):
    """Answers a client that ends its side once its requests are whole, as `nc -N` does.

    One that sends a request too slowly is told so, or, where it sent nothing at all, let go.
    """

    ended = False
    lingers = False
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for the first request."""
        lingering: Any = Lingering(transport, self._linger)
        super().connection_made(lingering)
        self._clock = self.loop.call_later(COMES_WITHIN, self._late)
        if len(self.connections) > (most := most_connections()):
            tell_too_many(most)
            self._refuse(
                HTTPStatus.SERVICE_UNAVAILABLE, "Too many connections are open; try again."
            )

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take up bytes; the time of a request begins with its first one."""
        if self.lingers or self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._stop()
        super().data_received(data)

    def eof_received(self) -> bool:  # type: ignore[override]  # as asyncio has it
        """Say whether the connection stays open: for the answers that are under way."""
        self.ended = True
        return not self.lingers and self._answers_on()

    def handle_events(self) -> None:
        """Take up what has come: the next of several requests, where the client sent them at once.

        Close once nothing of them is left to answer.
        """
        passed_over = self._pass_over_empty_lines()
        super().handle_events()
        if self.lingers:
            return
        if self.cycle and _has_two_lengths(self.cycle.scope["headers"]):
            self.cycle.keep_alive = False  # where one is believed, the rest may be no request
        waits = self.conn.their_state is h11.SEND_BODY or bool(self.conn.trailing_data[0])
        begun = waits or passed_over
        if self.conn.their_state not in ACTIVE or not begun:
            self._stop()
        elif self._clock is None:
            self._clock = self.loop.call_later(COMES_WITHIN, self._late)
        if self.ended and not self._answers_on():
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Say what of the bytes is no HTTP, where h11 does."""
        self._refuse(HTTPStatus.BAD_REQUEST, f"This is no HTTP/1.1 request: {sys.exception()}.")

    def _pass_over_empty_lines(self) -> bool:
        """Drop empty lines before a request, as old clients send after a body; tell of any.

        A server should (RFC 9112, 2.2); h11 takes them for a request that is none.
        """
        rest = self.conn.trailing_data[0]
        begins = self.conn.their_state is h11.IDLE and rest.startswith((b"\r\n", b"\n"))
        if begins:
            self.conn = h11.Connection(h11.SERVER, LONGEST_HEAD)
            if asked := rest.lstrip(b"\r\n"):  # no bytes would say that there come no more
                self.conn.receive_data(asked)
        return begins

    def _answers_on(self) -> bool:
        """Tell whether a whole request is answered now; after the last one the connection ends."""
        answers = bool(self.cycle) and not (self.cycle.more_body or self.cycle.response_complete)
        if answers and not self.conn.trailing_data[0]:
            self.cycle.keep_alive = False
        return answers

    def _linger(self) -> bool:
        """Tell whether more of a request comes than was read; that is left unread for a while."""
        coming = self.conn.their_state in (h11.SEND_BODY, h11.ERROR) and not self.ended
        if coming:
            self.lingers = True
            self.flow.resume_reading()
            self._stop()
            self._clock = self.loop.call_later(COMES_WITHIN, self.transport.close)
        return coming

    def _stop(self) -> None:
        if self._clock:
            self._clock.cancel()
        self._clock = None

    def _late(self) -> None:
        """End a connection whose request took too long; who reads its body answers by itself."""
        self._clock = None
        if self.transport.is_closing() or (self.cycle and not self.cycle.response_complete):
            return
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, too_slow())
        else:  # nothing came, or its answer went out before the whole of it was read
            self.transport.close()

    def _refuse(self, status: HTTPStatus, text: str) -> None:
        """Answer what no route has seen, where no answer is under way, and close."""
        body = json.dumps({"error": text}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = h11.Response(status_code=status, headers=headers, reason=status.phrase)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def _has_two_lengths(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Tell whether a request says where it ends in two ways, of which h11 believes the chunks.

    Another one on its way may believe the other: the connection has to end (RFC 9112, 6.1).
    """
    return {b"transfer-encoding", b"content-length"} <= {name for name, _ in headers}
