"""What is remembered of users over long windows."""

from __future__ import annotations

from pydantic import Field, field_validator

from ecdctr.config.section import Days, Section


class Memory(Section):
    """What each user did with an item, and with each of its features: impressions and clicks."""

    enabled: bool = Field(False, description="false is the paper's form")
    windows: tuple[Days, ...] = Field(
        (28, 84, 336),
        min_length=1,
        max_length=16,
        description="days; a window ends the day before an impression and begins this many days "
        "before the newest weekly table",
    )
    features: tuple[str, ...] | None = Field(
        None,
        description="categorical features of items whose values are remembered beside the items; "
        "all that are declared by default",
    )
    max_pairs: int = Field(
        1000,
        ge=1,
        le=10**6,
        description="of a user and kind in a weekly table, the most recent and frequent",
    )
    weekday: int = Field(
        6,
        ge=0,
        le=6,
        description="of the last day of a weekly table, 0 is Monday; that of TPM's data date",
    )

    @field_validator("windows")
    @classmethod
    def _ascending(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if windows[0] < 1 or list(windows) != sorted(set(windows)):
            raise ValueError(
                f"expected days in ascending order, each once, such as [28, 84, 336], found "
                f"{list(windows)}"
            )
        return windows

    @property
    def longest(self) -> int:
        """Days of the longest window."""
        return self.windows[-1]
