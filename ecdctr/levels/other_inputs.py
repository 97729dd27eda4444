"""Whether a version fits a configuration: what its network reads, and how that is prepared.

Refuses and names; nothing is computed here that enters a weight or a score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecdctr.errors import ConfigError
from ecdctr.levels.restore import trained_config
from ecdctr.store.manifest import variant_option

if TYPE_CHECKING:
    from ecdctr.config import Config, Feature, Level
    from ecdctr.store.manifest import Ref
    from ecdctr.store.store import Store


def refuse_other_preparation(config: Config, store: Store, ref: Ref) -> None:
    """Raise ConfigError where a configuration prepares what a version reads in another way.

    Its scores would be none that it gives when it serves.
    """
    manifest = store.manifest(ref)
    trained = trained_config(manifest)
    unlike = [
        f"{name}: {_shown(value)} (now {_shown(now)})"
        for name, value, now in _settings(trained, config, manifest.level)
        if value != now
    ]
    if unlike:
        raise ConfigError(
            f"{ref} was trained with {', '.join(unlike)}; score it with the configuration"
            f"{_with(variant_option(manifest.variant))} that it was trained with, or train a "
            "version with this one."
        )


def _settings(trained: Config, now: Config, level: Level) -> list[tuple[str, Any, Any]]:
    """Return name, value and present value of each setting that prepares what a version reads."""
    read = [feature for feature in trained.features if level != "tpm" or feature.tpm]
    today = {feature.name: feature for feature in now.features}
    settings: list[tuple[str, Any, Any]] = [
        (f"features.{f.name}", _made(f), _made(today.get(f.name))) for f in read
    ]
    if level == "tpm":
        return settings
    settings.append(("data.lookback_days", trained.data.lookback_days, now.data.lookback_days))
    if any(feature.kind == "numeric" for feature in read):
        settings.append(("data.numeric_null", trained.data.numeric_null, now.data.numeric_null))
    if trained.network.history != "none":
        settings += _of_history(trained, now)
    if trained.memory.enabled:
        settings.append(("memory", _remembered(trained), _remembered(now)))
    return settings


def _of_history(trained: Config, now: Config) -> list[tuple[str, Any, Any]]:
    """Return those of the clicks; of more clicks, or features, a network reads its own."""
    length, features = trained.data.history_length, list(trained.data.history_features)
    return [
        ("data.history_days", trained.data.click_days, now.data.click_days),
        ("data.history_length", length, min(length, now.data.history_length)),
        (
            "data.history_features",
            features,
            [name for name in features if name in now.data.history_features],
        ),
    ]


def _made(feature: Feature | None) -> dict[str, Any] | None:
    """Return what of a feature's declaration preparation and batches go by."""
    if feature is None:
        return None
    made: dict[str, Any] = {"kind": feature.kind}
    if feature.kind == "numeric":
        made["transform"] = feature.transform
    if feature.kind == "multi_valued":
        made["max_values"] = feature.max_values
    return made


def _remembered(config: Config) -> dict[str, Any] | None:
    if not config.memory.enabled:
        return None
    kept = config.memory.model_dump(mode="json", exclude={"enabled", "features"})
    return {**kept, "keys": list(config.memory_keys)}


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
    return str(value)


def _with(option: str) -> str:
    return f" and{option}" if option else ""
