"""One day of natural content of the world `daily`, prepared by ecdctr, pandas and polars.

All read the day and the 14 days before it from Parquet and give, per impression, the last clicks
over both domains strictly before it with their gaps, and the counts as of the day before. `warm`
has the extracts of the days before on disk, as a daily run has them; pandas and polars have nothing
of the kind and read these days again.
"""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq

from benchmarks.common import RESULTS, Row, alternate, report
from ecdctr.config import DOMAINS, Config, load_config
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate

REPEATS, WORLD_DAYS = 5, 20
COLUMNS = ["user_id", "item_id", "ts", "click"]


def settings(scale: int = 1) -> tuple[Config, dt.date]:
    """Return the demo's configuration on a world with `scale` times its users, and its last day."""
    config = load_config(Path("configs/daily.yaml"))
    sim = load_world("daily").settings
    larger = {
        name: scale * getattr(sim, name) for name in ("users", "natural_per_day", "ads_per_day")
    }
    sim = sim.model_copy(update={"days": WORLD_DAYS, **larger})
    root = RESULTS / f"world-{scale}"
    simulate(sim, 1, root)
    data = config.data.model_copy(update={"root": root, "prepared": RESULTS / f"prepared-{scale}"})
    return config.model_copy(update={"data": data}), sim.start + dt.timedelta(days=WORLD_DAYS - 1)


def ours(config: Config, day: dt.date, cold: bool) -> Path:
    """Return the day's examples; `cold` without the extracts of the days before."""
    shutil.rmtree(
        config.data.prepared if cold else config.data.prepared / "examples", ignore_errors=True
    )
    return prepare(config, "natural", [day])[0].path


def paths(config: Config, days: list[dt.date], domain: Any) -> list[Path]:
    """Return the files of a domain's days."""
    return [
        path for date in days for path in open_impressions(config.data.root).files(domain, date)
    ]


def by_pandas(config: Config, day: dt.date) -> pd.DataFrame:
    """Return the same with merge_asof, groupby and numpy."""
    lookback, length = config.data.lookback_days, config.data.history_length
    days = window(day, lookback + 1)
    frames = []
    for domain in DOMAINS:
        for date in days:
            for path in paths(config, [date], domain):
                frame = pq.read_table(path, columns=COLUMNS, partitioning=None).to_pandas()
                frames.append(frame.assign(domain=domain, today=date == day))
    log = pd.concat(frames, ignore_index=True)
    rows = pd.concat(
        [
            pq.read_table(path, partitioning=None).to_pandas()
            for path in paths(config, [day], "natural")
        ]
    ).sort_values(["ts", "user_id", "item_id"], ignore_index=True)

    horizon = pd.Timestamp(day, tz="UTC") - pd.Timedelta(days=lookback)
    clicks = log[(log.click == 1) & (log.ts >= horizon)].sort_values(
        ["user_id", "ts", "item_id"], ignore_index=True
    )
    clicks["position"] = np.arange(len(clicks))
    ends = clicks.groupby(["user_id", "ts"], as_index=False)["position"].max().sort_values("ts")
    clicks_before = pd.merge_asof(rows, ends, on="ts", by="user_id", allow_exact_matches=False)
    first = clicks.groupby("user_id")["position"].min()
    start = clicks_before.user_id.map(first).fillna(0).astype(np.int64).to_numpy()
    end = clicks_before.position.fillna(-1).astype(np.int64).to_numpy()
    index = end[:, None] - np.arange(length)
    valid = (end[:, None] >= 0) & (index >= start[:, None])
    items, times = clicks.item_id.to_numpy(), clicks.ts.astype("int64").to_numpy()
    safe = np.where(valid, index, 0)
    lengths = valid.sum(1)
    gaps = (clicks_before.ts.astype("int64").to_numpy()[:, None] - times[safe]) / 1e6
    cuts = np.cumsum(lengths)[:-1]
    rows["history"] = np.split(items[safe][valid], cuts)
    rows["history_gap"] = np.split(gaps[valid], cuts)

    before = log[~log.today]
    natural = before[before.domain == "natural"]
    prior = natural.click.sum() / len(natural)
    for side, key in (("user", "user_id"), ("item", "item_id")):
        counts = natural.groupby(key).click.agg(["size", "sum"])
        size = rows[key].map(counts["size"]).fillna(0)
        clicked = rows[key].map(counts["sum"]).fillna(0)
        rows[f"{side}_impressions"] = np.log1p(size)
        rows[f"{side}_ctr"] = (clicked + 10 * prior) / (size + 10)
        rows[f"{side}_seen"] = rows[key].map(before.groupby(key).size()).fillna(0).astype(np.int64)
    rows["hour"] = rows.ts.dt.hour
    rows["price"] = np.log1p(rows.price.clip(lower=0))
    rows.to_parquet(RESULTS / "pandas.parquet", compression="zstd")
    return rows


def by_polars(config: Config, day: dt.date) -> pl.DataFrame:
    """Return the same with join_asof, group_by and list slices."""
    lookback, length = config.data.lookback_days, config.data.history_length
    days = window(day, lookback + 1)
    start = dt.datetime.combine(day, dt.time(), dt.UTC)
    log = pl.concat(
        pl.scan_parquet(paths(config, days, domain), hive_partitioning=False)
        .select(COLUMNS)
        .with_columns(domain=pl.lit(domain))
        for domain in DOMAINS
    ).collect()
    rows = (
        pl.read_parquet(paths(config, [day], "natural"), hive_partitioning=False)
        .sort("ts", "user_id", "item_id")
        .with_row_index("row")
    )
    clicks = (
        log.filter((pl.col("click") == 1) & (pl.col("ts") >= start - dt.timedelta(days=lookback)))
        .sort("user_id", "ts", "item_id")
        .with_columns(n=pl.int_range(pl.len()).over("user_id"))
    )
    lists = clicks.group_by("user_id", maintain_order=True).agg(
        items="item_id", times=pl.col("ts").dt.epoch("us")
    )
    ends = clicks.group_by("user_id", "ts").agg(pl.col("n").max()).sort("ts")
    begin = (pl.col("n") - (length - 1)).clip(lower_bound=0)
    rows = (
        rows.join_asof(ends, on="ts", by="user_id", strategy="backward", allow_exact_matches=False)
        .join(lists, on="user_id", how="left")
        .with_columns(
            history=pl.col("items").list.slice(begin, pl.col("n") - begin + 1).list.reverse(),
            clicked_at=pl.col("times").list.slice(begin, pl.col("n") - begin + 1).list.reverse(),
        )
        .with_columns(
            history=pl.when(pl.col("n").is_null())
            .then(pl.lit([], pl.List(pl.Int64)))
            .otherwise("history")
        )
    )
    gaps = (
        rows.filter(pl.col("n").is_not_null())
        .select("row", pl.col("ts").dt.epoch("us").alias("at"), "clicked_at")
        .explode("clicked_at")
        .with_columns(gap=(pl.col("at") - pl.col("clicked_at")) / 1e6)
        .group_by("row", maintain_order=True)
        .agg(history_gap="gap")
    )
    rows = rows.join(gaps, on="row", how="left").drop("items", "times", "clicked_at", "n")
    before = log.filter(pl.col("ts") < start)
    natural = before.filter(pl.col("domain") == "natural")
    prior = natural["click"].sum() / len(natural)
    for side, key in (("user", "user_id"), ("item", "item_id")):
        counts = natural.group_by(key).agg(
            size=pl.len(), clicked=pl.col("click").cast(pl.Int64).sum()
        )
        seen = before.group_by(key).agg(pl.len().alias(f"{side}_seen"))
        size, clicked = pl.col("size").fill_null(0), pl.col("clicked").fill_null(0)
        rows = (
            rows.join(counts, on=key, how="left")
            .join(seen, on=key, how="left")
            .with_columns(
                size.log1p().alias(f"{side}_impressions"),
                ((clicked + 10 * prior) / (size + 10)).alias(f"{side}_ctr"),
                pl.col(f"{side}_seen").fill_null(0),
            )
            .drop("size", "clicked")
        )
    rows = rows.with_columns(
        hour=pl.col("ts").dt.hour(), price=pl.col("price").clip(lower_bound=0).log1p()
    ).sort("row")
    rows.write_parquet(RESULTS / "polars.parquet", compression="zstd")
    return rows


def check(made: Path, other: Any) -> None:
    """Equal row for row: order, histories, gaps and counts."""
    (table,) = read_chunks([Part(made, "natural")], None, 10_000_000)
    expected = table.to_pydict()
    for name in ("user_id", "item_id", "user_seen", "item_seen", "hour"):
        if list(other[name]) != expected[name]:
            raise SystemExit(f"column {name} differs: the comparison is not fair")
    for name in ("user_impressions", "user_ctr", "item_impressions", "item_ctr", "price"):
        if not np.allclose(np.asarray(other[name], dtype=np.float64), expected[name], atol=1e-5):
            raise SystemExit(f"column {name} differs: the comparison is not fair")
    for ours_, theirs in zip(expected["history"], other["history"], strict=True):
        if ours_ != list(theirs):
            raise SystemExit(f"a history differs: {ours_} and {list(theirs)}")
    moments = zip(expected["ts"], expected["history_ts"], other["history_gap"], strict=True)
    for moment, clicked, theirs in moments:
        gaps = [(moment - then).total_seconds() for then in clicked]
        if not np.allclose(gaps, [] if theirs is None else list(theirs), rtol=1e-5):
            raise SystemExit(f"gaps differ: {gaps} and {theirs}")


def main() -> None:
    """Check that all agree, measure in turns, print: the demo's day and one ten times as large."""
    report("preparation", [row for scale in (1, 10) for row in compare(scale)])


def compare(scale: int) -> list[Row]:
    """Return one size of a day."""
    asked = {"pandas": 10.0 if scale == 1 else 8.0, "polars": 1.5 if scale == 1 else 2.5}
    config, day = settings(scale)
    check(ours(config, day, cold=True), by_pandas(config, day))
    check(ours(config, day, cold=True), by_polars(config, day))
    ours(config, day, cold=True)
    warm = alternate(
        {
            "warm": lambda: ours(config, day, cold=False),
            "pandas": lambda: by_pandas(config, day),
            "polars": lambda: by_polars(config, day),
        },
        REPEATS,
    )
    cold = alternate({"cold": lambda: ours(config, day, cold=True)}, REPEATS)["cold"]
    rows = []
    for name, least in asked.items():
        peer = warm[name]
        size, ours_ = f"{48 * scale},000 rows", warm["warm"]
        rows.append(
            Row(f"{size}, warm", name, str(ours_), str(peer), peer.median / ours_.median, least)
        )
        rows.append(Row(f"{size}, cold", name, str(cold), str(peer), peer.median / cold.median))
    return rows


if __name__ == "__main__":
    main()
