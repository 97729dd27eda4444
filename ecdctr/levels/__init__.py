"""What each level reads, starts from and publishes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecdctr.config import Level
    from ecdctr.levels.request import Outcome, Request


def train(level: Level, request: Request) -> Outcome:
    """Train a level for a data date and publish the version.

    One with the same fingerprint is re-used. Raises ContractError for broken impressions,
    StoreError for missing or damaged parents, ConfigError for settings that do not fit the parents,
    TrainingError for a loss that is no finite number.
    """
    from ecdctr.levels.actr import train_actr
    from ecdctr.levels.cpm import train_cpm
    from ecdctr.levels.tpm import train_tpm
    from ecdctr.training.precision import warn_where_slow

    warn_where_slow(getattr(request.config, level).precision)
    return {"tpm": train_tpm, "cpm": train_cpm, "actr": train_actr}[level](request)
