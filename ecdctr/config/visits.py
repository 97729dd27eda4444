"""A simulated world in which users come in visits.

Each default names the public statistic behind it.
"""

from __future__ import annotations

import datetime as dt
from typing import Literal, Self

from pydantic import Field, model_validator

from ecdctr.config.section import MAX_DAYS, check_end
from ecdctr.config.tastes import Tastes


class Visits(Tastes):
    """A world with visits; ecdctr/worlds/feed.py puts its mechanisms together."""

    kind: Literal["visits"] = Field(description="users come in visits that both domains share")
    start: dt.date = Field(dt.date(2026, 1, 1), description="first day")
    days: int = Field(120, ge=1, le=MAX_DAYS, description="how many days it has; sane: 60 to 365")
    users: int = Field(
        20_000,
        ge=10,
        le=10**8,
        description=(
            "users, those that arrive later included; KuaiRand-27K has 27,285, the "
            "Complete Journey 2,469; sane: 1,000 to 10 million"
        ),
    )
    new_user_share: float = Field(
        0.15,
        ge=0,
        lt=1,
        description="users that arrive during the simulated days; an assumption; sane: 0 to 0.5",
    )

    # When they come: ecdctr/worlds/visits.py
    visits_per_month: float = Field(
        4.0,
        gt=0,
        le=3000,
        description=(
            "of a user who has not left, on average; the Complete Journey has 5.3 trips, "
            "short video apps several a day; sane: 0.5 to 60"
        ),
    )
    activity_spread: float = Field(
        1.0,
        ge=0,
        le=3,
        description=(
            "standard deviation of the logarithm of users' rates of visits; 1.13 in the "
            "Complete Journey; sane: 0.5 to 1.5"
        ),
    )
    gap_spread: float = Field(
        1.1,
        ge=0.05,
        le=3,
        description=(
            "standard deviation of the logarithm of a user's gaps between visits; "
            "log-normal between sessions in Halfaker et al. 2015, 1.08 within households "
            "in the Complete Journey; sane: 0.5 to 2"
        ),
    )
    leaving_per_month: float = Field(
        0.1,
        ge=0,
        le=10,
        description=(
            "rate at which users leave; an assumption, since churn is seldom published; "
            "sane: 0 to 0.3"
        ),
    )
    returning: float = Field(
        0.5,
        ge=0,
        le=1,
        description="share of leavers that come back; an assumption; sane: 0.2 to 0.8",
    )
    away_days: float = Field(
        45.0,
        gt=0,
        le=MAX_DAYS,
        description="median absence of those that come back; an assumption; sane: 14 to 120",
    )

    # What a visit holds: ecdctr/worlds/feed.py
    per_visit: float = Field(
        16.0,
        ge=1,
        le=1000,
        description=(
            "impressions of a visit, on average; the Complete Journey has 9.4 purchases a "
            "trip; sane: 4 to 100"
        ),
    )
    per_visit_spread: float = Field(
        0.8,
        ge=0,
        le=3,
        description=(
            "standard deviation of the logarithm of the same; an assumption; sane: 0 to 1.2"
        ),
    )
    ads_share: float = Field(
        0.05,
        gt=0,
        lt=1,
        description=(
            "of impressions; 0.22 in the Complete Journey as converted here; sane: 0.003 to 0.25"
        ),
    )

    # What there is to show: ecdctr/worlds/items.py
    natural_items: int = Field(
        2000,
        ge=50,
        le=10**8,
        description=(
            "items of natural content alive at once; the Complete Journey has 2,225; "
            "sane: 500 to 1 million"
        ),
    )
    ad_items: int = Field(
        400,
        ge=20,
        le=10**8,
        description="ads alive at once; 700 in the Complete Journey; sane: 50 to 100,000",
    )
    natural_life_days: float = Field(
        5.0,
        gt=0,
        le=10**6,
        description=(
            "median life of natural content; MIND (Wu et al. 2020) reports that most news "
            "are gone after two days, shops keep products for years; sane: 1 to 1000"
        ),
    )
    ad_life_days: float = Field(
        21.0,
        gt=0,
        le=10**6,
        description=(
            "median life of an ad; the mailers of the Complete Journey last a week; sane: 7 to 90"
        ),
    )
    life_spread: float = Field(
        0.8,
        ge=0,
        le=3,
        description=(
            "standard deviation of the logarithm of both lives; an assumption; sane: 0.3 to 1.5"
        ),
    )
    popularity_exponent: float = Field(
        0.8,
        ge=0,
        le=2,
        description=(
            "of the Zipf law of what is drawn; 0.64 to 0.83 in Breslau et al. 1999, 1.16 "
            "for the types of the Complete Journey; sane: 0.6 to 1.2"
        ),
    )
    promoted_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="ads that are items of natural content; 698 of 700 in the Complete Journey, "
        "none where ads are no content; sane: 0 to 1",
    )

    # What is kept for evaluation
    held_out_days: int = Field(
        14,
        ge=0,
        le=MAX_DAYS,
        description="last days that have held-out ads besides; sane: as many as are evaluated",
    )
    held_out_per_visit: int = Field(
        36,
        ge=1,
        le=10_000,
        description=(
            "held-out ads of a visit on these days, never trained on; four days of the default "
            "world show 0.0021 to 0.0025 of GAUC with one seed (12 a visit: 0.0028 to 0.0034); "
            "sane: 12 to 100"
        ),
    )

    @model_validator(mode="after")
    def _ends(self) -> Self:
        check_end(self.start, self.days)
        return self
