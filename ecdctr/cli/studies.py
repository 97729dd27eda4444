"""What the commands of studies share: options, and how a page or a result is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ecdctr.cli.base import (
    FILE,
    Seeds,
    out,
    parse_name,
    parse_seeds,
    session_of,
    show,
)
from ecdctr.errors import ConfigError
from ecdctr.files import durable

if TYPE_CHECKING:
    from ecdctr.studies.ablation.plan import Study

SeedsOption = Annotated[
    Seeds,
    typer.Option(
        parser=parse_seeds,
        metavar="1,2,…",
        help="comma-separated seeds; each gives its own world and weights",
    ),
]
StudyOption = Annotated[
    str,
    typer.Option(
        "--name",
        help="of the study in the store; an earlier one is replaced",
        parser=parse_name,
        metavar="NAME",
    ),
]
PageOption = Annotated[
    Path | None,
    typer.Option(
        "--out", help="page to write: NAME.md, or NAME.html with its pictures inside", **FILE
    ),
]
WorkersOption = Annotated[
    int, typer.Option(min=1, help="processes; each trains with its own threads")
]


def check_worlds(study: Study) -> None:
    """Look whether a study's worlds have its days and, where they are made, say which they are.

    Raises ConfigError for too many days, or that names a damaged description.
    """
    from ecdctr.worlds.described import description

    for seed in study.seeds:
        description(study.folder(seed) / "data")  # refused where it is damaged
    study.check_days()


def write_or_print(
    context: typer.Context,
    text: str,
    target: Path | None,
    result: Path | None,
    payload: dict[str, Any],
) -> None:
    """Write a study's page into its file if it has one.

    A machine's result, or else the page itself, goes to the terminal.
    """
    if target:
        from ecdctr.report.html import as_html

        page = as_html(text, target.parent) if target.suffix == ".html" else text
        durable.replace_text(target, page)
    if session_of(context).as_json or result:
        show(context, {"report": target and str(target), **payload}, result)
    else:
        out.print(text, soft_wrap=True)


def text_of(path: Path) -> str:
    """Return the text of a file that a command line names.

    Raises ConfigError where it is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected text in UTF-8; save it so.") from None


def json_of(path: Path) -> Any:
    """Return the JSON in a file that a command line names; raises ConfigError where it is none."""
    try:
        return json.loads(text_of(path))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON: {error}.") from None
