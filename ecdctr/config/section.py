"""What every section of the configuration is."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_DAYS = 3660  # ten years: beyond it a number of days is a slip of the hand
MAX_SEED = 2**32 - 1
Days = Annotated[int, Field(ge=0, le=MAX_DAYS)]
Width = Annotated[int, Field(ge=1, le=65_536)]  # of a layer


class Section(BaseModel):
    """Base of every section.

    Unknown keys are errors, numbers are finite, values never change after load.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
