"""The command `map`: where each part pays, on a grid of worlds with visits."""

from __future__ import annotations

import datetime as dt
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ecdctr.cli.base import (
    FILE,
    FOLDER,
    ResultOption,
    Seeds,
    SetOption,
    WorldOption,
    app,
    finite,
    session_of,
    show,
)
from ecdctr.cli.options import grouped
from ecdctr.cli.studies import SeedsOption, WorkersOption, check_worlds
from ecdctr.files import durable


@dataclass(frozen=True)
class MapOptions:
    """Which worlds, and how each is studied."""

    planes: Annotated[
        list[str] | None,
        typer.Option(
            "--plane",
            help=(
                "two settings of the world and their values, like 'visits_per_month=0.5,4,60 "
                "ads_share=0.003,0.1'; 'period' is the days after which interests return, 0 for "
                "never; repeatable"
            ),
        ),
    ] = None
    world: WorldOption = "visits"
    changes: SetOption = None
    impressions_a_day: Annotated[
        int, typer.Option(min=100, help="of each cell; its users follow from it")
    ] = 20_000
    seeds: SeedsOption = Seeds((1,))
    rows: Annotated[
        str | None,
        typer.Option(
            help="comma-separated variants, to measure some differences with more seeds; default: "
            "those of the whole map"
        ),
    ] = None
    eval_days: Annotated[int, typer.Option(min=1, help="evaluation days of each cell")] = 4
    chain_days: Annotated[int, typer.Option(min=0, help="as in `ecdctr ablation`")] = 14

    @property
    def command(self) -> str:
        """Return the command line that says the same, without places."""
        told = [("--plane", plane) for plane in self.planes or ()]
        told += [("--world", self.world)]
        told += [("--set", change) for change in self.changes or ()]
        told += [("--seeds", str(self.seeds))]
        told += [("--rows", self.rows)] if self.rows else []
        told += [("--impressions-a-day", str(self.impressions_a_day))]
        told += [("--eval-days", str(self.eval_days)), ("--chain-days", str(self.chain_days))]
        return "ecdctr map " + " ".join(f"{option} {shlex.quote(value)}" for option, value in told)


@app.command("map")
@grouped
def map_(
    context: typer.Context,
    options: MapOptions,
    *,
    work: Annotated[
        Path, typer.Option(help="results of cells; re-used when run again", **FOLDER)
    ] = Path("map"),
    target: Annotated[
        Path | None,
        typer.Option("--out", help="page to write, NAME.md, its pictures beside it", **FILE),
    ] = None,
    cells_file: Annotated[
        Path | None, typer.Option("--cells", help="also write what `doctor --data` reads", **FILE)
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0, help="begin no cell after so many minutes; 0 writes the page alone"),
    ] = None,
    workers: WorkersOption = 2,
    result: ResultOption = None,
) -> None:
    """Measure where each part pays.

    Floors, ads alone, CPM, TPM's vectors, memory and the paper's form on a grid. A killed run goes
    on where it was. The page holds what is measured so far.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.map.grid import PLANES, cells, parse_plane
    from ecdctr.studies.map.measure import ROWS, MapStudy, run_map
    from ecdctr.studies.map.page import map_page

    spanned = [parse_plane(text) for text in options.planes or PLANES]
    placed = [
        cells(plane, options.world, options.changes or (), options.impressions_a_day)
        for plane in spanned
    ]
    worlds = {one.name: one for on_plane in placed for one in on_plane.values()}
    study = MapStudy(
        session_of(context).config_path,
        options.seeds,
        options.eval_days,
        options.chain_days,
        work,
        session_of(context).config().rows(options.rows) if options.rows is not None else ROWS,
    )
    for world in worlds.values():
        check_worlds(study.study(world))
    until = None if minutes is None else dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    bars = Bars()
    try:
        results = run_map(study, list(worlds.values()), workers, bars, until)
    finally:
        bars.close()
    by_name = {one["name"]: one for one in results}
    measured = [
        (plane, {place: by_name[w.name] for place, w in on_plane.items() if w.name in by_name})
        for plane, on_plane in zip(spanned, placed, strict=True)
    ]
    if cells_file:
        durable.replace_text(cells_file, json.dumps(finite(results), indent=1))
    if target:
        pictures = _pictures(measured, target)
        command = session_of(context).repeating(options.command)
        durable.replace_text(target, map_page(measured, results, pictures, command, len(worlds)))
    show(
        context, {"cells": len(worlds), "measured": len(results), "page": str(target or "")}, result
    )


def _pictures(measured: list[tuple[Any, dict[Any, Any]]], target: Path) -> dict[int, str]:
    """Draw the planes that have a cell beside the page; returns the names by number."""
    from ecdctr.report.figures import save_png
    from ecdctr.studies.map.figure import heat_maps

    names = {}
    for number, (plane, inside) in enumerate(measured):
        if inside:
            picture = target.with_name(f"{target.stem}-{plane.x.name}-{plane.y.name}.png")
            durable.make_dir(picture.parent)
            with durable.replacing(picture) as temporary:
                save_png(heat_maps(plane, inside), temporary)
            names[number] = picture.name
    return names
