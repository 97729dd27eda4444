"""Commands of studies: ablation and forgetting on simulated worlds, forgetting matrices of what Airflow trained."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ecdctr.cli.base import (
    DAY,
    DateOption,
    ExperimentOption,
    ResultOption,
    Seeds,
    SetOption,
    WorldOption,
    app,
    matrix_app,
    out,
    parse_seeds,
    session_of,
    show,
)
from ecdctr.cli.options import grouped
from ecdctr.config import Level
from ecdctr.config.section import MAX_DAYS
from ecdctr.errors import ConfigError, StoreError
from ecdctr.files import durable
from ecdctr.store.store import experiment_of
from ecdctr.studies.forgetting.days import study_days

SeedsOption = Annotated[
    Seeds,
    typer.Option(
        parser=parse_seeds,
        metavar="1,2,…",
        help="comma-separated seeds; each gives its own world and weights",
    ),
]
StudyOption = Annotated[
    str, typer.Option("--name", help="of the study in the store; an earlier one is replaced")
]
PageOption = Annotated[
    Path | None,
    typer.Option("--out", help="page to write: NAME.md, or NAME.html with its pictures inside"),
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="processes; each trains with its own threads")
]


@dataclass(frozen=True)
class AblationOptions:
    """What is compared, on which worlds and days."""

    seeds: SeedsOption = Seeds((1, 2, 3))
    rows: Annotated[
        str,
        typer.Option(
            help="comma-separated variants; 'full' is the whole method; NAME@7 refreshes CPM weekly"
        ),
    ] = "ads_only,tpm_only,no_tpm,full"
    eval_days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="evaluation days, the last ones of the world")
    ] = 4
    chain_days: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_DAYS,
            help="days that what goes on day by day has lived before the first evaluation",
        ),
    ] = 30
    base: Annotated[
        str,
        typer.Option(
            help="variant that every row lies on top of; 'full' is then this variant itself"
        ),
    ] = "default"
    world: WorldOption = "demo"
    changes: SetOption = None
    work: Annotated[
        Path,
        typer.Option(help="worlds, prepared data and stores of the study; re-used when run again"),
    ] = Path("results")
    own_data: Annotated[
        bool,
        typer.Option(
            "--own-data",
            help="study the impressions under data.root instead of simulated worlds; seeds are "
            "those of the weights",
        ),
    ] = False
    until: Annotated[
        dt.date | None,
        typer.Option(help="last evaluated day; default: the last one there is", **DAY),
    ] = None

    @property
    def command(self) -> str:
        """The command line that says the same."""
        told = {
            "--world": (self.world, "demo"),
            "--base": (self.base, "default"),
            "--chain-days": (self.chain_days, 30),
            "--until": (self.until, None),
        }
        others = " --own-data" if self.own_data else ""
        others += "".join(f" --set {change}" for change in self.changes or ())
        others += "".join(
            f" {name} {value}" for name, (value, default) in told.items() if value != default
        )
        return (
            f"ecdctr ablation --seeds {self.seeds} --eval-days {self.eval_days}{others} "
            f"--rows {self.rows}"
        )


@app.command()
@grouped
def ablation(
    context: typer.Context,
    options: AblationOptions,
    target: PageOption = None,
    workers: WorkersOption = 2,
    about: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Markdown about the data, shown at the top of the page",
        ),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            min=0, help="also time each level and the preparation this often, alone on the machine"
        ),
    ] = 0,
    demo: Annotated[
        Path | None,
        typer.Option(help="timings.json of a demo, to be shown beside where there is one"),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="also keep the page in the store, under this name")
    ] = None,
    result: ResultOption = None,
) -> None:
    """Rows × seeds on simulated worlds with progressive validation; a killed run goes on where it was."""
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.page import Origin, mean_gauc, results_page
    from ecdctr.studies.ablation.speed import measure
    from ecdctr.studies.ablation.study import Study, run_study
    from ecdctr.worlds.named import load_world

    study = Study(
        session_of(context).config_path,
        load_world(options.world, options.changes or ()),
        options.seeds,
        _names(options.rows),
        options.eval_days,
        options.work,
        options.chain_days,
        base=options.base,
        own_data=options.own_data,
        until=options.until,
    )
    bars = Bars()
    try:
        records, users = run_study(study, workers, bars)
        speeds = measure(study, repeats, bars) if repeats else []
    finally:
        bars.close()
    origin = Origin(
        study.world.name,
        options.command,
        options.base,
        options.own_data,
        about.read_text() if about else None,
    )
    steps = json.loads(demo.read_text()) if demo and demo.exists() else None

    def page(picture: str | None) -> str:
        return results_page(records, users, origin, speeds, steps, picture)

    payload: dict[str, Any] = {"gauc": mean_gauc(records)}
    if name:
        from ecdctr.studies.ablation.stored import save_ablation

        folder = save_ablation(session_of(context).store, name, study.world.name, records, page)
        payload |= {"study": str(folder), "name": name}
    text = page(_picture(records, target) if target else None)
    _write_or_print(context, text, target, result, payload)


def _picture(records: list[dict[str, Any]], target: Path) -> str:
    """Draw quality against cost beside the page; returns the picture's name."""
    from ecdctr.report.figures import save_png
    from ecdctr.studies.ablation.figure import quality_and_cost

    picture = target.with_suffix(".png")
    durable.make_dir(picture.parent)
    with durable.replacing(picture) as temporary:
        save_png(quality_and_cost(records), temporary)
    return picture.name


@app.command()
def tune(
    context: typer.Context,
    rows: Annotated[
        str, typer.Option(help="comma-separated variants; 'full' is the whole method")
    ] = "ads_only,full",
    level: Annotated[Level, typer.Option(help="whose settings are tried")] = "actr",
    seeds: SeedsOption = Seeds((21, 22)),
    eval_days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="evaluation days, the last ones of the world")
    ] = 2,
    chain_days: Annotated[
        int, typer.Option(min=0, max=MAX_DAYS, help="as in `ecdctr ablation`")
    ] = 30,
    world: WorldOption = "demo",
    changes: SetOption = None,
    work: Annotated[
        Path, typer.Option(help="worlds, prepared data and stores of the search")
    ] = Path("tuning"),
    target: PageOption = None,
    workers: WorkersOption = 2,
    result: ResultOption = None,
) -> None:
    """Try the same number of settings for each row and say which was best; use other seeds than those of results.

    What is tried stands under 'tuning' in the configuration. A killed run goes on where it was.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.study import Study
    from ecdctr.studies.tuning import best, run_tuning, tuning_page
    from ecdctr.worlds.named import load_world

    study = Study(
        session_of(context).config_path,
        load_world(world, changes or ()),
        seeds,
        _names(rows),
        eval_days,
        work,
        chain_days,
    )
    bars = Bars()
    try:
        trials = run_tuning(study, level, workers, bars)
    finally:
        bars.close()
    text = tuning_page(
        trials, f"ecdctr tune --level {level} --seeds {seeds} --eval-days {eval_days} --rows {rows}"
    )
    _write_or_print(
        context, text, target, result, {row: trial._asdict() for row, trial in best(trials).items()}
    )


@app.command()
def forgetting(
    context: typer.Context,
    seeds: SeedsOption = Seeds((1, 2, 3)),
    rows: Annotated[
        str,
        typer.Option(
            help="comma-separated variants; the first is what the others are compared with"
        ),
    ] = "continue_no_tpm,continue,full",
    days: Annotated[
        int, typer.Option(min=3, max=MAX_DAYS, help="data dates, the last ones of the world")
    ] = 40,
    hold_out_every: Annotated[
        int, typer.Option(min=2, help="each n-th ads impression is kept for the matrix")
    ] = 5,
    world: WorldOption = "demo",
    changes: SetOption = None,
    work: Annotated[
        Path, typer.Option(help="worlds, prepared data and stores of the study")
    ] = Path("forgetting"),
    name: StudyOption = "forgetting",
    workers: WorkersOption = 2,
    result: ResultOption = None,
) -> None:
    """Train variants day by day on simulated worlds, evaluate each day's model on held-out ads of all days.

    A killed run goes on where it was. The results go into the store, where the pages in Airflow's UI show them.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.study import Study
    from ecdctr.studies.forgetting.page import About
    from ecdctr.studies.forgetting.study import run_forgetting
    from ecdctr.worlds.named import load_world

    names = _names(rows)
    study = Study(
        session_of(context).config_path,
        load_world(world, changes or ()),
        seeds,
        names,
        days,
        work,
        chain_days=0,
        hold_out_every=hold_out_every,
    )
    bars = Bars()
    try:
        found = run_forgetting(study, workers, bars)
    finally:
        bars.close()
    dates, recurrence = study.dates(seeds[0]), _recurrence(study.world.settings)
    where = f"the simulated world '{study.world.name}'"
    about = About(name, where, dates, seeds, hold_out_every, recurrence)
    _write_study(context, about, found, result)


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
    """Evaluate an experiment's A-CTR of one date on the held-out ads of all days; the row is kept beside it."""
    from ecdctr.studies.forgetting.matrix import held_out_ads, stored_row

    session = session_of(context)
    ref = session.store.require("actr", date, experiment)
    if (ref.experiment, ref.date) != (experiment, date):
        raise StoreError(f"Experiment '{experiment}' has no A-CTR of {date}; train it first.")
    found = session.store.manifest(ref).config.get("actr", {}).get("hold_out_every")
    if found != hold_out_every:
        raise ConfigError(
            f"{ref} was trained with actr.hold_out_every {found}, the matrix holds out {hold_out_every}: it would be "
            "judged on impressions that it has learned. Train it with the same value."
        )
    with session.store.in_use():
        held_out = held_out_ads(session.config(), study_days(first, last), hold_out_every)
        row = stored_row(session.config(), session.store, ref, held_out)
    show(context, {"version": str(ref), "days": len(held_out.dates), "cells": row.num_rows}, result)


@matrix_app.command("report")
def matrix_report(
    context: typer.Context,
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
    """Measures, heat maps and advice from the rows of a study's experiments; variants without all rows are named."""
    from ecdctr.studies.forgetting.basis import row_basis_now
    from ecdctr.studies.forgetting.page import About
    from ecdctr.studies.forgetting.study import collect

    session, dates = session_of(context), study_days(first, last)
    experiments = {
        variant: [experiment_of(name, variant, seed) for seed in seeds]
        for variant in _names(variants)
    }
    config = session.config()
    with session.store.in_use():
        found = collect(session.store, experiments, row_basis_now(config, dates, hold_out_every))
        root, recurrence = config.data.root, None
        if isinstance(root, Path) and (root / "world.json").exists():  # a simulated one, here
            recurrence = json.loads((root / "world.json").read_text()).get("recurrence_days")
        about = About(name, str(root), dates, seeds, hold_out_every, recurrence)
        _write_study(context, about, found, result)


def _write_or_print(
    context: typer.Context,
    text: str,
    target: Path | None,
    result: Path | None,
    payload: dict[str, Any],
) -> None:
    """A study's page into its file if it has one; what a machine reads, or else the page itself, to the terminal."""
    if target:
        from ecdctr.report.html import as_html

        durable.make_dir(target.parent)
        with durable.replacing(target) as temporary:
            temporary.write_text(as_html(text, target.parent) if target.suffix == ".html" else text)
    if session_of(context).as_json or result:
        show(context, {"report": target and str(target), **payload}, result)
    else:
        out.print(text, soft_wrap=True)


def _write_study(context: typer.Context, about: Any, found: Any, result: Path | None) -> None:
    """Write, print, and end with exit code 1 if a variant failed."""
    from ecdctr.studies.forgetting.page import write_study

    matrices, failed = found
    folder, markdown = write_study(session_of(context).store, about, matrices, failed)
    if session_of(context).as_json or result:
        show(context, {"study": str(folder), "name": about.name, "failed": failed}, result)
    else:
        out.print(markdown, soft_wrap=True)
        out.print(f"Heat maps and curves: {folder}/study.html", soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _recurrence(settings: Any) -> int | None:
    """After how many days interests return, if it is one number for all users."""
    return getattr(settings, "recurrence_days", None)


def _names(rows: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in rows.split(","))
