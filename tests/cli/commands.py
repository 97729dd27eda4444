"""All commands of the command line, by the words that a person types."""

from __future__ import annotations

from collections.abc import Iterator

from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ecdctr.cli import app


def commands(
    group: TyperGroup, words: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], TyperCommand]]:
    """Yield the commands of a group and of the groups in it."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*words, name))
        else:
            yield (*words, name), command


ALL = dict(commands(get_command(app)))
