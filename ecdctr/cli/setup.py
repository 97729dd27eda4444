"""Commands about the set-up: schema, doctor."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.text import Text

from ecdctr.cli.base import (
    app,
    out,
    session_of,
    show,
)
from ecdctr.config import Config

COLOURS = {"ok": "green", "note": "yellow", "mend": "red"}


@app.command()
def schema(
    world: Annotated[
        bool, typer.Option("--world", help="of simulated worlds instead of the configuration")
    ] = False,
) -> None:
    """Print the JSON schema of the configuration: every key, its type, default and meaning."""
    from ecdctr.worlds.named import SETTINGS

    made = SETTINGS.json_schema() if world else Config.model_json_schema()
    sys.stdout.write(json.dumps(made, indent=1) + "\n")


def _measure(context: typer.Context) -> None:
    """Print the log's statistics, and what was measured on the world most like it."""
    from ecdctr.impressions.statistics import ads_of_last, measure
    from ecdctr.studies.map.place import advice, measured_cells, place
    from ecdctr.studies.map.rule import chosen, for_log, of_window

    config = session_of(context).config()
    measured, window = measure(config), config.actr.window_days
    ads, log_days = ads_of_last(config, window)
    nearest, statistics = place(measured, measured_cells()), measured._asdict()
    if session_of(context).as_json:
        told = nearest and {"cell": nearest.cell["name"], "distance": nearest.distance}
        rule = chosen(statistics)
        shown = {"statistics": statistics, "place": told, "rule_of_thumb": rule}
        show(context, {**shown, "ads_in_window": ads})
        return
    show(context, {name: round(value, 4) for name, value in statistics.items()})
    out.print(advice(nearest), soft_wrap=True)
    out.print(for_log(statistics), soft_wrap=True)
    few = of_window(window, ads, log_days)
    if few and not config.chained("actr"):  # a chain reads its new day
        out.print(few, soft_wrap=True)


@app.command()
def doctor(
    context: typer.Context,
    data: Annotated[
        bool,
        typer.Option(
            "--data", help="measure the impressions instead, and say where on the map they lie"
        ),
    ] = False,
) -> None:
    """Check versions, disk, GPU, data and store, and say what to mend (exit code 1) or set up."""
    from ecdctr.doctor import examine

    if data:
        _measure(context)
        return

    findings = examine(session_of(context).config_path, session_of(context).store_path)
    for finding in findings:
        label = Text.assemble((f"{finding.kind:<4}", COLOURS[finding.kind]), " ", finding.text)
        out.print(label, soft_wrap=True)
    if any(finding.kind == "mend" for finding in findings):
        raise typer.Exit(1)
