"""What is wrong with a run from its start."""

from __future__ import annotations

from airflow.sdk.exceptions import AirflowFailException


class RunRefused(AirflowFailException):
    """A run that cannot be as it was asked for: no retry can help, its sentence says what to do."""
