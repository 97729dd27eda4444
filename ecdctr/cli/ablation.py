"""Commands that compare variants on simulated worlds or own data: ablation, tune."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecdctr.cli.base import (
    DAY,
    FOLDER,
    ResultOption,
    Seeds,
    SetOption,
    WorldOption,
    app,
    session_of,
)
from ecdctr.cli.options import command_line, grouped
from ecdctr.cli.studies import (
    PageOption,
    SeedsOption,
    WorkersOption,
    check_worlds,
    json_of,
    text_of,
    write_or_print,
)
from ecdctr.config import Level
from ecdctr.config.section import MAX_DAYS
from ecdctr.config.studies import (
    ABLATION_ROWS,
    CHAIN_DAYS,
    EVAL_DAYS,
    TUNING_DAYS,
    TUNING_ROWS,
    WORLD,
)
from ecdctr.config.terms import DEFAULT
from ecdctr.files import durable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ecdctr.studies.ablation.page import Origin
    from ecdctr.studies.ablation.plan import Study

ALWAYS = {"seeds", "rows", "eval_days"}  # a page's command names them, whatever the defaults are
AboutOption = Annotated[
    Path | None,
    typer.Option(
        exists=True, dir_okay=False, help="Markdown about the data, shown at the top of the page"
    ),
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
    ] = ",".join(ABLATION_ROWS)
    eval_days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="evaluation days, the last ones of the world")
    ] = EVAL_DAYS
    chain_days: Annotated[
        int,
        typer.Option(
            min=0,
            max=MAX_DAYS,
            help="days that what goes on day by day has lived before the first evaluation",
        ),
    ] = CHAIN_DAYS
    base: Annotated[
        str,
        typer.Option(
            help="variant that every row lies on top of; 'full' is then this variant itself"
        ),
    ] = DEFAULT
    world: WorldOption = WORLD
    changes: SetOption = None
    work: Annotated[
        Path,
        typer.Option(
            help="worlds, prepared data and stores of the study; re-used when run again", **FOLDER
        ),
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
    eval_every: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_DAYS,
            help="evaluate each n-th day alone; CPM and TPM are trained on all days between",
        ),
    ] = 1

    @property
    def command(self) -> str:
        """Return the command line that says the same."""
        return command_line("ablation", self, ALWAYS)


@dataclass(frozen=True)
class PageOptions:
    """Where the comparison is written, and what is shown with it."""

    target: PageOption = None
    about: AboutOption = None
    demo: Annotated[
        Path | None,
        typer.Option(help="timings.json of a demo, to be shown beside where there is one"),
    ] = None
    name: Annotated[
        str | None, typer.Option("--name", help="also keep the page in the store, under this name")
    ] = None


@app.command()
@grouped
def ablation(
    context: typer.Context,
    options: AblationOptions,
    shown: PageOptions,
    *,
    workers: WorkersOption = 2,
    repeats: Annotated[
        int,
        typer.Option(
            min=0, help="also time each level and the preparation this often, alone on the machine"
        ),
    ] = 0,
    result: ResultOption = None,
) -> None:
    """Compare rows × seeds on simulated worlds with progressive validation.

    A killed run goes on where it was.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.figure import quality_and_cost
    from ecdctr.studies.ablation.page import results_page
    from ecdctr.studies.ablation.records import mean_gauc
    from ecdctr.studies.ablation.speed import measure
    from ecdctr.studies.ablation.study import run_study

    study = study_of(context, options)
    bars = Bars()
    try:
        records, users = run_study(study, workers, bars)
        speeds = measure(study, repeats, bars) if repeats else []
    finally:
        bars.close()
    origin = _origin(context, options, study, shown.about)
    steps = json_of(shown.demo) if shown.demo and shown.demo.exists() else None

    def page(picture: str | None) -> str:
        return results_page(records, users, origin, speeds, steps, picture)

    payload: dict[str, Any] = {"gauc": mean_gauc(records)}
    if shown.name:
        from ecdctr.studies.ablation.stored import save_ablation

        store = session_of(context).store
        folder = save_ablation(store, shown.name, study.world.name, records, page)
        payload |= {"study": str(folder), "name": shown.name}
    target = shown.target
    text = page(picture_beside(quality_and_cost(records), target) if target else None)
    write_or_print(context, text, target, result, payload)


def _origin(
    context: typer.Context, options: AblationOptions, study: Study, about: Path | None
) -> Origin:
    """Return what the page says of where its numbers come from."""
    from ecdctr.studies.ablation.page import Origin

    command = session_of(context).repeating(options.command)
    text = text_of(about) if about else None
    return Origin(study.world.name, command, options.base, options.own_data, text)


def study_of(context: typer.Context, options: AblationOptions) -> Study:
    """Return the study that a command line asks for."""
    from ecdctr.studies.ablation.plan import Study
    from ecdctr.worlds.named import load_world

    study = Study(
        session_of(context).config_path,
        load_world(options.world, options.changes or ()),
        options.seeds,
        session_of(context).config().rows(options.rows),
        options.eval_days,
        options.work,
        options.chain_days,
        base=options.base,
        own_data=options.own_data,
        until=options.until,
        eval_every=options.eval_every,
    )
    check_worlds(study)
    return study


def picture_beside(figure: Figure, target: Path) -> str:
    """Draw a figure beside the page; returns the picture's name."""
    from ecdctr.report.figures import save_png

    picture = target.with_suffix(".png")
    durable.make_dir(picture.parent)
    with durable.replacing(picture) as temporary:
        save_png(figure, temporary)
    return picture.name


@dataclass(frozen=True)
class TuningOptions:
    """What is tried, on which worlds and days."""

    rows: Annotated[
        str, typer.Option(help="comma-separated variants; 'full' is the whole method")
    ] = ",".join(TUNING_ROWS)
    level: Annotated[Level, typer.Option(help="whose settings are tried")] = "actr"
    seeds: SeedsOption = Seeds((21, 22))
    eval_days: Annotated[
        int, typer.Option(min=1, max=MAX_DAYS, help="evaluation days, the last ones of the world")
    ] = TUNING_DAYS
    chain_days: Annotated[
        int, typer.Option(min=0, max=MAX_DAYS, help="as in `ecdctr ablation`")
    ] = CHAIN_DAYS
    world: WorldOption = WORLD
    changes: SetOption = None

    @property
    def command(self) -> str:
        """Return the command line that says the same."""
        return command_line("tune", self, {*ALWAYS, "level"})


@app.command()
@grouped
def tune(
    context: typer.Context,
    options: TuningOptions,
    work: Annotated[
        Path, typer.Option(help="worlds, prepared data and stores of the search", **FOLDER)
    ] = Path("tuning"),
    target: PageOption = None,
    workers: WorkersOption = 2,
    result: ResultOption = None,
) -> None:
    """Try the same number of settings for each row and say which was best.

    Use other seeds than those of results. What is tried stands under 'tuning' in the configuration.
    A killed run goes on where it was.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.plan import Study
    from ecdctr.studies.tuning import best, run_tuning, tuning_page
    from ecdctr.worlds.named import load_world

    study = Study(
        session_of(context).config_path,
        load_world(options.world, options.changes or ()),
        options.seeds,
        session_of(context).config().rows(options.rows),
        options.eval_days,
        work,
        options.chain_days,
    )
    check_worlds(study)
    bars = Bars()
    try:
        trials = run_tuning(study, options.level, workers, bars)
    finally:
        bars.close()
    text = tuning_page(trials, session_of(context).repeating(options.command))
    write_or_print(
        context, text, target, result, {row: trial._asdict() for row, trial in best(trials).items()}
    )
