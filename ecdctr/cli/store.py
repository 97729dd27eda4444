"""Commands about the store: list, show, lineage, verify, promote, rollback, gc."""

from __future__ import annotations

import itertools
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ecdctr.cli.base import (
    ExperimentOption,
    LevelOption,
    ResultOption,
    out,
    parse_name,
    session_of,
    show,
    store_app,
)
from ecdctr.config import PRODUCTION
from ecdctr.config.terms import LEVELS
from ecdctr.console import log, table
from ecdctr.errors import ConfigError, StoreError
from ecdctr.store.aliases import ALIASES, SERVING
from ecdctr.store.manifest import Ref

if TYPE_CHECKING:
    from ecdctr.store.store import Store


@store_app.command("gc")
def store_gc(
    context: typer.Context,
    keep: Annotated[
        int, typer.Option(min=1, help="newest versions kept of each experiment and level")
    ] = 14,
    delete: Annotated[
        bool, typer.Option("--delete", help="remove them; without it, only say what would go")
    ] = False,
    evaluations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=36_500,
            metavar="DAYS",
            help="newest judged days whose evaluations are kept, of each experiment; default: all",
        ),
    ] = None,
    result: ResultOption = None,
) -> None:
    """Remove old versions that no alias, lineage, rollback or future snapshot needs.

    With --evaluations old evaluations, too, and the gate's verdicts on versions that are gone.
    """
    from ecdctr.store.retention import forget_evaluations, outdated, removable, remove

    config = session_of(context).config()
    span, store, freed = config.longest_snapshot_days, session_of(context).store, 0
    forgotten = []
    if evaluations is not None:
        looked_at = config.evaluation.gate_days
        if evaluations < looked_at:
            raise ConfigError(
                f"--evaluations {evaluations}: the gate looks at up to {looked_at} days "
                "(evaluation.gate_days); keep at least so many."
            )
        forgotten = (forget_evaluations if delete else outdated)(store, evaluations)
    if delete:
        unneeded, freed = remove(store, keep, span, f"store gc --keep {keep}")
    else:
        unneeded = removable(store, keep, span)
    for version in unneeded if not session_of(context).as_json else []:
        out.print(f"{version.ref!s:<60} {version.bytes / 1e6:10.1f} MB", soft_wrap=True)
    total = sum(version.bytes for version in unneeded)
    show(
        context,
        {
            "versions": len(unneeded),
            "bytes": total,
            "evaluations": len(forgotten),
            "removed": delete,
            "freed_bytes": freed,
        },
        result,
    )
    if (unneeded or forgotten) and not delete and not session_of(context).as_json:
        out.print("Nothing was removed; add --delete to do it.")


@store_app.command("list")
def store_list(
    context: typer.Context,
    experiment: Annotated[
        str,
        typer.Option(
            help="default: all", parser=lambda text: text and parse_name(text), metavar="NAME"
        ),
    ] = "",
) -> None:
    """List all versions, with the aliases that point at them.

    Exit code 1 if a version or an alias is unreadable.
    """
    store = session_of(context).store
    versions, unreadable = _versions(store, [experiment] if experiment else store.experiments())
    if session_of(context).as_json:
        keys = ("version", "variant", "mb", "aliases")
        listed = [dict(zip(keys, row, strict=True)) for row in versions]
        show(context, {"versions": listed, "unreadable": unreadable})
    elif versions:
        rows = table("version", "variant", "MB", "aliases")
        for row in versions:
            rows.add_row(*row)
        out.print(rows)
    elif not unreadable:
        out.print(f"No versions in {session_of(context).store_path}; look at --store.")
    for sentence in unreadable:
        log(sentence)
    if unreadable:
        raise typer.Exit(1)


def _versions(store: Store, experiments: list[str]) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return version, variant, MB and aliases of each version, and why others are unreadable.

    Or aliases, which are then at no version.
    """
    versions: list[tuple[str, ...]] = []
    unreadable = []
    for experiment, level in itertools.product(experiments, LEVELS):
        aliases: dict[str, Ref | None] = {}
        for alias in ALIASES:
            try:
                aliases[alias] = store.alias(alias, experiment, level)
            except StoreError as error:
                unreadable.append(str(error))
        for ref in store.versions(experiment, level):
            try:
                manifest = store.manifest(ref)
            except StoreError as error:
                unreadable.append(str(error))
                continue
            size = f"{store.stored_bytes(ref, manifest) / 1e6:.1f}"
            names = ", ".join(alias for alias, target in aliases.items() if target == ref)
            versions.append((str(ref), manifest.variant, size, names))
    return versions, unreadable


@store_app.command("show")
def store_show(context: typer.Context, version: str) -> None:
    """Show a version's manifest."""
    sys.stdout.write(
        session_of(context).store.manifest(Ref.parse(version)).model_dump_json(indent=1) + "\n"
    )


@store_app.command("lineage")
def store_lineage(context: typer.Context, version: str) -> None:
    """Show a version and everything it descends from."""
    lineage = session_of(context).store.lineage(Ref.parse(version))
    show(
        context,
        {
            str(ref): f"{m.window_start} to {m.window_end}, {m.rows['samples']:,} samples"
            for ref, m in lineage.items()
        },
    )


@store_app.command("verify")
def store_verify(context: typer.Context) -> None:
    """Re-hash every file of every version; exit code 1 if something is wrong."""
    store = session_of(context).store
    problems = store.verify()
    count = len(store.every_version())
    show(context, {"versions": count, "problems": problems or "none"})
    if problems:
        raise typer.Exit(1)


@store_app.command("promote")
def store_promote(context: typer.Context, version: str, reason: str = "promoted by hand") -> None:
    """Make a version serve, past the gate."""
    record = session_of(context).store.set_alias(SERVING, Ref.parse(version), reason)
    show(context, {"serving": str(record.ref), "reason": reason})


@store_app.command("rollback")
def store_rollback(
    context: typer.Context, experiment: ExperimentOption = PRODUCTION, level: LevelOption = "actr"
) -> None:
    """Serve the version that served before."""
    record = session_of(context).store.rollback(experiment, level)
    show(context, {"serving": str(record.ref), "reason": record.reason})
