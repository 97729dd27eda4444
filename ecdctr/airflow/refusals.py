"""What is wrong with a run from its start, and the sentences that Airflow's log shows of it."""

from __future__ import annotations

import logging
import re
import sys
import textwrap
from typing import Any

import structlog
from airflow.sdk.exceptions import AirflowFailException

WIDTH = 100  # characters of a line that the log's window shows whole
# Logs what a template raises, frames and all, right before the task logs it once more
TEMPLATES = "airflow.sdk.definitions._internal.templater"


class RefusedError(AirflowFailException):
    """A step that no retry can help.

    Its frames say nothing to whoever reads the log, so they are left out.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        processors = structlog.get_config()[
            "processors"
        ]  # those of the task's log, changed in place
        if without_frames not in processors:
            processors.insert(0, without_frames)


class RunRefused(RefusedError):
    """A run that cannot be as it was asked for: its sentence says itself what to do."""


def no_refusal(record: logging.LogRecord) -> bool:
    """Tell whether a record is about anything but a refusal; a filter of logging."""
    return not (record.exc_info and isinstance(record.exc_info[1], RefusedError))


logging.getLogger(TEMPLATES).addFilter(no_refusal)


def without_frames(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """Log a refusal as its sentences, a line each, in place of the exception.

    A processor of structlog.
    """
    given = event.get("exc_info")
    error = sys.exc_info()[1] if given is True else given
    if isinstance(error, RefusedError):
        del event["exc_info"]
        event["event"] = "\n".join(["Refused:", *sentences(str(error))])
    return event


def sentences(text: str) -> list[str]:
    """Break a refusal into lines: what; expected and found; what to do."""
    parts = re.split(r"(?<=[.;:]) (?=[A-Za-z'])", text.strip())
    return [line for part in parts for line in textwrap.wrap(part, WIDTH, break_long_words=False)]
