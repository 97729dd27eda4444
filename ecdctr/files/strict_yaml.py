"""Reads YAML that people write.

The core schema of YAML 1.2, and nothing that is silently something else. YAML 1.1, which PyYAML
reads by default, takes the last of two equal keys, `no` for false, 010 for eight, 1:30 for ninety
and 1e-3 for a text. Here a key given twice is refused, a date stays text (its field knows what a
date is), and numbers are what they look like; what begins with a zero too many is text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, cast

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from ecdctr.errors import ConfigError

NO_TEXT = re.compile(
    "[\x00-\x08\x0b-\x1f\ud800-\udfff]"
)  # of code points below a space, tab and newline are
LIMIT_BYTES = 4 << 20
LIMIT_VALUES = 200_000  # with what anchors repeat
TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    """SafeLoader with the resolvers and constructors of the core schema alone."""

    def flatten_mapping(self, node: MappingNode) -> None:
        """Spread merge keys, so that each key is there once.

        PyYAML keeps every pair of what is merged: merges of merges would grow without bound, and a
        mapping that was spread before it is built itself would seem to have its keys twice.
        """
        _refuse_doubles(node)
        super().flatten_mapping(node)
        node.value = list({key.value: (key, value) for key, value in node.value}.values())


_Loader.yaml_implicit_resolvers = {}
_Loader.yaml_constructors = {}


def _resolve(kind: str, pattern: str, first: str) -> None:
    _Loader.add_implicit_resolver(TAG + kind, re.compile(rf"^(?:{pattern})$"), list(first))


_resolve("bool", "true|True|TRUE|false|False|FALSE", "tTfF")
_resolve("null", "~|null|Null|NULL|", "~nN\0")
_resolve("int", "[-+]?(?:0|[1-9][0-9]*)", "-+0123456789")
_resolve(
    "float",
    r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
    r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
    "-+0123456789.",
)
_resolve("merge", "<<", "<")
_Loader.yaml_implicit_resolvers.setdefault("", []).append((f"{TAG}null", re.compile("^$")))


def _text(loader: _Loader, node: Node) -> str:
    text: str = loader.construct_scalar(cast("ScalarNode", node))  # it refuses other nodes
    if NO_TEXT.search(text):
        raise ConstructorError(
            problem=f"{text!r:.60} holds a character that is no text; in single quotes a backslash "
            "stays one",
            problem_mark=node.start_mark,
        )
    return text


def _number(loader: _Loader, node: Node) -> int | float:
    text = _text(loader, node)
    try:
        if node.tag == f"{TAG}int":
            return int(text)
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    except ValueError:
        raise ConstructorError(
            problem=f"{text!r:.60} is no number that can be read", problem_mark=node.start_mark
        ) from None


def _truth(loader: _Loader, node: Node) -> bool:
    text = _text(loader, node)
    if text.lower() not in ("true", "false"):
        raise ConstructorError(
            problem=f"{text!r:.60} is neither true nor false", problem_mark=node.start_mark
        )
    return text.lower() == "true"


def _mapping(loader: _Loader, node: Node) -> Any:
    yield from loader.construct_yaml_map(node)


def _list(loader: _Loader, node: Node) -> Any:
    yield from loader.construct_yaml_seq(node)


def _nothing(loader: _Loader, node: Node) -> None:
    _text(loader, node)


def _refuse_doubles(node: MappingNode) -> None:
    """Raise for a key given twice or one that is no text, before merge keys are spread."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in (f"{TAG}str", f"{TAG}merge"):
            shown = f"'{key.value}'" if isinstance(key, ScalarNode) else "a list or a mapping"
            raise ConstructorError(
                problem=f"the key {shown} is no text; put it into quotes",
                problem_mark=key.start_mark,
            )
        if key.value in lines:
            raise ConstructorError(
                problem=f"the key '{key.value}' was given in line {lines[key.value]} already; "
                "give it once",
                problem_mark=key.start_mark,
            )
        lines[key.value] = key.start_mark.line + 1


def _unknown(_: _Loader, node: Node) -> Any:
    raise ConstructorError(
        problem=f"the tag '{node.tag}' is not known here; leave it out",
        problem_mark=node.start_mark,
    )


_Loader.add_constructor(f"{TAG}str", _text)
_Loader.add_constructor(f"{TAG}int", _number)
_Loader.add_constructor(f"{TAG}float", _number)
_Loader.add_constructor(f"{TAG}bool", _truth)
_Loader.add_constructor(f"{TAG}null", _nothing)
_Loader.add_constructor(f"{TAG}seq", _list)
_Loader.add_constructor(f"{TAG}map", _mapping)
_Loader.add_constructor(None, _unknown)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping; `what` names it in a refusal ('configuration').

    Raises ConfigError with the file, the line and what to do: no file or a folder, no UTF-8, empty,
    no YAML, a key given twice, a value that contains itself.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"No {what} at {path}; look at the name.") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name a {what} file in it.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The {what} {path} cannot be read: {error}.") from None
    if len(content) > LIMIT_BYTES:
        raise ConfigError(
            f"{path} has {len(content):,} bytes; a {what} has {LIMIT_BYTES:,} at most."
        )
    raw = parse_yaml(_decoded(content, path), str(path))
    if raw is None:
        raise ConfigError(f"{path} is empty; a {what} is a mapping of keys.")
    if not isinstance(raw, dict):
        raise ConfigError(
            f"{path}: expected a {what}, a mapping of keys, found {type(raw).__name__}."
        )
    return raw


def in_yaml(text: str) -> str:
    """Write a text as a key or value of YAML: as it is, or in quotes where that is another."""
    if re.fullmatch(r"[A-Za-z_][\w.-]*", text) and parse_yaml(text, "a text") == text:
        return text
    return "'" + text.replace("'", "''") + "'" if text.isprintable() else json.dumps(text)


def _decoded(content: bytes, path: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}, line {line}: expected UTF-8, found the byte 0x{content[error.start]:02x}; "
            "save the file as UTF-8."
        ) from None


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; raises ConfigError that starts with `where`."""
    try:
        loader = _Loader(text)
        value = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML{_said(error, text)}.") from None
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; write it flatter.") from None
    _refuse_endless(value, where)
    return value


def _said(error: yaml.YAMLError, text: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f", line {line}: it holds the character {chr(error.character)!r}, which is no text"
    place = f", line {mark.line + 1}" if mark else ""
    if problem and problem.startswith("but found"):  # the first half stands in the context
        problem = f"{getattr(error, 'context', None)}, {problem}"
    first = getattr(error, "context_mark", None)
    if problem == "second occurrence" and first:  # of an anchor
        problem = f"{getattr(error, 'context', None)}, line {first.line + 1}"
    return f"{place}: {problem or str(error).splitlines()[0]}"


def _refuse_endless(value: Any, where: str) -> None:
    """Raise for an anchor that contains itself, or anchors that repeat each other without bound."""
    count, ahead = 0, [value]
    while ahead:
        one = ahead.pop()
        count += 1
        if count > LIMIT_VALUES:
            raise ConfigError(
                f"{where}: an anchor contains itself, or anchors repeat each other to more than "
                f"{LIMIT_VALUES:,} values; write them out."
            )
        if isinstance(one, dict):
            ahead += one.values()
        elif isinstance(one, list):
            ahead += one
