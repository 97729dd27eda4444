"""Commands about impressions: simulate, validate, prepare."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecdctr.cli.base import (
    DAY,
    FOLDER,
    DateOption,
    LevelOption,
    ResultOption,
    SetOption,
    VariantOption,
    WorldOption,
    app,
    session_of,
    show,
    target_root,
)
from ecdctr.config import DOMAINS, LEVEL_DOMAIN, Config, Domain
from ecdctr.config.section import MAX_DAYS, MAX_SEED
from ecdctr.config.studies import WORLD
from ecdctr.config.terms import DEFAULT
from ecdctr.console import labelled, terminal

if TYPE_CHECKING:
    from rich.console import Console

    from ecdctr.impressions.contract import DayReport

NAMED = 10  # days that `validate` names, missing or without a click, of perhaps thousands


@app.command()
def simulate(
    context: typer.Context,
    world: WorldOption = WORLD,
    changes: SetOption = None,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED, help="of the world")] = 1,
    root: Annotated[
        Path | None, typer.Option("--out", help="data root; default: data.root", **FOLDER)
    ] = None,
    workers: Annotated[int, typer.Option(min=1)] = 2,
) -> None:
    """Generate a two-domain world with known click probabilities."""
    from ecdctr.console import Bars
    from ecdctr.worlds.described import description
    from ecdctr.worlds.named import load_world
    from ecdctr.worlds.simulate import simulate

    name, sim = load_world(world, changes or ())
    root = target_root(context, root)
    description(root)  # refused where it is damaged
    bars = Bars()
    bars.start(f"simulate {name}", sim.days)
    try:
        rows = simulate(sim, seed, root, workers, lambda _: bars.advance(1))
    finally:
        bars.close()
    last = sim.start + dt.timedelta(days=sim.days - 1)
    show(
        context,
        {
            "root": str(root),
            "impressions": rows,
            "first": str(sim.start),
            "last": str(last),
            "seed": seed,
        },
    )


@app.command()
def validate(
    context: typer.Context,
    date: Annotated[
        dt.date | None, typer.Option(help="last day to check; default: every day found", **DAY)
    ] = None,
    days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="with --date: how many days up to it")
    ] = 1,
    domain: Annotated[Domain | None, typer.Option(help="default: both")] = None,
    result: ResultOption = None,
) -> None:
    """Check impressions against the data contract, and the last day against those before.

    Columns must have the types that they have on the days before that counts look back on.
    """
    domains = [domain] if domain else list(DOMAINS)
    show(context, _checked(session_of(context).config(), domains, date, days), result)


def _checked(
    config: Config, domains: list[Domain], date: dt.date | None, days: int
) -> dict[str, Any]:
    """Check days and say on stderr what is wrong or unlike other days; return the totals.

    Raises DataError at broken rows, unless they are set aside.
    """
    from ecdctr.impressions.contract import LogTypes, raise_for, validate
    from ecdctr.impressions.days import present_days, window
    from ecdctr.impressions.impressions import open_impressions
    from ecdctr.impressions.quality import check_day

    console = terminal(stderr=True)

    told = _Breaches(console)
    reports = []
    types = LogTypes()
    for name in domains:
        dates = present_days(config, name, window(date, days)) if date else None
        if dates:
            types.look_back(config, name, dates[0])
        reports += validate(config, [name], dates, told.say, types)
        for other in open_impressions(config.data.root).other_folders(name):
            text = f"domain={name}/{other}: no day of the form date=YYYY-MM-DD with *.parquet files"
            console.print(labelled("left out", "yellow", text), soft_wrap=True)
    told.say_more()
    bad = [report for report in reports if report.violations]
    for report in bad:
        raise_for(report, config)
    warnings = []
    for name in domains:
        newest = date or max(open_impressions(config.data.root).dates(name))
        warnings += [str(finding) for finding in check_day(config, name, newest)]
        dates = open_impressions(config.data.root).dates(name)
        log = (max(dates) - min(dates)).days + 1
        if config.memory.enabled and log < config.memory.longest:
            warnings.append(
                f"memory.windows: {config.memory.longest} days, but the {name} log has {log} so "
                "far; counts of this window are those of a shorter one until then."
            )
    warnings += _gaps(config, reports) + _without_clicks(reports)
    for warning in warnings:
        console.print(labelled("unlike the days before", "yellow", warning), soft_wrap=True)
    return {
        "days": len(reports),
        "impressions": sum(r.rows for r in reports),
        "clicks": sum(r.clicks for r in reports),
        "violations": len(bad),
        "warnings": warnings,
    }


class _Breaches:
    """Says what is wrong with days as they are checked; of missing days the first ones alone."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.absent: dict[str, list[dt.date]] = {}

    def say(self, report: DayReport) -> None:
        """Say what is wrong with a day."""
        for violation in report.violations:
            if violation.kind == "missing_day":
                absent = self.absent.setdefault(report.domain, [])
                absent.append(report.date)
                if len(absent) > NAMED:
                    continue
            self._print(f"{report.domain} {report.date}", str(violation))

    def say_more(self) -> None:
        """Say how many more days of each domain are not there."""
        for name, absent in self.absent.items():
            if more := absent[NAMED:]:
                text = f"{len(more):,} more days without a *.parquet file, {more[0]} to {more[-1]}"
                self._print(name, text)

    def _print(self, label: str, text: str) -> None:
        self.console.print(labelled(label, "red", text), soft_wrap=True)


def _gaps(config: Config, reports: list[Any]) -> list[str]:
    """Say which days one domain lacks of those that examples of the days checked look at."""
    from ecdctr.impressions.days import gaps

    if not reports:
        return []
    dates = sorted({report.date for report in reports})
    return [
        f"{gap}: not there, but the other domain has that day, and histories and counts are of "
        "both; a training of CPM or A-CTR and an evaluation that look at it refuse more such days "
        f"than data.allowed_missing_days: {config.data.allowed_missing_days}."
        for gap in gaps(config, dates, config.examples_look_back)
    ]


def _without_clicks(reports: list[Any]) -> list[str]:
    """Say which domains have no click on the days that were checked, or else on which of them."""
    said = []
    for name in dict.fromkeys(report.domain for report in reports):
        days = [report for report in reports if report.domain == name]
        if not sum(report.clicks for report in days):
            said.append(
                f"{name}: no click among the {sum(report.rows for report in days):,} impressions "
                f"of {days[0].date} to {days[-1].date}; a training that reads no other day refuses "
                "them."
            )
            continue
        without = [report for report in days if report.rows and not report.clicks]
        said += [
            f"{name}: no click among the {report.rows:,} impressions of {report.date}; a training "
            "that reads this day alone, as in a chain, refuses it."
            for report in without[:NAMED]
        ]
        if more := without[NAMED:]:
            dates = f"{more[0].date} to {more[-1].date}"
            said.append(f"{name}: {len(more):,} more days without a click, {dates}.")
    return said


@app.command()
def prepare(
    context: typer.Context,
    date: DateOption,
    level: LevelOption = "actr",
    variant: VariantOption = DEFAULT,
    check: Annotated[
        bool, typer.Option("--validate", help="first check the window against the data contract")
    ] = False,
    result: ResultOption = None,
) -> None:
    """Prepare the examples of a level's window; days already prepared are re-used."""
    from ecdctr.console import Bars
    from ecdctr.examples.prepare import prepare
    from ecdctr.impressions.days import window

    config = session_of(context).config(variant)
    checked: dict[str, Any] = {}
    if check:
        window_days = config.training(level).window_days
        checked = _checked(config, [LEVEL_DOMAIN[level]], date, window_days)
    dates = window(date, config.training(level).first_days)
    bars = Bars(level=level, data_date=date)
    bars.start(f"prepare {LEVEL_DOMAIN[level]}", len(dates))
    try:
        days = prepare(
            config, LEVEL_DOMAIN[level], dates, level == "tpm", lambda _: bars.advance(1)
        )
    finally:
        bars.close()
    prepared = {
        "level": level,
        "days": len(days),
        "first": str(days[0].date),
        "last": str(days[-1].date),
    }
    show(context, checked | prepared, result)
