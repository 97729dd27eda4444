"""Look again and again until something is there, or the time is up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_result, stop_after_delay, wait_fixed

Seen = TypeVar("Seen")


def poll(
    look: Callable[[], Seen | None],
    seconds: float,
    pause: float,
    alive: Callable[[], None] = lambda: None,
) -> Seen | None:
    """Return what `look` returns as soon as it is not None; None when `seconds` have passed.

    It looks once at least, then every `pause` seconds. `alive` is called before each pause; it
    raises when waiting is useless.
    """

    def check(_: RetryCallState) -> None:
        alive()

    retrying = Retrying(
        retry=retry_if_result(lambda seen: seen is None),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(pause),
        before_sleep=check,
        retry_error_callback=lambda _: None,
    )
    return retrying(look)
