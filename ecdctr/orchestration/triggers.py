"""Triggers that look for something now and then, in the triggerer's event loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ecdctr.data.days import day_files
from ecdctr.store.store import Store


class PollTrigger(BaseTrigger):
    """Fires when `ready`, or when the time is up. Subclasses name their arguments in `names`."""

    names: tuple[str, ...] = ()

    def __init__(self, *, poke_seconds: float, timeout_seconds: float) -> None:
        super().__init__()
        self.poke_seconds, self.timeout_seconds = poke_seconds, timeout_seconds

    def ready(self) -> bool:
        """Whether what is waited for is there."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes this trigger again."""
        names = (*self.names, "poke_seconds", "timeout_seconds")
        return f"{__name__}.{type(self).__name__}", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, sleep, look again."""
        deadline = time.monotonic() + self.timeout_seconds
        while not await asyncio.to_thread(self.ready):
            if time.monotonic() > deadline:
                yield TriggerEvent({"ready": False})
                return
            await asyncio.sleep(self.poke_seconds)
        yield TriggerEvent({"ready": True})


class DayTrigger(PollTrigger):
    """Waits for a day of a domain to have Parquet files."""

    names = ("root", "domain", "date")

    def __init__(self, root: str, domain: str, date: str, **timing: float) -> None:
        super().__init__(**timing)
        self.root, self.domain, self.date = root, domain, date

    def ready(self) -> bool:
        """Whether the day is there."""
        return bool(day_files(Path(self.root), self.domain, dt.date.fromisoformat(self.date)))  # type: ignore[arg-type]


class VersionTrigger(PollTrigger):
    """Waits for an experiment to have a version of its own with a data date."""

    names = ("store", "experiment", "level", "date")

    def __init__(self, store: str, experiment: str, level: str, date: str, **timing: float) -> None:
        super().__init__(**timing)
        self.store, self.experiment, self.level, self.date = store, experiment, level, date

    def ready(self) -> bool:
        """Whether a version is there."""
        ref = Store(self.store).resolve(self.level, dt.date.fromisoformat(self.date), self.experiment)
        return ref is not None and ref.experiment == self.experiment and str(ref.date) == self.date
