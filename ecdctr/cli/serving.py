"""Commands that leave the project: export, score."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ecdctr.cli.base import (
    ExperimentOption,
    Session,
    app,
    show,
)
from ecdctr.config import PRODUCTION
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.store.manifest import Ref


@app.command("export")
def export_version(
    context: typer.Context,
    target: Annotated[Path, typer.Option("--out", help="folder to make")],
    version: Annotated[str | None, typer.Option(help="an A-CTR version; default: the serving one")] = None,
    experiment: ExperimentOption = PRODUCTION,
) -> None:
    """Write a version as a bundle that scores without torch and Airflow: ONNX, vocabularies, schema, self-test."""
    try:
        from ecdctr.serving.export import export_bundle
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install ecdctr with the extra 'serving'.") from None

    session: Session = context.obj
    ref = Ref.parse(version) if version else session.store.alias("serving", experiment)
    if ref is None:
        raise ConfigError(f"Nothing serves in experiment '{experiment}'; name a version with --version.")
    with session.store.in_use():
        description = export_bundle(session.config(), session.store, ref, target)
    size = sum(path.stat().st_size for path in target.iterdir())
    show(context, {"bundle": str(target), "version": description["version"], "bytes": size})


@app.command()
def score(
    bundle: Annotated[Path, typer.Option(help="folder made by ecdctr export")],
    requests: Annotated[Path | None, typer.Option(help="file of JSON lines; default: standard input")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Score requests, one JSON object a line, with a bundle; one line of probabilities comes out for each."""
    try:
        from ecdctr.serving.scorer import Scorer
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed; install ecdctr with the extra 'serving'.") from None

    scorer = Scorer(bundle, threads)
    with requests.open() if requests else contextlib.nullcontext(sys.stdin) as lines:
        for number, line in enumerate(lines, 1):
            try:
                probabilities = scorer.score(json.loads(line))
            except (EcdctrError, ValueError) as error:
                raise ConfigError(f"{requests or 'standard input'}, line {number}: {error}") from None
            sys.stdout.write(json.dumps([round(float(value), 7) for value in probabilities]) + "\n")
