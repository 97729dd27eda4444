"""The command that compares rows with fewer and fewer ads: sparsity."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

import typer

from ecdctr.cli.ablation import ALWAYS, AblationOptions, AboutOption, picture_beside, study_of
from ecdctr.cli.base import ResultOption, app, session_of
from ecdctr.cli.options import command_line, grouped
from ecdctr.cli.studies import PageOption, WorkersOption, text_of, write_or_print
from ecdctr.config.terms import DEFAULT, FULL


@dataclass(frozen=True)
class SparsityOptions(AblationOptions):
    """What is compared, and with how few ads."""

    base: Annotated[
        str,
        typer.Option(
            "--bases",
            help="comma-separated variants that train on a share of the ads (actr.ads_share); "
            "'full' is the configuration as it stands",
        ),
    ] = FULL

    @property
    def command(self) -> str:
        """Return the command line that says the same."""
        return command_line("sparsity", self, {*ALWAYS, "base"})


@app.command()
@grouped
def sparsity(
    context: typer.Context,
    options: SparsityOptions,
    *,
    target: PageOption = None,
    workers: WorkersOption = 2,
    about: AboutOption = None,
    result: ResultOption = None,
) -> None:
    """Compare the same rows with fewer and fewer ads to train on: a curve of GAUC over their share.

    A killed run goes on where it was; what the bases share is trained once.
    """
    from ecdctr.console import Bars
    from ecdctr.studies.ablation.page import Origin
    from ecdctr.studies.ablation.records import mean_gauc
    from ecdctr.studies.ablation.sparsity import curve, run_sparsity, share_of, sparsity_page

    bars = Bars()
    try:
        study = study_of(context, replace(options, base=DEFAULT))  # each point has its own
        points = run_sparsity(study, options.base.split(","), workers, bars)
    finally:
        bars.close()
    origin = Origin(
        options.world,
        session_of(context).repeating(options.command),
        DEFAULT,
        options.own_data,
        text_of(about) if about else None,
    )
    picture = picture_beside(curve(points), target) if target else None
    payload = {"gauc": {share_of(point): mean_gauc(point.records) for point in points}}
    write_or_print(context, sparsity_page(points, origin, picture), target, result, payload)
