"""An option that takes one value is given once: of two values, neither wins without a word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand, TyperGroup, TyperOption

if TYPE_CHECKING:
    from collections.abc import Callable

    from typer._click.core import Command as _Parsing
    from typer._click.core import Context
    from typer._click.parser import _OptionParser
else:
    _Parsing = object  # a mixin: what it is put before is a command


class _Once(_Parsing):
    """Refuses an option which is given twice."""

    def make_parser(self, ctx: Context) -> _OptionParser:
        """Make a parser that raises typer.BadParameter for it."""
        return _refusing(super().make_parser(ctx), ctx)


class _OnceCommand(_Once, TyperCommand): ...


class _OnceGroup(_Once, TyperGroup): ...


class Application(typer.Typer):
    """Commands, each of which takes an option of one value once."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=_OnceGroup, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """Register a command as typer does."""
        return super().command(name, **{"cls": _OnceCommand, **settings})


def _refusing(parser: _OptionParser, context: Context) -> _OptionParser:
    """Let a parser raise typer.BadParameter for an option of one value that is given again."""
    parse = parser.parse_args

    def once(args: list[str]) -> Any:
        parsed = parse(args)
        given = parsed[2]  # the parameters in the order in which they were written
        for option in dict.fromkeys(given):
            count = given.count(option)
            if count > 1 and isinstance(option, TyperOption) and _takes_one(option):
                raise typer.BadParameter(
                    f"it is given {count} times, expected once; leave out the others.",
                    ctx=context,
                    param=option,
                )
        return parsed

    parser.parse_args = once  # type: ignore[method-assign]  # typer has no hook between the two
    return parser


def _takes_one(option: TyperOption) -> bool:
    """Tell whether a second one would change what the first one says."""
    harmless = option.is_flag and not option.secondary_opts
    return not (option.multiple or option.count or harmless)
