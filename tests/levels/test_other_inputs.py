"""A version is scored on what is prepared as it was for its training, or refused by name."""

from __future__ import annotations

import datetime as dt

import pytest

from ecdctr.config import Config, Level
from ecdctr.errors import ConfigError
from ecdctr.evaluation.gate import Outcome, gate
from ecdctr.levels.other_inputs import refuse_other_network, refuse_other_preparation
from ecdctr.levels.request import Plan, Request
from ecdctr.store.aliases import SERVING
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed, evaluated, manifest

NEXT = DATE + dt.timedelta(days=1)


def trained_so(
    store: Store, config: Config, level: Level = "actr", variant: str = "default"
) -> Ref:
    """Publish a version whose manifest says that it was trained so; it has no network."""
    said = {"config": config.relevant(level), "variant": variant}
    made = manifest(DATE, f"{level} of {variant}", level=level).model_copy(update=said)
    with store.staging() as folder:
        (folder / "a").write_text(level)
        return store.publish(folder, made, force=True).ref


def without(config: Config, name: str) -> Config:
    kept = tuple(feature for feature in config.features if feature.name != name)
    return config.model_copy(update={"features": kept})


def with_feature(config: Config, name: str, **values: object) -> Config:
    features = tuple(
        feature.model_copy(update=values if feature.name == name else {})
        for feature in config.features
    )
    return config.model_copy(update={"features": features})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda c: changed(c, "data", lookback_days=3), r"data\.lookback_days: 7 \(now 3\)"),
        (lambda c: changed(c, "data", history_length=5), r"data\.history_length: 10 \(now 5\)"),
        (lambda c: changed(c, "data", history_days=30), r"data\.history_days: 7 \(now 30\)"),
        (lambda c: changed(c, "data", numeric_null=-1.0), r"numeric_null: 0\.0 \(now -1\.0\)"),
        (lambda c: without(c, "age_band"), r"age_band: \{kind: categorical\} \(now none\)"),
        (lambda c: with_feature(c, "slot", kind="numeric"), r"features\.slot: .*now \{kind: num"),
        (lambda c: with_feature(c, "price", transform="identity"), r"features\.price: .*log1p"),
        (lambda c: with_feature(c, "tags", max_values=1), r"features\.tags: .*max_values: 1"),
    ],
)
def test_a_version_is_not_scored_on_what_is_prepared_otherwise_than_for_its_training(
    config, tmp_path, change, named
):
    store = Store(tmp_path)
    ref = trained_so(store, config)
    with pytest.raises(ConfigError, match=named):
        refuse_other_preparation(change(config), store, ref)


def test_other_windows_of_memory_are_told_where_the_version_remembers(config, tmp_path):
    store, remembers = Store(tmp_path), changed(config, "memory", enabled=True)
    ref, forgets = trained_so(store, remembers), trained_so(store, config, variant="forgets")
    other = changed(remembers, "memory", windows=(7, 28))
    for now, said in ((other, r"now \{windows: \[7, 28\]"), (config, r"\(now none\)")):
        with pytest.raises(ConfigError, match=said):
            refuse_other_preparation(now, store, ref)
        refuse_other_preparation(now, store, forgets)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: changed(c, "data", history_length=30),  # its network reads the newest ten
        lambda c: changed(c, "network", embedding_dim=4, hidden=(8,)),
        lambda c: changed(c, "snapshots", count=0),
        lambda c: changed(c, "memory", enabled=True),  # which it does not read
        lambda c: with_feature(c, "age_band", side="context", tpm=True),
        lambda c: c.model_copy(update={"seed": 5, "variants": {}}),
    ],
)
def test_what_prepares_nothing_that_a_version_reads_may_be_another(config, tmp_path, change):
    store = Store(tmp_path)
    refuse_other_preparation(change(config), store, trained_so(store, config))


def test_a_tpm_reads_its_few_features_alone(config, tmp_path):
    store = Store(tmp_path)
    ref = trained_so(store, config, "tpm")
    other = changed(without(config, "age_band"), "data", lookback_days=3, history_length=2)
    refuse_other_preparation(other, store, ref)
    with pytest.raises(ConfigError, match=r"features\.category: \{kind: categorical\} \(now none"):
        refuse_other_preparation(without(config, "category"), store, ref)


def test_the_variant_that_a_version_was_trained_with_is_named(config, tmp_path):
    store = Store(tmp_path)
    ref = trained_so(store, changed(config, "data", lookback_days=3), variant="short")
    with pytest.raises(ConfigError, match="the configuration and --variant short that it was"):
        refuse_other_preparation(config, store, ref)


def test_a_champion_whose_feature_was_taken_out_serves_on_and_the_verdict_says_so(config, store):
    """It said that the day was delivered again, and to run the command again, for ever."""
    champion = trained_so(store, config)
    store.set_alias(SERVING, champion, "first")
    fewer, later = without(config, "age_band"), NEXT + dt.timedelta(days=1)
    said = {"config": fewer.relevant("actr")}
    made = manifest(NEXT, "fewer features", level="actr").model_copy(update=said)
    with store.staging() as folder:
        (folder / "a").write_text("b")
        challenger = store.publish(folder, made).ref
    evaluated(fewer, store, challenger, 0.7, later)
    verdict = gate(fewer, store, challenger, later)
    assert verdict.outcome == Outcome.WAITING
    assert "trained with features.age_band" in verdict.reason
    assert store.alias(SERVING) == champion


def reordered(config: Config) -> Config:
    return config.model_copy(update={"features": config.features[::-1]})


@pytest.mark.parametrize(
    ("level", "change", "named"),
    [
        (
            "cpm",
            lambda c: without(c, "age_band"),
            "reads age_band, but the configuration says none",
        ),
        ("cpm", reordered, "reads the order user_id.* --restart"),
        ("actr", reordered, r"start anew: ecdctr train cpm --date 2026-01-19 --restart"),
        ("actr", lambda c: with_feature(c, "price", transform="identity"), r"price \(log1p\), but"),
        ("cpm", lambda c: changed(c, "memory", enabled=True), "says memory_item_id.* more"),
        ("tpm", reordered, "reads the order .*into another --store"),
    ],
)
def test_no_training_goes_on_with_layers_that_read_other_inputs(
    config, store, level, change, named
):
    """In another order of the features A-CTR went on in silence; one less was a KeyError."""
    parent = trained_so(store, config, "tpm" if level == "tpm" else "cpm")
    plan = Plan(level, {parent.level: [parent]}, [NEXT], grow_from=parent)
    refuse_other_network(Request(config, store, NEXT), plan)
    with pytest.raises(ConfigError, match=named):
        refuse_other_network(Request(change(config), store, NEXT), plan)
