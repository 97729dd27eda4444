"""Words that the whole project shares, each written once."""

from __future__ import annotations

from typing import Literal

Level = Literal["tpm", "cpm", "actr"]
Domain = Literal["natural", "ads"]
LEVELS: tuple[Level, ...] = ("tpm", "cpm", "actr")
DOMAINS: tuple[Domain, ...] = ("natural", "ads")
LEVEL_DOMAIN: dict[str, Domain] = {"tpm": "natural", "cpm": "natural", "actr": "ads"}
PRODUCTION = "production"  # the experiment that serves, and that the others fall back to
FULL = "full"  # the row of a study that is the configuration as it stands
DEFAULT = "default"  # the variant that is the configuration as it stands
CONTRACT_COLUMNS = {"user_id", "item_id", "ts", "click", "oracle_ctr", "impression_id"}
PREPARED_COLUMNS = {  # what preparation, the partitions and the counts of a request add
    "date", "domain", "history", "history_gap", "hour", "item_clicks", "item_ctr",
    "item_impressions", "item_seen", "prior_ctr", "user_clicks", "user_ctr",
    "user_impressions", "user_seen",
}  # fmt: skip
RESERVED_COLUMNS = CONTRACT_COLUMNS | PREPARED_COLUMNS
