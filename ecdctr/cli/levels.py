"""Commands about models: train, evaluate, gate, report."""

from __future__ import annotations

import datetime as dt
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecdctr.cli.base import (
    FILE,
    DateOption,
    EvaluationDateOption,
    ExperimentOption,
    LevelOption,
    ResultOption,
    Session,
    VariantOption,
    app,
    out,
    parse_number,
    parse_optional_date,
    session_of,
    show,
    write_result,
)
from ecdctr.cli.options import grouped
from ecdctr.config import PRODUCTION, Level
from ecdctr.config.studies import REPORT_EXPERIMENTS
from ecdctr.config.terms import DEFAULT
from ecdctr.console import log, table_of_words
from ecdctr.errors import ConfigError, EcdctrError, TryAgain
from ecdctr.store.aliases import SERVING
from ecdctr.store.manifest import Ref

if TYPE_CHECKING:
    from ecdctr.levels.request import Outcome

ChainStartOption = Annotated[
    dt.date | None,
    typer.Option(
        help="where each day goes on from the day before: the day that starts anew",
        parser=parse_optional_date,
        metavar="YYYY-MM-DD",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="other seed than the configuration's; needs an experiment",
        parser=parse_number,
        metavar="NUMBER",
    ),
]
HeldOutOption = Annotated[
    int | None,
    typer.Option(
        help="actr: keep each n-th impression of ads out of training, for a forgetting matrix",
        parser=parse_number,
        metavar="NUMBER",
    ),
]


@dataclass(frozen=True)
class TrainOptions:
    """What is trained, from which settings, and where it goes."""

    level: Annotated[Level, typer.Argument(help="what is trained")]
    date: DateOption
    experiment: ExperimentOption = PRODUCTION
    variant: VariantOption = DEFAULT
    force: Annotated[
        bool, typer.Option("--force/--no-force", help="train again even if the version exists")
    ] = False
    restart: Annotated[
        bool,
        typer.Option(
            "--restart/--no-restart",
            help="start anew where each day would go on from the day before",
        ),
    ] = False
    from_older: Annotated[
        bool,
        typer.Option(
            "--from-older",
            help="where `store gc` removed what was known then, start from older versions",
        ),
    ] = False
    chain_start: ChainStartOption = None
    seed: SeedOption = None
    hold_out_every: HeldOutOption = None

    @property
    def about(self) -> dict[str, object]:
        """Return what every line of the log says."""
        return {"level": self.level, "experiment": self.experiment, "data_date": self.date}

    def refuse_contradictions(self) -> None:
        """Raise ConfigError for options that do not go together."""
        if self.chain_start and self.date < self.chain_start:
            raise ConfigError(
                f"Data date {self.date} lies before the chain's start {self.chain_start}; start "
                "the chain earlier."
            )
        changed = self.seed is not None or self.hold_out_every is not None
        if changed and self.experiment == PRODUCTION:
            raise ConfigError(
                f"--seed and --hold-out-every cannot run in '{PRODUCTION}', whose versions would "
                "mix; name an --experiment."
            )


@app.command()
@grouped
def train(
    context: typer.Context,
    options: TrainOptions,
    processes: Annotated[
        int,
        typer.Option(
            min=1, help="on this machine, that train together: each on its shards (LEVEL.shards)"
        ),
    ] = 1,
    result: ResultOption = None,
) -> None:
    """Train one level for a data date and publish the version.

    A finished one with the same fingerprint is re-used.
    """
    from ecdctr.training.address import meeting

    if processes > 1 and "WORLD_SIZE" not in os.environ:
        os.environ.setdefault("PYTHONSAFEPATH", "1")  # no module from where it was started
        from ecdctr.training.workers import launch

        raise typer.Exit(launch(processes, sys.argv[1:]))
    options.refuse_contradictions()
    with meeting():
        from ecdctr.training.workers import join

        first = join().first
    outcome = _trained(session_of(context), options, first)
    manifest = outcome.manifest
    shown = {
        "version": str(manifest.ref), "reused": outcome.reused, "fingerprint": manifest.fingerprint,
        "samples": manifest.rows["samples"],
        **{k: round(v, 4) for k, v in manifest.metrics.items()},
        "quality": manifest.quality, "skipped_days": [str(date) for date in manifest.skipped_days],
    }  # fmt: skip
    if not first:
        write_result(shown, result)
        return
    _log_outcome(outcome, options.about)
    show(context, shown, result)


def _trained(session: Session, options: TrainOptions, first: bool) -> Outcome:
    """Train; the first of several processes that train together draws the progress."""
    from ecdctr.console import Bars
    from ecdctr.levels import train as train_level
    from ecdctr.levels.request import Request, Silent

    bars = Bars(**options.about)
    request = Request(
        session.config(options.variant).with_overrides(options.seed, options.hold_out_every),
        session.store,
        options.date,
        options.experiment,
        options.variant,
        options.force,
        options.restart or options.date == options.chain_start,
        options.from_older,
        bars if first else Silent(),
    )
    try:
        return train_level(options.level, request)
    finally:
        bars.close()


def _log_outcome(outcome: Outcome, about: dict[str, object]) -> None:
    """Say what became of a training: unlike days, skipped days, published or found again."""
    manifest = outcome.manifest
    for warning in manifest.quality:
        log(f"unlike the days before: {warning}", **about, version=manifest.version)
    if manifest.skipped_days:
        first, last = manifest.skipped_days[0], manifest.skipped_days[-1]
        missed = f"{len(manifest.skipped_days)} days since the version before were not learned"
        log(f"{missed}: {first} to {last}", **about, version=manifest.version)
    log("found again" if outcome.reused else "published", **about, version=manifest.version)


@app.command()
def evaluate(
    context: typer.Context,
    date: EvaluationDateOption,
    *,
    level: LevelOption = "actr",
    experiment: ExperimentOption = PRODUCTION,
    version: Annotated[
        str | None, typer.Option(help="a version; default: the newest before the day")
    ] = None,
    variant: VariantOption = DEFAULT,
    then_gate: Annotated[
        bool, typer.Option("--gate", help="then let the gate decide whether the version serves")
    ] = False,
    result: ResultOption = None,
) -> None:
    """Score a version on a later day: metrics whole and per cohort (progressive validation)."""
    from ecdctr.evaluation.evaluate import evaluate
    from ecdctr.evaluation.gate import let_wait

    session = session_of(context)
    before = date - dt.timedelta(days=1)
    named = None if version is None else Ref.parse(version)  # an empty text names none
    ref = named or session.store.require(level, before, experiment)
    config, store = session.config(variant), session.store
    with store.in_use():
        try:
            evaluation = evaluate(config, store, ref, date)
        except (EcdctrError, TryAgain) as error:
            if then_gate:
                let_wait(store, ref, date, error)
            raise
    log("evaluated", **_about(ref), on=date)
    payload = {"version": str(ref), "date": str(date), "metrics": evaluation.metrics}
    if not session.as_json:
        _print_metrics(f"{ref} on {date}", evaluation.metrics)
    if then_gate:
        verdict = _judged(session, ref, date, variant)
        payload |= verdict
        if not session.as_json:
            show(context, verdict)
    if session.as_json:
        show(context, payload, result)
    else:
        write_result(payload, result)


SHOWN_METRICS = (
    "impressions", "ctr", "gauc", "gauc_users", "auc", "log_loss", "normalized_entropy",
    "calibration",
)  # fmt: skip


def _print_metrics(title: str, metrics: dict[str, dict[str, float]]) -> None:
    """Print a line per cohort."""
    cohorts = table_of_words("cohort", *SHOWN_METRICS, title=title)
    for cohort, figures in metrics.items():
        cohorts.add_words(
            cohort, *(f"{figures[n]:,.4g}" if n in figures else "–" for n in SHOWN_METRICS)
        )
    out.print(cohorts)


@app.command()
def gate(
    context: typer.Context,
    version: Annotated[str, typer.Option(help="the challenger")],
    date: EvaluationDateOption,
    variant: VariantOption = DEFAULT,
    result: ResultOption = None,
) -> None:
    """Promote an evaluated version to 'serving' if it is shown to be no worse.

    A refusal is reported, not an error.
    """
    show(context, _judged(session_of(context), Ref.parse(version), date, variant), result)


def _judged(session: Session, ref: Ref, date: dt.date, variant: str) -> dict[str, Any]:
    """Let the gate judge an evaluated version; return its verdict for print and result."""
    from ecdctr.evaluation.gate import gate

    verdict = gate(session.config(variant), session.store, ref, date)
    log("promoted" if verdict.passed else "not promoted", **_about(ref))
    return {
        "version": str(ref), "promoted": verdict.passed, "outcome": verdict.outcome.value,
        "reason": verdict.reason,
        "serving": str(session.store.alias(SERVING, ref.experiment, ref.level)),
        "power": verdict.power, "needed_days": verdict.needed_days,
    }  # fmt: skip


def _about(ref: Ref) -> dict[str, Any]:
    """Return what every line of the log says of a version."""
    return {
        "level": ref.level, "experiment": ref.experiment, "data_date": ref.date,
        "version": ref.version,
    }  # fmt: skip


@app.command()
def report(
    context: typer.Context,
    target: Annotated[Path, typer.Option("--out", help="HTML file to write", **FILE)] = Path(
        "report.html"
    ),
    experiments: Annotated[
        str, typer.Option(help="comma-separated, 'production' is the full method")
    ] = ",".join(REPORT_EXPERIMENTS),
    floor: Annotated[
        bool,
        typer.Option(
            "--floor",
            help="also show what an afternoon's work reaches: the better of the item's click rate "
            "and gradient boosting on counts",
        ),
    ] = False,
) -> None:
    """Show GAUC per evaluation day and experiment as a table and an HTML page.

    The page has calibration and the lineage of the serving model, too.
    """
    from ecdctr.demo.page import collect, print_table, write_page

    session = session_of(context)
    rows = collect(session.store, [name.strip() for name in experiments.split(",")])
    if floor:
        from ecdctr.demo.floor import best_floor

        rows = [*best_floor(session.config(), session.store, rows), *rows]
    write_page(session.store, rows, target)
    if session.as_json:
        show(context, {"report": str(target), "rows": [row._asdict() for row in rows]})
    else:
        print_table(rows, out)
        out.print(f"Report: {target.resolve()}", soft_wrap=True)
