"""Simulated worlds."""

from __future__ import annotations

import datetime as dt
from typing import Literal, Self

from pydantic import Field, model_validator

from ecdctr.config.section import MAX_DAYS, Section, check_end


class Simulation(Section):
    """A world that draws each impression's user anew.

    ecdctr/worlds/simulate.py has the model behind the numbers.
    """

    kind: Literal["daily"] = Field("daily", description="each impression has a user drawn anew")
    start: dt.date = Field(dt.date(2026, 1, 1), description="first day")
    days: int = Field(ge=1, le=MAX_DAYS, description="how many days it has")
    users: int = Field(ge=10, le=10**9, description="users, those that arrive later included")
    natural_items: int = Field(ge=10, le=10**9, description="items of natural content")
    ad_items: int = Field(ge=10, le=10**9, description="ads")
    natural_per_day: int = Field(ge=100, le=10**10, description="impressions of natural content")
    ads_per_day: int = Field(ge=10, le=10**10, description="impressions of ads")
    latent_dim: int = Field(8, ge=2, le=1024, description="numbers that an interest consists of")
    recurrence_days: int = Field(
        28, ge=2, le=MAX_DAYS, description="after how many days interests come back"
    )
    recurring: float = Field(
        1.0, ge=0, description="strength of interests that come back every recurrence_days"
    )
    drift: float = Field(0.4, ge=0, description="strength of the slow drift")
    domain_correlation: float = Field(
        0.8, ge=0, le=1, description="between natural and ads preference"
    )
    new_user_share: float = Field(
        0.15, ge=0, lt=1, description="users that arrive during the simulated days"
    )
    ctr: float = Field(0.12, gt=0, lt=0.5, description="natural click-through rate, roughly")

    @model_validator(mode="after")
    def _ends(self) -> Self:
        check_end(self.start, self.days)
        return self
