"""The network of CPM and A-CTR, and the TPM snapshots that it takes."""

from __future__ import annotations

import datetime as dt
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from ecdctr.config.section import MAX_DAYS, Section, Width

Backbone = Literal["mlp", "deepfm", "dcnv2", "masknet", "star", "mmoe", "ple"]


class Abilities(NamedTuple):
    """What the settings of a level may ask of a backbone."""

    both_domains: bool = False  # it learns them in one training, and only so: actr.natural_days
    start_at_rate: bool = False  # its last bias alone decides the rate that it starts at
    source: bool = False  # another model's layers can be mapped into its own: actr.source


BACKBONES: dict[Backbone, Abilities] = {
    "mlp": Abilities(start_at_rate=True, source=True),
    "deepfm": Abilities(),
    "dcnv2": Abilities(start_at_rate=True),
    "masknet": Abilities(start_at_rate=True),
    "star": Abilities(both_domains=True),
    "mmoe": Abilities(both_domains=True),
    "ple": Abilities(both_domains=True),
}


class Snapshots(Section):
    """Which TPM snapshots a consumer takes and how it aggregates them."""

    count: int = Field(3, ge=0, le=64, description="K; 0 switches TPM off")
    stride_days: int = Field(
        28,
        ge=1,
        le=MAX_DAYS,
        description="days between the dates that the K snapshots are taken at",
    )
    point_in_time: bool = Field(
        True,
        description=(
            "train an impression of day t with the snapshots that were known on day t - "
            "1, as serving would; false, the paper's form: all days with those of the "
            "data date, which have seen their labels"
        ),
    )
    aggregation: Literal[
        "self_attention", "newest", "mean", "concat", "gated", "time_decayed", "time_attention"
    ] = Field(
        "self_attention",
        description="self_attention is the paper's; see ecdctr/models/aggregations/",
    )
    inputs: Literal["vectors", "products"] = Field(
        "vectors",
        description="what the network reads of them: the aggregated vectors and their product (the "
        "paper's), or of each snapshot the product of user and item alone, which stays when the "
        "space turns between versions; products need aggregation: concat",
    )
    missing: Literal["zeros", "learned"] = Field(
        "zeros", description="vector of an id that no snapshot knows"
    )
    presence: bool = Field(
        False, description="also tell how many snapshots know the id, and whether the newest does"
    )
    history: bool = Field(
        False, description="aggregated item vectors also enter the click history's items"
    )
    require_all: bool = Field(False, description="fail when fewer than K distinct snapshots exist")

    @model_validator(mode="before")
    @classmethod
    def _lag(cls, given: Any) -> Any:
        """Read `lag_days: 0` of an earlier release as the paper's form; refuse other lags."""
        if not isinstance(given, dict) or "lag_days" not in given:
            return given
        if given["lag_days"] != 0 or given.get("point_in_time"):
            raise ValueError(
                "lag_days is gone: each day is trained with the snapshots of the day before it. "
                "Leave it out (lag_days: 0 was what point_in_time: false is)"
            )
        rest = {name: value for name, value in given.items() if name != "lag_days"}
        return rest | {"point_in_time": False}

    @model_validator(mode="after")
    def _each_by_itself(self) -> Snapshots:
        if self.inputs == "products" and (self.aggregation != "concat" or self.presence):
            raise ValueError(
                "inputs: products reads each snapshot by itself; set aggregation: concat and "
                "presence: false"
            )
        return self

    def as_of(self, date: dt.date) -> list[dt.date]:
        """Return the K dates at which TPM is resolved for what is known on `date`, newest first."""
        return [date - dt.timedelta(days=k * self.stride_days) for k in range(self.count)]

    def needed(self, date: dt.date) -> dt.date:
        """Return the date at which a training must find a TPM to learn of its vectors."""
        return date - dt.timedelta(days=self.point_in_time)


class Network(Section):
    """The one network of CPM and A-CTR."""

    embedding_dim: int = Field(16, ge=1, le=4096, description="numbers per id of each field")
    hidden: tuple[Width, ...] = Field(
        (128, 64), min_length=1, max_length=16, description="widths of the hidden layers, in order"
    )
    attention_heads: int = Field(
        2, ge=1, le=64, description="of the snapshot aggregator; they divide embedding_dim"
    )
    history: Literal["target_attention", "intensity_attention", "mean", "none"] = Field(
        "target_attention",
        description="how the click history is read: target attention is a weighted mean of the "
        "clicks; intensity attention, as DIN has it, a sum, which grows with how many speak for "
        "the item",
    )
    backbone: Backbone = Field(
        "mlp",
        description="star, mmoe and ple learn both domains in one training: actr.natural_days",
    )
    experts: int = Field(
        3, ge=1, le=64, description="mmoe: experts; ple: experts of each domain and shared ones"
    )

    @model_validator(mode="after")
    def _check(self) -> Network:
        if self.embedding_dim % self.attention_heads:
            raise ValueError(
                f"embedding_dim {self.embedding_dim} is not a multiple of attention_heads "
                f"{self.attention_heads}"
            )
        return self
