"""Commands of studies on simulated worlds: ablation, forgetting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.base import (
    ResultOption,
    app,
    out,
    parse_seeds,
    show,
)

SeedsOption = Annotated[str, typer.Option(help="comma-separated seeds; each gives its own world and weights")]
PresetOption = Annotated[str, typer.Option(help="tiny, demo or large")]
WorkersOption = Annotated[int, typer.Option(min=1, help="processes; each trains with its own threads")]


@app.command()
def ablation(
    context: typer.Context,
    seeds: SeedsOption = "1,2,3",
    rows: Annotated[
        str, typer.Option(help="comma-separated variants; 'full' is the whole method; NAME@7 refreshes CPM weekly")
    ] = "ads_only,tpm_only,no_tpm,full",
    eval_days: Annotated[int, typer.Option(min=1, help="evaluation days, the last ones of the world")] = 4,
    chain_days: Annotated[
        int, typer.Option(min=0, help="days that a row with policy 'continue' has lived before the first evaluation")
    ] = 30,
    preset: PresetOption = "demo",
    work: Annotated[
        Path, typer.Option(help="worlds, prepared data and stores of the study; re-used when run again")
    ] = Path("results"),
    target: Annotated[Path | None, typer.Option("--out", help="Markdown file to write")] = None,
    workers: WorkersOption = 2,
    repeats: Annotated[
        int, typer.Option(min=0, help="also time each level and the preparation this often, alone on the machine")
    ] = 0,
    demo: Annotated[Path | None, typer.Option(help="timings.json of a demo, to be shown beside")] = None,
    result: ResultOption = None,
) -> None:
    """Rows × seeds on simulated worlds with progressive validation; a killed run goes on where it was."""
    from ecdctr.console import Bars
    from ecdctr.experiments.ablation import Study, run_study
    from ecdctr.experiments.speed import measure
    from ecdctr.report.results import mean_gauc, results_page

    names = _names(rows)
    study = Study(context.obj.config_path, preset, parse_seeds(seeds), names, eval_days, work, chain_days)
    bars = Bars()
    try:
        records, users = run_study(study, workers, bars)
        speeds = measure(study, repeats, bars) if repeats else []
    finally:
        bars.close()
    command = f"ecdctr ablation --seeds {seeds} --eval-days {eval_days} --rows {rows}"
    timings = json.loads(demo.read_text()) if demo and demo.exists() else None
    text = results_page(records, users, speeds, preset, timings, command)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    if context.obj.as_json or result:
        show(context, {"report": target and str(target), "gauc": mean_gauc(records)}, result)
    else:
        out.print(text, highlight=False, markup=False, soft_wrap=True)


@app.command()
def forgetting(
    context: typer.Context,
    seeds: SeedsOption = "1,2,3",
    rows: Annotated[
        str, typer.Option(help="comma-separated variants; the first is what the others are compared with")
    ] = "continue_no_tpm,continue,full",
    days: Annotated[int, typer.Option(min=3, help="data dates, the last ones of the world")] = 40,
    hold_out_every: Annotated[int, typer.Option(min=2, help="each n-th ads impression is kept for the matrix")] = 5,
    preset: PresetOption = "demo",
    work: Annotated[Path, typer.Option(help="worlds, prepared data and stores of the study")] = Path("forgetting"),
    target: Annotated[
        Path, typer.Option("--out", help="HTML file to write; the tables go beside it as Markdown")
    ] = Path("forgetting/forgetting.html"),
    workers: WorkersOption = 2,
    result: ResultOption = None,
) -> None:
    """Train variants day by day and evaluate each day's model on held-out ads of all days; a killed run goes on."""
    from ecdctr.console import Bars
    from ecdctr.data.simulate import PRESETS
    from ecdctr.experiments.ablation import Study
    from ecdctr.experiments.forgetting import run_forgetting
    from ecdctr.report.forgetting_page import forgetting_page

    names = _names(rows)
    study = Study(
        context.obj.config_path,
        preset,
        parse_seeds(seeds),
        names,
        days,
        work,
        chain_days=0,
        hold_out_every=hold_out_every,
    )
    bars = Bars()
    try:
        users, failed = run_forgetting(study, workers, bars)
    finally:
        bars.close()
    html, markdown = forgetting_page(users, failed, names, PRESETS[preset].recurrence_days, preset)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(html)
    target.with_suffix(".md").write_text(markdown)
    if context.obj.as_json or result:
        show(context, {"report": str(target), "failed": failed}, result)
    else:
        out.print(markdown, highlight=False, markup=False, soft_wrap=True)
        out.print(f"Heat maps: {target}")
    if failed:
        raise typer.Exit(1)


def _names(rows: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in rows.split(","))
