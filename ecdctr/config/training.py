"""How each level is trained."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from ecdctr.config.section import MAX_DAYS, Days, Section, Width
from ecdctr.files.rounding import Precision


class Admission(Section):
    """Which ids of a field have a row of their own; all others read as the unknown row."""

    min_impressions: int = Field(
        1, ge=1, le=10**9, description="that an id must have been read in before it gets a row"
    )
    evict_after_days: int | None = Field(
        None,
        ge=1,
        le=MAX_DAYS,
        description="days without an impression after which an id loses its row; never by default",
    )
    max_rows: int | None = Field(
        None, ge=1, le=2**31 - 2, description="of the field's table; no limit by default"
    )
    order: Literal["lru", "lfu"] = Field(
        "lru",
        description="who keeps a row where there are too few: the most recently or the most "
        "frequently seen",
    )


class Training(Section):
    """One level's optimisation. Learning rates are per step of Adam."""

    window_days: int = Field(
        ge=1, le=MAX_DAYS, description="days of impressions read, up to the data date"
    )
    epochs: int = Field(1, ge=1, le=1000, description="passes over the window")
    batch_size: int = Field(1024, ge=2, le=2**22, description="impressions per step")
    lr_embedding: float = Field(5e-3, gt=0, le=10, description="learning rate of embedding tables")
    lr_dense: float = Field(1e-3, gt=0, le=10, description="learning rate of everything else")
    lr_final: float = Field(
        1,
        ge=0,
        le=1,
        description=(
            "share of the learning rates that is left at the end of a training: they fall to it in "
            "a straight line; 1 keeps them as they are"
        ),
    )
    chunk_rows: int = Field(
        262_144,
        ge=1024,
        le=2**31,
        description="rows shuffled together; bounds the memory of reading",
    )
    threads: int = Field(
        1, ge=1, le=1024, description="torch threads; part of the result's identity"
    )
    shards: int = Field(
        1,
        ge=1,
        le=4096,
        description=(
            "parts that each day is read in, side by side; as many processes may train "
            "together (ecdctr train --processes), and fewer give the same result. Part of "
            "the result's identity"
        ),
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description=(
            "of matrix products; bfloat16 trains faster where the processor has it "
            "(AVX512-BF16, AMX, GPUs)"
        ),
    )
    compile: bool = Field(
        False,
        description=(
            "let torch.compile fuse the network: needs a C++ compiler and half a minute, "
            "and pays from some ten million samples on"
        ),
    )
    checkpoint_seconds: float = Field(
        60,
        ge=0,
        le=604_800,
        description=(
            "how often a training saves where it is, to go on there when it was interrupted"
        ),
    )
    vocabulary: dict[str, Admission] = Field(
        default_factory=dict,
        description=(
            "admission and eviction of ids by field, e.g. user_id: {min_impressions: 2, "
            "evict_after_days: 90}; ids of fields that it does not name have a row for ever"
        ),
    )
    save_optimizer: bool = Field(
        False, description="store Adam's moments with the version, thrice its size"
    )
    carry_optimizer: bool = Field(
        False, description="start from the parent's moments; the parent must have saved them"
    )

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.batch_size % self.shards:
            raise ValueError(
                f"shards {self.shards} do not divide batch_size {self.batch_size}; change one of "
                "them"
            )
        return self

    @property
    def first_days(self) -> int:
        """Days that a version without one before it reads."""
        return self.window_days


SKIP_MISSED_DAYS = (
    "where a version goes on from the one before: leave out days since it that are further back "
    "than window_days, and say so, instead of refusing"
)


class Tpm(Training):
    """Tiny Pre-training Model."""

    skip_missed_days: bool = Field(False, description=SKIP_MISSED_DAYS)

    window_days: int = Field(
        84, ge=1, le=MAX_DAYS, description="days of natural content of the first version"
    )
    lr_embedding: float = Field(2e-3, gt=0, le=10, description="learning rate of embedding tables")
    embedding_dim: int = Field(
        16, ge=1, le=4096, description="numbers per id, which is what a snapshot hands on"
    )
    snapshot_precision: Precision = Field(
        "float32",
        description=(
            "what snapshots are stored as; int8, with a scale per id, takes a quarter. CPM and "
            "A-CTR read them as float32"
        ),
    )
    hidden: tuple[Width, ...] = Field(
        (32,), max_length=16, description="widths of the hidden layers, in order"
    )
    refresh: Literal["incremental", "window"] = Field(
        "incremental",
        description="after the first version: only the days since it, or the whole window again",
    )


class Cpm(Training):
    """Complete Pre-training Model."""

    skip_missed_days: bool = Field(False, description=SKIP_MISSED_DAYS)

    window_days: int = Field(
        28, ge=1, le=MAX_DAYS, description="days of natural content of a version that starts anew"
    )
    refresh: Literal["incremental", "window"] = Field(
        "incremental",
        description=(
            "the version before goes on with the days since it, or from scratch on the "
            "whole window (paper)"
        ),
    )
    first_window_days: int | None = Field(
        None,
        ge=1,
        le=MAX_DAYS,
        description="of the first version, where refresh is incremental; window_days by default",
    )
    lr_aggregator: float | None = Field(
        None, gt=0, le=10, description="of the snapshot aggregator; lr_dense by default"
    )

    @model_validator(mode="after")
    def _check(self) -> Cpm:
        if self.refresh == "window" and self.carry_optimizer:
            raise ValueError(
                "carry_optimizer: CPM starts from scratch, there are no moments to carry; set "
                "refresh: incremental"
            )
        if self.refresh == "window" and self.first_window_days:
            raise ValueError(
                "first_window_days needs refresh: incremental; else every version reads window_days"
            )
        return self

    @property
    def first_days(self) -> int:
        """Days that a version without one before it reads."""
        return self.first_window_days or self.window_days


class Actr(Training):
    """Advertisement CTR model."""

    window_days: int = Field(
        45, ge=1, le=MAX_DAYS, description="days of ads of a version that starts from CPM or anew"
    )
    batch_size: int = Field(512, ge=2, le=2**22, description="impressions per step")
    # small steps and one pass from CPM: the least regret on four unlike data sets (docs/method.md)
    lr_embedding: float = Field(2e-3, gt=0, le=10, description="learning rate of embedding tables")
    lr_dense: float = Field(5e-4, gt=0, le=10, description="learning rate of everything else")
    init: Literal["cpm", "none"] = Field("cpm", description="'none' is the ads-only baseline")
    start_at_rate: bool | None = Field(
        None,
        description="a network that starts anew predicts the click rate of its days at first: from "
        "nothing by its bias, from CPM by scaling and moving CPM's scores until they fit clicks on "
        "ads (Platt), so that few steps are enough; by default where the backbone can (mlp, dcnv2, "
        "masknet) and ewc is 0",
    )
    policy: Literal["from_cpm", "continue"] = Field(
        "from_cpm",
        description=(
            "start each day from the newest CPM, or continue yesterday's A-CTR with the new day"
        ),
    )
    batch_norm: Literal["keep", "reset_all"] = Field(
        "keep",
        description="of CPM's batch normalisation: keep all, or start statistics and weights anew",
    )
    freeze_aggregator: bool = Field(
        True,
        description=(
            "keep CPM's snapshot aggregator as it is, so that its tables can be merged into one"
        ),
    )
    lr_aggregator: float | None = Field(
        None, gt=0, le=10, description="of an aggregator that is not frozen"
    )
    natural_days: Days = Field(
        0, description="days of natural content trained on together with the ads"
    )
    natural_share: float = Field(
        1.0, gt=0, le=1, description="share of their impressions: 1 joint, small is replay"
    )
    source: Literal["none", "keep", "keep_added", "ctnet"] = Field(
        "none",
        description=(
            "instead of weights take what CPM's last hidden layer says as an input (keep) or added "
            "to the first hidden layer (keep_added), or all of them layer by layer (ctnet)"
        ),
    )
    ads_share: float = Field(
        1.0,
        gt=0,
        le=1,
        description="share of the ads that is trained on, drawn by user and time, so that what is "
        "shown together is drawn together: how sparse may ads be?",
    )
    hold_out_every: int = Field(
        0,
        ge=0,
        le=10**9,
        description=(
            "keep each n-th impression of ads out of training, for the forgetting matrix; 0: none"
        ),
    )
    ewc: float = Field(
        0, ge=0, le=1e12, description="strength of elastic weight consolidation towards the parent"
    )

    @model_validator(mode="after")
    def _check(self) -> Actr:
        if self.hold_out_every == 1:
            raise ValueError(
                "hold_out_every: 1 would hold everything out; set 0 for nothing, or 2 and more"
            )
        if self.natural_share < 1 and not self.natural_days:
            raise ValueError(
                "natural_share is set, but natural_days is 0: no natural content is read; set "
                "natural_days"
            )
        if self.source != "none" and self.init != "none":
            raise ValueError(f"source: {self.source} takes no weights from CPM; set init: none")
        if self.ewc and self.start_at_rate:
            raise ValueError(
                "start_at_rate: true moves the network away from CPM, and ewc holds it there; "
                "leave one of them out"
            )
        if self.ewc and self.init == "none":
            raise ValueError("ewc needs a parent to stay near; set init: cpm")
        if self.carry_optimizer and self.init == "none" and self.policy == "from_cpm":
            raise ValueError("carry_optimizer needs a parent; set init: cpm or policy: continue")
        return self
