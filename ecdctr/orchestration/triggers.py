"""The trigger behind WaitForDay: looks for a day's files now and then, in the triggerer's event loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from ecdctr.data.days import day_files


class DayTrigger(BaseTrigger):
    """Fires when a day of a domain has Parquet files, or when the time is up."""

    def __init__(self, root: str, domain: str, date: str, poke_seconds: float, timeout_seconds: float) -> None:
        super().__init__()
        self.root, self.domain, self.date = root, domain, date
        self.poke_seconds, self.timeout_seconds = poke_seconds, timeout_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes this trigger again."""
        names = ("root", "domain", "date", "poke_seconds", "timeout_seconds")
        return "ecdctr.orchestration.triggers.DayTrigger", {name: getattr(self, name) for name in names}

    def ready(self) -> bool:
        """Whether the day is there."""
        return bool(day_files(Path(self.root), self.domain, dt.date.fromisoformat(self.date)))  # type: ignore[arg-type]

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, sleep, look again."""
        deadline = time.monotonic() + self.timeout_seconds
        while not await asyncio.to_thread(self.ready):
            if time.monotonic() > deadline:
                yield TriggerEvent({"ready": False})
                return
            await asyncio.sleep(self.poke_seconds)
        yield TriggerEvent({"ready": True})
