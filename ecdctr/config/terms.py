"""Words that the whole project shares, each written once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ecdctr.domains import Domain

Level = Literal["tpm", "cpm", "actr"]
LEVELS: tuple[Level, ...] = ("tpm", "cpm", "actr")
LEVEL_DOMAIN: dict[str, Domain] = {"tpm": "natural", "cpm": "natural", "actr": "ads"}
PRODUCTION = "production"  # the experiment that serves, and that the others fall back to
FULL = "full"  # the row of a study that is the configuration as it stands
NAME_PATTERN = r"^[a-z0-9][a-z0-9_.-]{0,62}$"  # of experiments, studies and variants
STUDY_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,24}$"  # of forms: a variant and a seed are added to it
DEFAULT = "default"  # the variant that is the configuration as it stands
DAG_PREFIX = "ecdctr_"  # of the ids of all our DAGs
IDS = ("user_id", "item_id")
CONTRACT = (*IDS, "ts", "click")  # what every impression has
CONTRACT_COLUMNS = {*CONTRACT, "oracle_ctr", "impression_id"}
PREPARED_COLUMNS = {  # what preparation, the partitions and the counts of a request add
    "date", "domain", "history", "history_gap", "history_length", "history_start", "history_ts",
    "hour", "item_clicks", "item_ctr", "item_impressions", "item_seen", "prior_ctr", "user_clicks",
    "user_ctr", "user_impressions", "user_seen",
}  # fmt: skip
RESERVED_COLUMNS = CONTRACT_COLUMNS | PREPARED_COLUMNS


def dag_of(name: str) -> str:
    """Return the id of the DAG of a level, or of a study."""
    return f"{DAG_PREFIX}{name}"


def level_of(dag_id: str) -> str:
    """Return the level whose DAG this is; other studies' names pass through the same way."""
    return dag_id.removeprefix(DAG_PREFIX)
