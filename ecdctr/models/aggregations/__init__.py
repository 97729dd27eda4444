"""How K snapshots of an entity become one vector; each aggregation is one small file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ecdctr.models.aggregations.aggregation import Aggregation
from ecdctr.models.aggregations.concat import Concat
from ecdctr.models.aggregations.gated import Gated
from ecdctr.models.aggregations.mean import Mean
from ecdctr.models.aggregations.newest import Newest
from ecdctr.models.aggregations.self_attention import SelfAttention
from ecdctr.models.aggregations.time_attention import TimeAttention
from ecdctr.models.aggregations.time_decayed import TimeDecayed

if TYPE_CHECKING:
    from ecdctr.config import Snapshots

__all__ = ["Aggregation", "build_aggregation"]


def build_aggregation(count: int, dim: int, settings: Snapshots) -> Aggregation:
    """Build the configured aggregation of `count` vectors of `dim` numbers."""
    match settings.aggregation:
        case "self_attention":
            return SelfAttention(count, dim, settings)
        case "time_attention":
            return TimeAttention(count, dim, settings)
        case "gated":
            return Gated(count, dim, settings)
        case "time_decayed":
            return TimeDecayed(count, dim, settings)
        case "concat":
            return Concat(count, dim, settings)
        case "mean":
            return Mean(dim, dim, settings)
        case "newest":
            return Newest(dim, dim, settings)
