"""What every section of the configuration is."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_DAYS = 3660  # ten years: beyond it a number of days is a slip of the hand
MAX_SEED = 2**32 - 1
Days = Annotated[int, Field(ge=0, le=MAX_DAYS)]
Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


def check_end(start: dt.date, days: int) -> None:
    """Raise ValueError where so many days, and the one after them, end beyond the calendar."""
    if start.toordinal() + days > dt.date.max.toordinal():
        raise ValueError(
            f"{days} days from {start} end after {dt.date.max}, the last date that there is; "
            "choose an earlier start, or fewer days"
        )


class Section(BaseModel):
    """Base of every section.

    Unknown keys are errors, numbers are finite, values never change after load.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
