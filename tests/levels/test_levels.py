"""The three levels on the tiny world: transfer, merging, point in time, determinism, gate."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ecdctr.config import LEVELS
from ecdctr.errors import ConfigError, StoreError, TrainingError
from ecdctr.evaluation.evaluate import evaluate, score
from ecdctr.evaluation.gate import gate
from ecdctr.impressions.days import window
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.restore import load_network
from ecdctr.levels.tpm import train_tpm
from ecdctr.models import checkpoint
from ecdctr.models.network import CtrNet
from ecdctr.models.transfer import apply_batch_norm_policy
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.studies.ablation.study import refresh_days
from tests.conftest import DATE
from tests.make import changed

NEXT = DATE + dt.timedelta(days=1)


@pytest.fixture(scope="module")
def trained(
    trained: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, dict[str, Ref]]:
    """Return a copy to add to: two weekly TPMs, CPM and A-CTR of one day."""
    store = Store(shutil.copytree(trained, tmp_path_factory.mktemp("levels") / "store"))
    refs = {level: store.require(level, DATE) for level in LEVELS}
    return store, refs | {"old": store.require("tpm", DATE - dt.timedelta(days=1))}


def test_lineage_leads_from_the_ads_model_to_the_first_tpm(trained):
    store, refs = trained
    assert set(store.lineage(refs["actr"])) == set(refs.values())
    assert store.manifest(refs["actr"]).parents["tpm"] == [str(refs["tpm"]), str(refs["old"])]
    assert store.verify() == []


def test_an_incremental_tpm_reads_only_the_days_since_its_parent(trained):
    store, refs = trained
    manifest = store.manifest(refs["tpm"])
    assert (manifest.window_start, manifest.window_end) == (DATE - dt.timedelta(days=6), DATE)


def test_a_tpm_that_reads_its_whole_window_costs_it_every_week(config, trained):
    store, refs = trained
    whole = changed(config, "tpm", refresh="window")
    manifest = train_tpm(Request(whole, store, DATE, "whole", "whole")).manifest
    assert (manifest.window_end - manifest.window_start).days + 1 == config.tpm.window_days
    assert refresh_days(manifest) == refresh_days(store.manifest(refs["tpm"])) == 7


def test_child_vocabularies_extend_their_parents(trained):
    store, refs = trained
    for parent, child in (("old", "tpm"), ("cpm", "actr")):
        before, after = (
            checkpoint.load(store.path(refs[name])).vocabularies for name in (parent, child)
        )
        for name, vocabulary in before.items():
            assert after[name].values[: len(vocabulary.values)].equals(vocabulary.values)


def test_whoever_may_read_a_version_may_read_all_of_it(trained):
    store, refs = trained
    folder = store.path(refs["actr"])
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*") if path.is_file()}
    assert set(modes.values()) == {folder.stat().st_mode & 0o666}, modes


def test_training_twice_gives_byte_identical_weights(config, trained):
    store, refs = trained
    for level, function in (("tpm", train_tpm), ("cpm", train_cpm), ("actr", train_actr)):
        again = function(Request(config, store, DATE, experiment="again", force=True)).manifest
        first = store.manifest(refs[level])
        assert again.fingerprint == first.fingerprint
        assert again.files == first.files, level


def test_what_a_process_was_used_for_before_does_not_change_a_byte(config, trained):
    store, refs = trained
    before = torch.get_num_threads()
    try:
        for threads in (2, 3, 7):
            torch.set_num_threads(threads)  # snapshots are merged before anything is trained
            again = train_actr(Request(config, store, DATE, experiment="again", force=True))
            assert again.manifest.files == store.manifest(refs["actr"]).files, threads
    finally:
        torch.set_num_threads(before)


def test_a_finished_version_is_reused_until_something_changes(config, trained):
    store, refs = trained
    again = train_cpm(Request(config, store, DATE))
    assert again.reused
    assert again.manifest.ref == refs["cpm"]
    other = changed(config, "cpm", lr_dense=5e-4)
    assert not train_cpm(Request(other, store, DATE, experiment="other")).reused


def test_a_run_for_a_past_date_does_not_see_versions_made_later(config, trained):
    store, _ = trained
    past = DATE - dt.timedelta(days=2)
    manifest = train_cpm(Request(config, store, past, "past")).manifest
    assert all(Ref.parse(parent).date <= past for parent in manifest.parents["tpm"])
    assert manifest.window_end == past
    actr = train_actr(Request(config, store, past, "past")).manifest
    assert actr.parents["cpm"] == [str(manifest.ref)]


def test_order_of_runs_does_not_change_a_version_that_starts_anew(config, tmp_path):
    anew = config.with_variant("window")
    early, late = DATE - dt.timedelta(days=7), DATE
    weights = []
    train_tpm(Request(anew, Store(tmp_path / "tpm"), early - dt.timedelta(days=1)))
    for order in ((early, late), (late, early)):
        store = Store(shutil.copytree(tmp_path / "tpm", tmp_path / str(order[0])))
        for date in order:
            train_cpm(Request(anew, store, date))
        weights.append([store.manifest(store.require("cpm", date)).files for date in (early, late)])
    assert weights[0] == weights[1]


def test_the_frozen_aggregator_of_the_ads_model_is_that_of_cpm(trained):
    store, refs = trained
    cpm, actr = (
        load_file(store.path(refs[name]) / "dense.safetensors") for name in ("cpm", "actr")
    )
    frozen = [name for name in cpm if "aggregator" in name]
    assert frozen
    assert all(torch.equal(cpm[name], actr[name]) for name in frozen)
    assert not torch.equal(cpm["backbone.hidden.0.weight"], actr["backbone.hidden.0.weight"])


@pytest.mark.parametrize(("policy", "mean", "weight"), [("keep", 5, 3), ("reset_all", 0, 1)])
def test_batch_norm_policies(config, trained, policy, mean, weight):
    store, refs = trained
    model, _, _ = load_network(store, refs["cpm"])
    assert isinstance(model, CtrNet)
    norm = model.backbone.hidden[1]
    with torch.no_grad():
        norm.running_mean.fill_(5)
        norm.weight.fill_(3)
    apply_batch_norm_policy(model, policy)
    assert norm.running_mean.unique().tolist() == [mean]
    assert norm.weight.unique().tolist() == [weight]


def test_an_incremental_cpm_goes_on_from_its_own_version_with_the_days_since(config, trained):
    store, _ = trained
    longer = changed(config, "cpm", first_window_days=9)
    first = train_cpm(Request(longer, store, DATE, "chain", "chain")).manifest
    assert "cpm" not in first.parents  # that of production is no part of the chain
    assert first.window_start == DATE - dt.timedelta(days=8)
    second = train_cpm(
        Request(longer, store, NEXT + dt.timedelta(days=1), "chain", "chain")
    ).manifest
    assert second.parents["cpm"] == [str(first.ref)]
    assert (second.window_start, second.window_end) == (NEXT, NEXT + dt.timedelta(days=1))
    before, after = (
        checkpoint.load(store.path(one.ref)).vocabularies["item_id"] for one in (first, second)
    )
    assert after.values[: len(before.values)].equals(before.values)
    actr = train_actr(Request(longer, store, NEXT, "chain", "chain")).manifest
    assert actr.parents["cpm"] == [str(first.ref)]
    assert store.verify() == []


@pytest.mark.parametrize("level", ["tpm", "cpm"])
def test_a_chain_that_missed_more_days_than_its_window_is_refused_or_says_what_it_left_out(
    config, store, level
):
    train = {"tpm": train_tpm, "cpm": train_cpm}[level]
    plain = changed(config, "snapshots", count=0)
    plain = changed(plain, level, window_days=3)
    first, last = DATE - dt.timedelta(days=5), DATE
    parent = train(Request(plain, store, first)).manifest
    with pytest.raises(StoreError) as refused:
        train(Request(plain, store, last))
    assert (
        f"goes on from {parent.ref}, but 2 of the 5 days since ({first + dt.timedelta(days=1)} to "
        f"{first + dt.timedelta(days=2)}) lie further back than {level}.window_days: 3"
    ) in str(refused.value)
    assert f"set {level}.skip_missed_days: true" in str(refused.value)
    assert store.versions("production", level) == [parent.ref], "nothing was published"
    allowed = changed(plain, level, skip_missed_days=True)
    manifest = train(Request(allowed, store, last)).manifest
    assert manifest.skipped_days == window(first + dt.timedelta(days=2), 2)
    assert manifest.window_start == DATE - dt.timedelta(days=2)
    near = train(Request(plain, store, last + dt.timedelta(days=3))).manifest
    assert (near.window_start, near.skipped_days) == (NEXT, []), "a gap of the whole window fits"


@pytest.mark.parametrize("level", ["tpm", "cpm"])
def test_a_day_that_was_not_delivered_is_said_to_be_left_out(config, store, tmp_path, level):
    train = {"tpm": train_tpm, "cpm": train_cpm}[level]
    shutil.copytree(config.data.root, tmp_path / "world")
    data = {"root": tmp_path / "world", "prepared": tmp_path / "prepared"}
    plain = changed(config, "data", allowed_missing_days=1, **data)
    plain = changed(plain, "snapshots", count=0)
    late = DATE - dt.timedelta(days=1)
    first = train(Request(plain, store, DATE - dt.timedelta(days=2))).manifest
    shutil.rmtree(tmp_path / "world" / "domain=natural" / f"date={late}")
    assert train(Request(plain, store, DATE)).manifest.skipped_days == [late]
    assert first.skipped_days == []
    assert train(Request(plain, store, NEXT)).manifest.skipped_days == [], "it is said once"


def test_as_shipped_the_order_of_runs_decides_and_a_run_repeated_in_order_mends_it(
    config, tmp_path
):
    """CPM goes on from the day before, each day with what it knew."""
    early, late = DATE - dt.timedelta(days=1), DATE

    def files(store: Store, date: dt.date) -> dict[str, Any]:
        return store.manifest(store.require("cpm", date)).files

    train_tpm(Request(config, Store(tmp_path / "tpm"), early - dt.timedelta(days=1)))
    in_order, other = (
        Store(shutil.copytree(tmp_path / "tpm", tmp_path / name)) for name in ("in-order", "other")
    )
    for store, dates in ((in_order, (early, late)), (other, (late, early))):
        for date in dates:
            train_cpm(Request(config, store, date))
    assert files(in_order, early) == files(other, early)
    assert files(in_order, late) != files(other, late), (
        "it began anew: the day before was not there"
    )
    again = train_cpm(Request(config, other, late))
    assert not again.reused
    assert again.manifest.files == files(in_order, late)


def test_an_incremental_cpm_starts_anew_when_told(config, trained):
    store, _ = trained
    reading_all = changed(config, "cpm", refresh="window")
    train_cpm(Request(config, store, DATE, "anew"))
    anew = train_cpm(Request(config, store, NEXT, "anew", restart=True)).manifest
    whole = train_cpm(Request(reading_all, store, NEXT, "whole-window", "whole-window")).manifest
    for name in ("dense.safetensors", "embeddings.safetensors"):
        first, second = (load_file(store.path(one.ref) / name) for one in (anew, whole))
        assert all(torch.equal(first[key], second[key]) for key in second)


def test_an_incremental_cpm_carries_the_moments_that_its_parent_saved(config, trained):
    store, _ = trained
    weights = {}
    for carry in (False, True):
        name = f"moments-{carry}".lower()
        saving = changed(config, "cpm", save_optimizer=True, carry_optimizer=carry)
        for date in (DATE, NEXT):
            manifest = train_cpm(Request(saving, store, date, name, name)).manifest
        weights[carry] = load_file(store.path(manifest.ref) / "dense.safetensors")[
            "backbone.out.weight"
        ]
        assert manifest.optimizer_state == ("carried from the parent" if carry else "fresh")
    assert not torch.equal(weights[False], weights[True])


def test_continue_policy_reads_only_the_new_day_and_restart_starts_from_cpm(config, trained):
    store, refs = trained
    daily = config.with_variant("continue").model_copy(update={"data": config.data})
    train_actr(Request(daily, store, DATE, experiment="daily", variant="continue"))
    second = train_actr(
        Request(daily, store, NEXT, experiment="daily", variant="continue")
    ).manifest
    assert second.parents["actr"] == [f"daily/actr/{DATE}/v0001"]
    assert (second.window_start, second.window_end) == (NEXT, NEXT)
    restarted = train_actr(
        Request(daily, store, NEXT, experiment="daily", variant="continue", restart=True)
    ).manifest
    assert restarted.parents["cpm"] == [str(refs["cpm"])]
    assert restarted.version == "v0002"


def test_a_chain_with_a_skipped_day_is_refused(config, trained):
    store, _ = trained
    daily = config.with_variant("continue").model_copy(update={"data": config.data})
    train_actr(Request(daily, store, DATE, experiment="gap", variant="continue"))
    with pytest.raises(StoreError, match=f"no version for {NEXT}"):
        train_actr(
            Request(daily, store, NEXT + dt.timedelta(days=1), experiment="gap", variant="continue")
        )
    assert len(store.versions("gap", "actr")) == 1


def test_ads_only_has_no_parents_and_knows_no_snapshot(config, trained):
    store, _ = trained
    alone = config.with_variant("ads_only").model_copy(update={"data": config.data})
    assert (
        train_actr(
            Request(alone, store, DATE, experiment="ads_only", variant="ads_only")
        ).manifest.parents
        == {}
    )


def test_a_variant_cannot_mix_into_production(config, store):
    with pytest.raises(ConfigError, match="name an experiment"):
        Request(config, store, DATE, variant="no_tpm")


def test_a_cpm_with_snapshots_is_refused_by_a_variant_without(config, trained):
    store, _ = trained
    without = config.with_variant("no_tpm").model_copy(update={"data": config.data})
    with pytest.raises(ConfigError, match="train cpm with the same variant first"):
        train_actr(Request(without, store, DATE, experiment="mixed", variant="no_tpm"))


def test_evaluating_on_a_day_that_was_read_is_refused(config, trained):
    store, refs = trained
    with pytest.raises(StoreError, match="leakage"):
        score(config, store, refs["actr"], "ads", DATE)


def test_no_level_touches_a_file_after_its_data_date(config, trained, store, tmp_path):
    """Train with all later days removed: the same bytes as with them present."""
    root = tmp_path / "data"
    shutil.copytree(config.data.root, root)
    for folder in root.glob("domain=*/date=*"):
        if dt.date.fromisoformat(folder.name.removeprefix("date=")) > DATE:
            shutil.rmtree(folder)
    cut = changed(config, "data", root=root, prepared=tmp_path / "prepared")
    train_tpm(Request(cut, store, DATE - dt.timedelta(days=7)))
    of_all, refs = trained
    for level, train in (("tpm", train_tpm), ("cpm", train_cpm), ("actr", train_actr)):
        made = train(Request(cut, store, DATE)).manifest
        assert made.files == of_all.manifest(refs[level]).files, level


def test_evaluation_and_gate(config, trained):
    store, refs = trained
    evaluation = evaluate(config, store, refs["actr"], NEXT)
    assert {"all", "new_users", "new_items", "low_activity", "oracle"} == set(evaluation.metrics)
    assert evaluation.metrics["oracle"]["gauc"] > 0.8
    strict = changed(config, "evaluation", gate_calibration=(0.0, 0.01))
    verdict = gate(strict, store, refs["actr"], NEXT)
    assert not verdict.passed
    assert "calibration" in verdict.reason
    assert store.alias("serving") is None
    generous = changed(config, "evaluation", gate_calibration=(0.0, 100.0))
    assert gate(generous, store, refs["actr"], NEXT).passed
    assert store.alias("serving") == refs["actr"]


def test_a_loss_that_is_not_a_number_stops_training_and_publishes_nothing(config, store):
    wild = changed(config, "tpm", lr_dense=1e30, lr_embedding=1e30)
    with pytest.raises(TrainingError, match="not a finite number"):
        train_tpm(Request(wild, store, DATE))
    assert store.versions("production", "tpm") == []
    assert not list((store.root / ".staging").glob("*"))


def test_pre_training_learns_and_transfers(config, trained):
    """On equal ads days the transferred model predicts better than one that saw ads alone.

    By the means over three days of AUC and LogLoss: a user of the tiny world has too few ads for
    GAUC to tell.
    """
    store, refs = trained
    alone = config.with_variant("ads_only").model_copy(update={"data": config.data})
    other = train_actr(
        Request(alone, store, DATE, experiment="ads_only", variant="ads_only")
    ).manifest.ref
    days = [DATE + dt.timedelta(days=k) for k in (1, 2, 3)]
    full, ads = (
        {
            name: np.mean([evaluate(config, store, ref, day).metrics["all"][name] for day in days])
            for name in ("auc", "log_loss")
        }
        for ref in (refs["actr"], other)
    )
    assert full["auc"] > ads["auc"] + 0.01
    assert full["log_loss"] < ads["log_loss"]
