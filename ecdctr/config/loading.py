"""A configuration from its file: read, validated with all of its variants, its folders placed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from ecdctr.config.config import Config, merged
from ecdctr.config.terms import FULL
from ecdctr.config.validation import validated
from ecdctr.errors import ConfigError
from ecdctr.files.strict_yaml import read_yaml
from ecdctr.files.urls import looks_like_url, no_utf8, shared_place


def load_config(path: Path) -> Config:
    """Read and validate a configuration file; relative data paths are relative to the file.

    Raises ConfigError with the key, the found value and what is allowed.
    """
    if path.is_fifo():
        raise ConfigError(
            f"{path} is a pipe, but the configuration is read more than once, and its folders are "
            "relative to it; write it into a file."
        )
    config = validated(Config, read_yaml(path, "configuration"), str(path))
    for name, overlay in config.variants.items():
        config.with_overlay(overlay, f"{path}: variant '{name}'")
    _try_tuning(config, path)
    base = path.resolve().parent
    if problem := no_utf8(str(base)):
        raise ConfigError(problem)
    data = config.data
    root = data.root if isinstance(data.root, str) else (base / data.root).resolve()
    data = data.model_copy(update={"root": root, "prepared": (base / data.prepared).resolve()})
    variants = {name: _placed(overlay, base) for name, overlay in config.variants.items()}
    placed = config.model_copy(update={"data": data, "variants": variants})
    moved = (name for name, overlay in variants.items() if "data" in overlay)
    for one in (placed, *map(placed.with_variant, moved)):
        refuse_shared(one, f"data.root {one.data.root}", one.data.root)
    return placed


def refuse_shared(config: Config, what: str, place: Path | str) -> None:
    """Raise ConfigError where prepared examples would lie in, around or at what is kept."""
    how = shared_place(config.data.prepared, place)
    if how:
        raise ConfigError(
            f"data.prepared {config.data.prepared} {how} {what}; prepared examples may be taken "
            "away at any time, so expected a folder of their own: name another."
        )


def _placed(overlay: dict[str, Any], base: Path) -> dict[str, Any]:
    """Return a variant whose folders are relative to the configuration's file, too."""
    folders = {
        key: str((base / value).resolve())
        for key, value in overlay.get("data", {}).items()
        if key in ("root", "prepared") and not looks_like_url(value)
    }
    return merged(overlay, {"data": folders}) if folders else overlay


def _try_tuning(config: Config, path: Path) -> None:
    """Validate every value that `ecdctr tune` would try."""
    spaces = {"space": (config, config.tuning.space)}
    for row, space in config.tuning.per_row.items():
        if row not in (*config.variants, FULL):
            raise ConfigError(
                f"{path} is not valid. tuning.per_row.{row}: there is no variant of that name."
            )
        spaces[f"per_row.{row}"] = (config.with_variant("" if row == FULL else row), space)
    for name, (base, space) in spaces.items():
        for key, values in space.items():
            for value in values:
                base.with_overlay(_nested(key, value), f"{path}, tuning.{name}, {key}: {value}")


def _nested(key: str, value: Any) -> dict[str, Any]:
    """Return a dotted key as nested sections."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return cast("dict[str, Any]", value)
