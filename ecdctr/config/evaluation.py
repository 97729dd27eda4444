"""Progressive validation, the gate, and what `ecdctr tune` searches."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator

from ecdctr.config.section import Days, Section


class Evaluation(Section):
    """Progressive validation and the promotion gate."""

    low_activity_below: int = Field(
        20, ge=1, le=10**9, description="impressions in the lookback that make a user active"
    )
    batch_size: int = Field(
        8192, ge=1, le=2**22, description="impressions scored at once; changes no score"
    )
    bootstrap_samples: int = Field(
        500, ge=50, le=100_000, description="draws of users behind each interval of a difference"
    )
    gate_days: int = Field(
        7, ge=1, le=365, description="days after a version on which it may be judged, at most"
    )
    gate_max_gauc_drop: float = Field(
        0.01,
        gt=0,
        le=1,
        description=(
            "margin of the non-inferiority test: GAUC below the champion's that still serves"
        ),
    )
    gate_max_log_loss_rise: float = Field(
        0.01, gt=0, le=1, description="the same for LogLoss, as a share of the champion's"
    )
    gate_min_users: int = Field(
        100,
        ge=10,
        le=10**9,
        description="users with a click and a non-click that a verdict needs",
    )
    gate_power: float = Field(
        0.8,
        gt=0.05,
        lt=1,
        description=(
            "a version is judged as soon as an equal one passes so surely, or after gate_days"
        ),
    )
    gate_calibration: tuple[float, float] = Field(
        (0.5, 2.0),
        description=(
            "lowest and highest ratio of predicted to observed clicks that the gate lets pass"
        ),
    )
    gate_min_score_spread: float = Field(
        1e-4, ge=0, le=1, description="standard deviation of the predictions, at least"
    )
    gate_max_cpm_age: Days = Field(
        3, description="days by which CPM may be older than an A-CTR that starts from it"
    )
    gate_max_tpm_age: Days = Field(21, description="the same for the newest TPM snapshot")

    @field_validator("gate_calibration")
    @classmethod
    def _ordered(cls, bounds: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= bounds[0] < bounds[1]:
            raise ValueError("expected two numbers, the lower bound first, not below 0")
        return bounds


class Tuning(Section):
    """What `ecdctr tune` searches.

    The same number of trials for every row, from the same values.
    """

    trials: int = Field(
        6,
        ge=2,
        le=10_000,
        description="settings tried per row; the first one is what the row has now",
    )
    space: dict[str, tuple[Any, ...]] = Field(
        default_factory=lambda: {
            "actr.lr_embedding": (1e-3, 2e-3, 5e-3, 1e-2),
            "actr.lr_dense": (5e-4, 1e-3, 2e-3, 4e-3),
            "actr.epochs": (1, 2),
            "cpm.lr_dense": (5e-4, 1e-3),
            "cpm.epochs": (1, 2),
            "tpm.lr_embedding": (2e-3, 5e-3),
            "tpm.epochs": (1, 2),
        },
        description="key of the configuration: values, for all rows",
    )
    per_row: dict[str, dict[str, tuple[Any, ...]]] = Field(
        default_factory=dict,
        description="row: the same for settings that only this row has, e.g. the strength of EWC",
    )
