"""Commands about forgetting.

The study on simulated worlds, and matrices of what Airflow's backfills trained.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ecdctr.cli.base import (
    DAY,
    FOLDER,
    DateOption,
    ExperimentOption,
    ResultOption,
    Seeds,
    SetOption,
    WorldOption,
    app,
    matrix_app,
    out,
    session_of,
    show,
)
from ecdctr.cli.options import grouped
from ecdctr.cli.studies import (
    SeedsOption,
    StudyOption,
    WorkersOption,
    check_worlds,
)
from ecdctr.config.section import MAX_DAYS
from ecdctr.config.studies import FORGETTING_VARIANTS, HOLD_OUT_EVERY, WORLD
from ecdctr.errors import ConfigError, StoreError
from ecdctr.store.places import experiment_of
from ecdctr.studies.forgetting.days import study_days


@dataclass(frozen=True)
class ForgettingOptions:
    """What is compared, on which worlds and days."""

    seeds: SeedsOption = Seeds((1, 2, 3))
    rows: Annotated[
        str,
        typer.Option(
            help="comma-separated variants; the first is what the others are compared with"
        ),
    ] = ",".join(FORGETTING_VARIANTS)
    days: Annotated[
        int, typer.Option(min=3, max=MAX_DAYS, help="data dates, the last ones of the world")
    ] = 40
    hold_out_every: Annotated[
        int, typer.Option(min=2, help="each n-th ads impression is kept for the matrix")
    ] = HOLD_OUT_EVERY
    world: WorldOption = WORLD
    changes: SetOption = None


@app.command()
@grouped
def forgetting(
    context: typer.Context,
    options: ForgettingOptions,
    work: Annotated[
        Path, typer.Option(help="worlds, prepared data and stores of the study", **FOLDER)
    ] = Path("forgetting"),
    name: StudyOption = "forgetting",
    workers: WorkersOption = 2,
    result: ResultOption = None,
) -> None:
    """Train variants day by day and evaluate each day's model on held-out ads of all days.

    A killed run goes on where it was. The results go into the store, where the pages in Airflow's
    UI show them.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.plan import Study
    from ecdctr.studies.forgetting.page import About
    from ecdctr.studies.forgetting.study import run_forgetting
    from ecdctr.worlds.named import load_world

    names = session_of(context).config().rows(options.rows)
    study = Study(
        session_of(context).config_path,
        load_world(options.world, options.changes or ()),
        options.seeds,
        names,
        options.days,
        work,
        chain_days=0,
        hold_out_every=options.hold_out_every,
    )
    check_worlds(study)
    bars = Bars()
    try:
        outcome = run_forgetting(study, workers, bars)
    finally:
        bars.close()
    dates, recurrence = study.dates(options.seeds[0]), _recurrence(study.world.settings)
    where = f"the simulated world '{study.world.name}'"
    about = About(name, where, dates, options.seeds, options.hold_out_every, recurrence)
    _write_study(context, about, outcome, result)


FromOption = Annotated[dt.date, typer.Option("--from", help="first day of the matrix", **DAY)]
ToOption = Annotated[dt.date, typer.Option("--to", help="last day of the matrix", **DAY)]
HoldOutOption = Annotated[
    int, typer.Option("--hold-out-every", min=2, help="as in training: actr.hold_out_every")
]


@matrix_app.command("row")
def matrix_row(
    context: typer.Context,
    date: DateOption,
    experiment: ExperimentOption,
    first: FromOption,
    last: ToOption,
    hold_out_every: HoldOutOption,
    result: ResultOption = None,
) -> None:
    """Evaluate an experiment's A-CTR of one date on the held-out ads of all days.

    It reads them as the version's variant says. The row is kept beside it.
    """
    from ecdctr.studies.forgetting.matrix import held_out_ads, stored_row

    session = session_of(context)
    ref = session.store.require("actr", date, experiment)
    if (ref.experiment, ref.date) != (experiment, date):
        raise StoreError(f"Experiment '{experiment}' has no A-CTR of {date}; train it first.")
    with session.store.in_use():
        config = session.config().with_variant(session.store.manifest(ref).variant)
        held_out = held_out_ads(config, study_days(first, last), hold_out_every)
        row = stored_row(config, session.store, ref, held_out)
    show(context, {"version": str(ref), "days": len(held_out.dates), "cells": row.num_rows}, result)


@matrix_app.command("report")
def matrix_report(
    context: typer.Context,
    *,
    first: FromOption,
    last: ToOption,
    hold_out_every: HoldOutOption,
    variants: Annotated[
        str, typer.Option(help="comma-separated; the first is what the others are compared with")
    ],
    seeds: SeedsOption = Seeds((1,)),
    name: StudyOption = "forgetting",
    result: ResultOption = None,
) -> None:
    """Write measures, heat maps and advice from the rows of a study's experiments.

    Variants without all rows are named.
    """
    from ecdctr.studies.forgetting.basis import row_bases
    from ecdctr.studies.forgetting.page import About
    from ecdctr.studies.forgetting.study import collect

    session, dates = session_of(context), study_days(first, last)
    experiments = {
        variant: [experiment_of(name, variant, seed) for seed in seeds]
        for variant in session.config().rows(variants)
    }
    config = session.config()
    with session.store.in_use():
        bases = row_bases(config, experiments, dates, hold_out_every)
        outcome = collect(session.store, experiments, bases)
        root, recurrence = config.data.root, None
        if isinstance(root, Path):  # it may be a simulated one
            recurrence = _world(root).get("recurrence_days")
        about = About(name, str(root), dates, seeds, hold_out_every, recurrence)
        _write_study(context, about, outcome, result)


def _world(root: Path) -> dict[str, Any]:
    """Return what is written of a simulated world.

    Nothing where there is none, or a file of that name that `simulate` did not write.
    """
    from ecdctr.worlds.described import description

    try:
        return description(root)
    except ConfigError:
        return {}


def _write_study(context: typer.Context, about: Any, outcome: Any, result: Path | None) -> None:
    """Write, print, and end with exit code 1 if a variant failed."""
    from ecdctr.studies.forgetting.page import write_study

    matrices, failed = outcome
    folder, markdown = write_study(session_of(context).store, about, matrices, failed)
    if session_of(context).as_json or result:
        show(context, {"study": str(folder), "name": about.name, "failed": failed}, result)
    else:
        out.print(markdown, soft_wrap=True)
        out.print(f"Heat maps and curves: {folder}/study.html", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _recurrence(settings: Any) -> int | None:
    """Return after how many days interests return, if it is one number for all users."""
    return getattr(settings, "recurrence_days", None)
