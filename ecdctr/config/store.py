"""How versions lie in the store."""

from __future__ import annotations

from pydantic import Field

from ecdctr.config.section import Section
from ecdctr.config.terms import Level


class Deltas(Section):
    """Versions stored as changes against the version that their rows grow from."""

    levels: tuple[Level, ...] = Field(
        (),
        description="whose versions are stored as changes, for example [cpm, actr]; none is every "
        "version whole",
    )
    max_links: int = Field(
        6,
        ge=1,
        le=100,
        description="versions that must be put together before one; the next is stored whole",
    )


class StoreSettings(Section):
    """How versions lie in the store; what they are does not depend on it."""

    deltas: Deltas = Field(Deltas(), description="versions as changes against others")
