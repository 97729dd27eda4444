"""The days that a level reads.

Prepared, checked for something to learn, and in the order of training.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecdctr.config import LEVEL_DOMAIN, Config, Cpm, Domain, Level, Tpm
from ecdctr.errors import StoreError
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import Prepared, prepare
from ecdctr.impressions.days import Gap, gaps, window
from ecdctr.impressions.delivery import other_domain
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.remembering import holds_memory, memory_gaps, refuse_memory_gaps

if TYPE_CHECKING:
    from ecdctr.levels.request import Days, Plan, Request, SnapshotSets
    from ecdctr.store.manifest import Ref


def days_since(
    request: Request, parent: Ref, settings: Tpm | Cpm, level: Level
) -> tuple[list[dt.date], tuple[dt.date, ...]]:
    """Return the days after a parent's that its successor reads, and those beyond the window.

    Raises StoreError for the latter, unless `skip_missed_days` allows to go on without them.
    """
    since = window(request.date, (request.date - parent.date).days)
    missed, dates = since[: -settings.window_days], since[-settings.window_days :]
    if missed and not settings.skip_missed_days:
        anew = "" if level == "tpm" else "start anew with --restart, "
        raise StoreError(
            f"{level} {request.date} goes on from {parent}, but {len(missed)} of the {len(since)} "
            f"days since ({missed[0]} to {missed[-1]}) lie further back than {level}.window_days: "
            f"{settings.window_days} and would never be learned. Train the missing days oldest "
            f"first, raise {level}.window_days, {anew}or set {level}.skip_missed_days: true to go "
            "on without them."
        )
    return dates, tuple(missed)


def prepare_days(request: Request, plan: Plan) -> Days:
    """Prepare all domains and days that a plan reads; raises StoreError for none.

    Raises ContractError where days, or those that they look back on, lack one domain.
    """
    if holds_memory(request, plan):
        refuse_memory_gaps(request)
    to_read: list[tuple[Domain, list[dt.date]]] = [(LEVEL_DOMAIN[plan.level], plan.dates)]
    if plan.natural_dates:
        to_read.append(("natural", list(plan.natural_dates)))
    days: Days = {}
    for domain, dates in to_read:
        request.reporter.start(f"prepare {domain}", len(dates))
        prepared = prepare(
            request.config,
            domain,
            dates,
            basic=plan.level == "tpm",
            on_day=lambda _: request.reporter.advance(1),
        )
        if not prepared:
            raise StoreError(
                f"{plan.level} {request.date}: no day of {domain} impressions in its window; "
                "nothing to train on."
            )
        days |= {(domain, day.date): day for day in prepared}
        if not any(_has_clicks(day.path) for day in prepared):
            raise StoreError(
                f"{plan.level} {request.date}: expected clicks among the {domain} impressions of "
                f"{prepared[0].date} to {prepared[-1].date}, found none; nothing can be learned. "
                "Check the label 'click' of these days."
            )
    return days


def passed_over(request: Request, plan: Plan, days: Days) -> list[str]:
    """Say which days are missing of all that were read, and `data.allowed_missing_days` tolerates.

    Those of the windows, and those that one domain lacks of what examples or memory look at.
    """
    config = request.config
    lacking: list[Gap] = []
    if plan.level != "tpm":
        lacking += gaps(config, {date for _, date in days}, config.examples_look_back)
    if holds_memory(request, plan):
        lacking += memory_gaps(request)
    said = {
        gap: f"expected, since {other_domain(gap.domain)} has that day, found none"
        for gap in lacking
    }
    windows: list[tuple[Domain, Sequence[dt.date]]] = [
        (LEVEL_DOMAIN[plan.level], plan.dates),
        ("natural", plan.natural_dates),
    ]
    for domain, dates in windows:
        began = open_impressions(config.data.root).dates(domain)[:1]
        for date in dates:
            if (domain, date) not in days and began and date > began[0]:
                said.setdefault(Gap(domain, date), "expected in the window, found none")
    tolerated = f"(data.allowed_missing_days: {config.data.allowed_missing_days})"
    return [f"{gap}: {what} {tolerated}" for gap, what in sorted(said.items())]


def left_out(plan: Plan, days: Days) -> list[dt.date]:
    """Return the days since the version before that this one does not learn.

    They lie further back than the window (`skip_missed_days`), or are not there
    (`data.allowed_missing_days`). None where a version starts anew.
    """
    before = [ref.date for ref in plan.parents.get(plan.level, [])]
    since = [date for date in plan.dates if before and date > max(before)]
    missing = [date for date in since if (LEVEL_DOMAIN[plan.level], date) not in days]
    return [*plan.skipped, *missing]


def last_prior_ctr(days: Days) -> float | None:
    """Return the click-through rate that counts of the newest day of ads are smoothed with.

    None without ads.
    """
    ads = [date for domain, date in days if domain == "ads"]
    if not ads:
        return None
    column = pq.read_table(days["ads", max(ads)].path, columns=["prior_ctr"], partitioning=None)
    return float(column["prior_ctr"][0].as_py())


def click_rate(config: Config, days: Days, snapshots: SnapshotSets) -> float:
    """Return clicks over impressions of what A-CTR learns from, both domains together."""
    parts = training_parts(config, days, snapshots)
    clicks = rows = 0
    for table in read_chunks(parts, ["user_id", "click"], config.actr.chunk_rows, config.seed):
        clicks += pc.sum(table["click"]).as_py()
        rows += table.num_rows
    return clicks / max(rows, 1)


def _has_clicks(path: Path) -> bool:
    """Tell from the Parquet statistics alone."""
    metadata = pq.read_metadata(path)
    column = metadata.schema.to_arrow_schema().names.index("click")
    statistics = [
        metadata.row_group(i).column(column).statistics for i in range(metadata.num_row_groups)
    ]
    return any(
        of_group is None or not of_group.has_min_max or of_group.max > 0 for of_group in statistics
    )


def training_parts(config: Config, days: Days, snapshots: SnapshotSets) -> list[Part]:
    """Order parts for training: oldest first.

    Two domains are mixed evenly, each part by its position in its own window.

    Each day comes with the number of the set of snapshots that was known the day before.
    """
    per_domain: dict[Domain, list[Prepared]] = {}
    for (domain, _), day in sorted(days.items(), key=lambda item: item[0][1]):
        per_domain.setdefault(domain, []).append(day)
    share = config.actr.natural_share if len(per_domain) > 1 else 1.0
    placed = []
    for domain, prepared in per_domain.items():
        for i, day in enumerate(prepared):
            number = snapshots.of_day.get(day.date, 0)
            every = config.actr.hold_out_every
            moments = config.actr.ads_share
            ads = Part(day.path, domain, hold_out_every=every, snapshots=number, moments=moments)
            part = ads if domain == "ads" else Part(day.path, domain, share, snapshots=number)
            placed.append(((i + 0.5) / len(prepared), part))
    return [part for _, part in sorted(placed, key=lambda item: item[0])]
