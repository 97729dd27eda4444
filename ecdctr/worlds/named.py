"""Worlds by name: YAML files of this folder, or a person's own, with single settings changed."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, TypeAdapter

from ecdctr.config import Simulation, Visits, digest, validated
from ecdctr.errors import ConfigError
from ecdctr.files.strict_yaml import parse_yaml, read_yaml

PACKAGED = Path(__file__).parent
SETTINGS: TypeAdapter[Simulation | Visits] = TypeAdapter(
    Annotated[Simulation | Visits, Field(discriminator="kind")]
)


class NamedWorld(NamedTuple):
    """A world's settings and what files and pages call it."""

    name: str
    settings: Simulation | Visits


def packaged() -> list[str]:
    """Return names of the worlds that come with the package."""
    return sorted(path.stem for path in PACKAGED.glob("*.yaml"))


def load_world(world: str, changes: Iterable[str] = ()) -> NamedWorld:
    """Read a packaged world by name, or a file; `changes` are texts KEY=VALUE of single settings.

    With changes its name ends in their digest, so that two worlds never share a study's folder.
    Raises ConfigError for an unknown name, a missing file, an unknown key or a value out of range.
    """
    path = _path(world)
    settings = validated(SETTINGS, read_yaml(path, "world"), str(path))
    changed = _changed(changes)
    if not changed:
        return NamedWorld(path.stem, settings)
    merged = settings.model_dump(mode="json") | changed
    return NamedWorld(
        f"{path.stem}-{digest(changed)[:8]}", validated(SETTINGS, merged, f"{path} with --set")
    )


def _path(world: str) -> Path:
    if world in packaged():
        return PACKAGED / f"{world}.yaml"
    if not world.endswith((".yaml", ".yml")):
        raise ConfigError(
            f"No world '{world}'; expected one of {', '.join(packaged())}, or a file NAME.yaml."
        )
    return Path(world)


def _changed(changes: Iterable[str]) -> dict[str, Any]:
    """Return settings by their keys; raises ConfigError where one is given twice."""
    texts: dict[str, str] = {}
    changed: dict[str, Any] = {}
    for text in changes:
        key, value = _change(text)
        if key in texts:
            raise ConfigError(
                f"--set '{texts[key]}' and --set '{text}' set the same key; leave one of them out."
            )
        texts[key], changed[key] = text, value
    return changed


def _change(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise ConfigError(f"--set '{text}': expected KEY=VALUE, for example --set users=60000.")
    return key, parse_yaml(value, f"--set {key}: {value}")
