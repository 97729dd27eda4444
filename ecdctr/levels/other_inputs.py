"""Whether a version fits a configuration: what its network reads, and how that is prepared.

Refuses and names; nothing is computed here that enters a weight or a score.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ecdctr.config import PRODUCTION
from ecdctr.errors import ConfigError
from ecdctr.examples.batches import Inputs
from ecdctr.levels.restore import trained_config
from ecdctr.store.manifest import variant_option

if TYPE_CHECKING:
    from ecdctr.config import Config, Feature, Level
    from ecdctr.levels.request import Plan, Request
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


def refuse_other_network(request: Request, plan: Plan) -> None:
    """Raise ConfigError where the version to go on from reads other inputs, or in another order.

    Its layers go by place: they would read one feature with the weights of another.
    """
    parent = plan.grow_from
    if parent is None:
        return
    manifest = request.store.manifest(parent)
    theirs = _inputs(trained_config(manifest), manifest.level)
    ours = _inputs(request.config, plan.level)
    if theirs != ours:
        raise ConfigError(
            f"{plan.level} {request.date} goes on from {parent}, which reads "
            f"{_shown_unlike(theirs, ours)}, but the configuration says "
            f"{_shown_unlike(ours, theirs)}. Keep 'features' and 'memory' as they were, in their "
            f"order, or {_anew(request, manifest.level)}."
        )


def _inputs(config: Config, level: Level) -> list[str]:
    """Return in words what a network reads, in the order in which its layers have it."""
    inputs = Inputs.of(config, level)
    transforms = {f.name: f" ({f.transform})" for f in config.features if f.kind == "numeric"}
    return [
        *inputs.fields,
        *(f"{name} (lists)" for name, _ in inputs.multi),
        *(f"{name}{transforms.get(name, ' (numeric)')}" for name in inputs.numeric),
        *(f"{name} of clicks" for name in inputs.history_features),
    ]


def _shown_unlike(these: list[str], others: list[str]) -> str:
    """Name what only these have, at most five, or their order where both have the same."""
    only = [name for name in these if name not in others]
    if only or set(these) != set(others):
        more = f" and {len(only) - 5} more" if len(only) > 5 else ""
        return f"{', '.join(only[:5])}{more}" if only else "none of that"
    return f"the order {', '.join(these)}"


def _anew(request: Request, level: Level) -> str:
    if level == "tpm":
        return "train into another --store, since each TPM goes on from the one before it"
    in_experiment = ""
    if request.experiment != PRODUCTION:
        in_experiment = f" --experiment {request.experiment}{variant_option(request.variant)}"
    restart = " --restart" if request.config.chained(level) else ""
    return f"start anew: ecdctr train {level} --date {request.date}{in_experiment}{restart}"


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
