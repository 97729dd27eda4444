"""What users of a world with visits are shown, like and click again, and the public statistics."""

from __future__ import annotations

from pydantic import Field, model_validator

from ecdctr.config.section import MAX_DAYS, Section


class Tastes(Section):
    """What users are shown, like and click again; the other settings are in config/visits.py."""

    # What is shown of it: ecdctr/worlds/ranker.py
    candidates: int = Field(
        4,
        ge=1,
        le=64,
        description=(
            "items from which the earlier ranker takes one; 1 shows at random; an "
            "assumption; sane: 1 to 16"
        ),
    )
    ranker_skill: float = Field(
        0.5,
        ge=0,
        le=10,
        description=(
            "how much the earlier ranker sees of a user's lasting taste; 0 ranks by "
            "chance; an assumption; sane: 0 to 2"
        ),
    )
    position_effect: float = Field(
        0.25,
        ge=0,
        le=3,
        description="fall of the logit with the logarithm of the position; position bias as in "
        "Craswell et al. 2008; the size is an assumption; sane: 0 to 0.6",
    )

    # What users like: ecdctr/worlds/interests.py
    latent_dim: int = Field(
        8, ge=2, le=1024, description="numbers that an interest consists of; sane: 4 to 32"
    )
    lasting: float = Field(
        0.7,
        ge=0,
        le=5,
        description="strength of taste that never changes; with the next one it sets how far the "
        "oracle is ahead; an assumption; sane: 0.3 to 1",
    )
    returning_interest: float = Field(
        0.7,
        ge=0,
        le=5,
        description="strength of interests that come and go; an assumption; sane: 0 to 1.5",
    )
    periods: tuple[float, ...] = Field(
        (7.0, 30.0, 91.0),
        description=(
            "days after which interests return, a user has one of them: week, month, "
            "season; an assumption; sane: 7 to 365 each"
        ),
    )
    period_shares: tuple[float, ...] = Field(
        (0.2, 0.3, 0.2),
        description="users with each period; the others' interests never return; an assumption; "
        "sane: a sum of 0 to 1",
    )
    renewal_days: float = Field(
        60.0,
        gt=0,
        le=MAX_DAYS,
        description="in which an interest that never returns is replaced; an assumption; "
        "sane: 14 to 180",
    )
    domain_correlation: float = Field(
        0.8,
        ge=0,
        le=1,
        description="between natural and ads preference; an assumption; sane: 0 to 1",
    )
    natural_ctr: float = Field(
        0.2,
        gt=0,
        lt=0.9,
        description="clicks of natural content; 0.249 in the Complete Journey; sane: 0.05 to 0.4",
    )
    ads_ctr: float = Field(
        0.1,
        gt=0,
        lt=0.9,
        description=(
            "clicks of ads; 0.169 in the Complete Journey, 0.17 in Avazu, 0.05 at Taobao, "
            "0.04 in Ali-CCP; sane: 0.01 to 0.2"
        ),
    )

    # What is clicked again: ecdctr/worlds/habits.py
    habits: int = Field(
        4,
        ge=1,
        le=64,
        description="items at a time that a user clicks again and again; an assumption; "
        "sane: 1 to 20",
    )
    habit_days: float = Field(
        28.0,
        ge=1,
        le=MAX_DAYS,
        description="for which an item stays a habit, if it lives so long; an assumption; "
        "sane: 14 to 365",
    )
    repetition: float = Field(
        0.03,
        ge=0,
        le=1,
        description=(
            "share of impressions that show a habit; 15 to 59 % of consumptions are new "
            "in the data of Benson et al. 2016, 35 % of purchases by type in the last "
            "quarter of the Complete Journey; near 0 for news; sane: 0 to 0.4"
        ),
    )
    habit_strength: float = Field(
        1.5,
        ge=0,
        le=10,
        description="by which a habit raises the logit of a click; an assumption; sane: 0 to 3",
    )
    kind_strength: float = Field(
        0.5,
        ge=0,
        le=10,
        description=(
            "the same for items of a user's two kinds (categories); an assumption; sane: 0 to 1"
        ),
    )

    @model_validator(mode="after")
    def _check(self) -> Tastes:
        if len(self.periods) != len(self.period_shares):
            raise ValueError(
                f"periods and period_shares: expected as many of both, found {len(self.periods)} "
                f"and {len(self.period_shares)}"
            )
        if any(period < 2 for period in self.periods) or any(
            share < 0 for share in self.period_shares
        ):
            raise ValueError("periods: expected 2 days or more; period_shares: not below 0")
        if sum(self.period_shares) > 1 + 1e-9:
            raise ValueError(
                f"period_shares: expected a sum of 1 at most, found {sum(self.period_shares):g}"
            )
        return self
