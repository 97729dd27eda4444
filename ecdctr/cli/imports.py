"""Commands that bring a log into the form of the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ecdctr.cli.base import (
    FOLDER,
    import_app,
    session_of,
    show,
    target_root,
)
from ecdctr.config.section import MAX_SEED
from ecdctr.console import terminal
from ecdctr.errors import ConfigError

SourceOption = Annotated[
    Path, typer.Option("--from", exists=True, file_okay=False, help="folder with the source files")
]
RootOption = Annotated[
    Path | None, typer.Option("--out", help="data root to fill; default: data.root", **FOLDER)
]


@import_app.command("kuairand")
def import_kuairand(
    context: typer.Context,
    source: SourceOption,
    edition: Annotated[Literal["pure", "1k", "27k"], typer.Option(help="of KuaiRand")] = "pure",
    with_random: Annotated[
        bool, typer.Option(help="also the impressions of randomly exposed videos")
    ] = False,
    root: RootOption = None,
) -> None:
    """Import the official CSV files of KuaiRand: NORMAL videos are natural, AD videos ads."""
    from ecdctr.impressions.kuairand import kuairand_mapping

    _import(context, kuairand_mapping(source, edition, with_random), source, root)


@import_app.command("completejourney")
def import_completejourney(
    context: typer.Context,
    source: SourceOption,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="of what is drawn among the purchases not made")
    ] = 1,
    root: RootOption = None,
) -> None:
    """Import The Complete Journey, a year of purchases.

    What the mailer shows in front is an ad.
    """
    from ecdctr.impressions.completejourney import convert

    data = session_of(context).config().data
    console = terminal(stderr=True)
    done = convert(
        source,
        target_root(context, root),
        seed,
        data.duckdb_memory,
        data.threads,
        on_step=lambda what: console.print(f"  {what}", soft_wrap=True),
    )
    show(context, {"root": str(root or data.root), **done._asdict()})


@import_app.command("log")
def import_any_log(
    context: typer.Context,
    mapping: Annotated[
        Path, typer.Option(help="YAML: files, columns, domain rule, label rule, features")
    ],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from", exists=True, file_okay=False, help="source folder; default: the mapping's"
        ),
    ] = None,
    root: RootOption = None,
) -> None:
    """Import any CSV or Parquet log by a mapping file; see docs/bring-your-own-data.md."""
    from ecdctr.impressions.mapping import load_mapping

    if source is None and mapping.is_fifo():
        raise ConfigError(f"--mapping {mapping} is a pipe, which lies beside no log; say --from.")
    _import(context, load_mapping(mapping), source or mapping.resolve().parent, root)


def _import(context: typer.Context, mapping: Any, source: Path, root: Path | None) -> None:
    from ecdctr.impressions.importer import import_log
    from ecdctr.impressions.odd_cells import Declared

    declared = None
    session = session_of(context)
    if root is None or session.names_config:
        kinds: dict[str, str] = {
            feature.name: feature.kind for feature in session.config().features
        }
        declared = Declared(str(session.config_path), kinds)
    root = target_root(context, root)
    console = terminal(stderr=True)
    done = import_log(
        mapping,
        source,
        root,
        on_file=lambda what: console.print(f"  {what}", soft_wrap=True),
        declared=declared,
    )
    show(context, {"root": str(root), **done._asdict()})
