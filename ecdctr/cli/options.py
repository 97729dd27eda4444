"""Options that belong together as one dataclass.

A command takes the object, the command line has an option per field.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import shlex
from collections.abc import Callable, Collection
from typing import Any, get_args, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Spread each parameter that is a dataclass into its fields, which typer makes options of.

    A field's annotation is what the parameter's would be, its default too.
    """
    groups: dict[str, type] = {}
    parameters: list[inspect.Parameter] = []
    for name, kind in get_type_hints(command, include_extras=True).items():
        if name == "return":
            continue
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            parameters += _parameters(kind)
        else:
            default = inspect.signature(command).parameters[name].default
            parameters.append(_parameter(name, default, kind))

    @functools.wraps(command)
    def spread(**values: Any) -> None:
        made = {
            name: kind(**{field.name: values.pop(field.name) for field in dataclasses.fields(kind)})
            for name, kind in groups.items()
        }
        command(**values, **made)

    signature = inspect.Signature(parameters)
    spread.__signature__ = signature  # type: ignore[attr-defined]  # typer reads it
    spread.__annotations__ = {one.name: one.annotation for one in parameters}
    return spread


def command_line(command: str, options: Any, always: Collection[str]) -> str:
    """Return the command line that asks for these options.

    `options` is a dataclass as `grouped` takes it. Fields named in `always` are written always,
    others where they differ from their default.
    """
    hints = get_type_hints(type(options), include_extras=True)
    words = ["ecdctr", command]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if field.name in always or value != field.default:
            words += _said(_option(field.name, hints[field.name]), value)
    return " ".join(words)


def _option(name: str, hint: Any) -> str:
    """Return the name of a field's option: the one that it is given, else the field's own."""
    # In an annotation the first name stands where typer has a default elsewhere
    given = [word for one in get_args(hint)[1:] for word in (one.default, *(one.param_decls or ()))]
    names = [word for word in given if isinstance(word, str) and word.startswith("--")]
    return names[0] if names else f"--{name.replace('_', '-')}"


def _said(option: str, value: Any) -> list[str]:
    if value is True:
        return [option]
    values = value if isinstance(value, list) else [value]
    return [word for one in values for word in (option, shlex.quote(str(one)))]


def _parameters(kind: type) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        _parameter(
            field.name,
            inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default,
            hints[field.name],
        )
        for field in dataclasses.fields(kind)
    ]


def _parameter(name: str, default: Any, kind: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
