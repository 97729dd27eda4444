"""Every option of the method on the tiny world: it trains, scores, and does what it says."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from ecdctr.config import Config
from ecdctr.errors import ConfigError
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.examples.batches import Cut, encode, training_batches
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.levels import actr, train
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.parents import load_snapshots
from ecdctr.levels.reading import click_rate, training_parts
from ecdctr.levels.request import Request, SnapshotSets
from ecdctr.levels.restore import load_network
from ecdctr.models.network import CtrNet
from ecdctr.models.transfer import elastic_weight_consolidation
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import DATE

NEXT = DATE + dt.timedelta(days=1)
SHORT = {"cpm": {"window_days": 2}, "actr": {"window_days": 2}}
FEW_STEPS = {level: values | {"batch_size": 512} for level, values in SHORT.items()}
AGGREGATIONS = (
    "self_attention",
    "newest",
    "mean",
    "concat",
    "gated",
    "time_decayed",
    "time_attention",
)


def changed(config: Config, **sections: dict) -> Config:
    """Return the configuration with some settings changed, validated again."""
    raw = config.model_dump()
    for section, values in sections.items():
        raw[section] |= values
    return Config.model_validate(raw)


@pytest.fixture(scope="module")
def store(config: Config, parents: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two TPM versions, a CPM without snapshots in its own experiment."""
    store = Store(shutil.copytree(parents, tmp_path_factory.mktemp("options") / "store"))
    train_cpm(Request(changed(config, snapshots={"count": 0}), store, DATE, "plain", "plain"))
    return store


def both(config: Config, store: Store, name: str) -> tuple[Ref, Ref]:
    """CPM and A-CTR under a configuration of their own."""
    cpm = train_cpm(Request(config, store, DATE, name, name)).manifest.ref
    return cpm, train_actr(Request(config, store, DATE, name, name)).manifest.ref


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("extras", [{}, {"presence": True, "missing": "learned", "history": True}])
def test_merged_and_unmerged_snapshots_give_the_same_scores(config, store, aggregation, extras):
    same_merged_and_unmerged(config, store, {"aggregation": aggregation, **extras})


@pytest.mark.parametrize("extras", [{}, {"missing": "learned", "history": True}])
def test_products_of_each_snapshot_are_the_same_merged_and_unmerged(config, store, extras):
    model = same_merged_and_unmerged(
        config, store, {"aggregation": "concat", "inputs": "products", **extras}
    )
    assert model.product_norm.num_features == config.snapshots.count


def test_products_of_mixed_snapshots_are_refused(config):
    with pytest.raises(ValidationError, match="set aggregation: concat"):
        changed(config, snapshots={"inputs": "products"})


def same_merged_and_unmerged(config: Config, store: Store, snapshots: dict) -> CtrNet:
    config = changed(config, snapshots=snapshots, **FEW_STEPS)
    _, ref = both(config, store, f"{snapshots['aggregation']}{len(snapshots)}")
    model, inputs, vocabularies = load_network(store, ref)
    assert isinstance(model, CtrNet)
    day = prepare(config, "ads", [NEXT])[0]
    batch = encode(next(read_chunks([Part(day.path, "ads")], None, 10_000)), inputs, vocabularies)
    dense = load_file(store.path(ref) / "dense.safetensors")
    tpm = tuple(Ref.parse(text) for text in store.manifest(ref).parents["tpm"])
    assert len(tpm) == 2
    with torch.no_grad():
        merged = model(batch)
        entities = load_snapshots(Request(config, store, DATE), SnapshotSets((tpm,)), vocabularies)
        for side, entity in entities.items():
            prefix = f"snapshots.{side}.aggregator."
            state = {
                name[len(prefix) :]: value
                for name, value in dense.items()
                if name.startswith(prefix)
            }
            entity.aggregator.load_state_dict(state)
            model.snapshots[side] = entity
        unmerged = model(batch)
    assert torch.allclose(merged, unmerged, atol=1e-5)
    assert merged.std() > 0
    return model


@pytest.mark.parametrize(
    "network",
    [
        {"backbone": "deepfm"},
        {"backbone": "dcnv2"},
        {"backbone": "masknet"},
        {"history": "mean"},
        {"history": "intensity_attention"},
        {"history": "none"},
    ],
)
def test_every_backbone_goes_from_cpm_to_a_ctr(config, store, network):
    config = changed(config, network=network, **SHORT)
    _, ref = both(config, store, "_".join(network.values()))
    metrics = evaluate(config, store, ref, NEXT).metrics["all"]
    assert 0.4 < metrics["auc"] <= 1


@pytest.mark.parametrize("backbone", ["mlp", "star", "mmoe", "ple"])
def test_joint_training_reads_both_domains_and_scores_ads(config, store, backbone):
    config = changed(
        config,
        network={"backbone": backbone},
        snapshots={"count": 0},
        actr={"init": "none", "natural_days": 3},
    )
    outcome = train_actr(Request(config, store, DATE, f"joint_{backbone}", backbone))
    domains = {name.split("/")[0] for name in outcome.manifest.data_digests}
    assert domains == {"natural", "ads"}
    assert evaluate(config, store, outcome.manifest.ref, NEXT).metrics["all"]["auc"] > 0.4


@pytest.mark.parametrize("backbone", ["star", "mmoe", "ple"])
def test_a_multi_domain_backbone_tells_the_domains_apart(config, store, backbone):
    config = changed(
        config,
        network={"backbone": backbone},
        snapshots={"count": 0},
        actr={"init": "none", "natural_days": 3},
    )
    ref = train_actr(Request(config, store, DATE, f"joint_{backbone}", backbone)).manifest.ref
    model, inputs, vocabularies = load_network(store, ref)
    path = prepare(config, "ads", [NEXT])[0].path
    with torch.no_grad():
        scores = [
            model(
                encode(next(read_chunks([Part(path, domain)], None, 10_000)), inputs, vocabularies)
            )
            for domain in ("natural", "ads")
        ]
    assert not torch.allclose(*scores)


@pytest.mark.parametrize("kind", ["keep", "keep_added", "ctnet"])
def test_a_frozen_source_helps_without_being_copied_or_trained(config, store, kind):
    config = changed(config, snapshots={"count": 0}, actr={"init": "none", "source": kind})
    store.create_experiment(kind, "plain")
    manifest = train_actr(Request(config, store, DATE, kind, kind)).manifest
    assert manifest.parents["cpm"][0].startswith("plain/cpm")
    names = load_file(store.path(manifest.ref) / "dense.safetensors")
    assert not [name for name in names if name.startswith("source.")]
    model, _, _ = load_network(store, manifest.ref)
    source, _, _ = load_network(store, Ref.parse(manifest.parents["cpm"][0]))
    assert torch.equal(model.source.network.embeddings.table.weight, source.embeddings.table.weight)
    model.train()
    assert not model.source.network.training
    assert evaluate(config, store, manifest.ref, NEXT).metrics["all"]["auc"] > 0.4


@pytest.mark.parametrize(
    ("child", "message"),
    [
        ({"network": {"hidden": [24, 12]}}, "other settings of network.hidden"),
        ({"memory": {"enabled": True, "windows": [3, 10]}}, "other settings of memory"),
        ({"features": []}, "other settings of features"),
        ({"snapshots": {"count": 2}}, "0 snapshots, but snapshots.count is 2"),
    ],
)
@pytest.mark.parametrize("policy", ["from_cpm", "continue"])
def test_a_cpm_that_reads_otherwise_than_the_ads_model_does_not_teach_it(
    config, store, child, message, policy
):
    name = "unlike"
    config = changed(config, snapshots={"count": 0})
    if name not in store.experiments():
        store.create_experiment(name, "plain")  # whose CPM would teach
    taught = {"actr": {"init": "none", "source": "ctnet", "policy": policy}}
    unlike = config.with_overlay(taught | child, "test")
    with pytest.raises(ConfigError, match=f"{message}.*ecdctr train cpm --date {DATE}"):
        train_actr(Request(unlike, store, DATE, name, name))


def test_a_chain_that_is_taught_goes_on_and_asks_the_newest_cpm_about_all_that_it_knows(
    config, store
):
    """CTNet: both sides go on from day to day, and nothing of either is thrown away."""
    name = "ctnet_chain"
    config = changed(
        config,
        snapshots={"count": 0},
        cpm={"refresh": "incremental"},
        actr={"init": "none", "source": "ctnet", "policy": "continue"},
    )
    store.create_experiment(name, "plain")
    manifests = []
    for date in (DATE, NEXT):
        train_cpm(Request(config, store, date, name, name))
        manifests.append(train_actr(Request(config, store, date, name, name)).manifest)
    first, second = manifests
    assert second.parents["actr"] == [str(first.ref)]
    assert [Ref.parse(ref).date for ref in second.parents["cpm"]] == [NEXT]
    assert second.data_digests.keys() == {f"ads/{NEXT}"}
    model, _, vocabularies = load_network(store, second.ref)
    teacher, _, of_teacher = load_network(store, Ref.parse(second.parents["cpm"][0]))
    assert torch.equal(model.source.network.backbone.out.weight, teacher.backbone.out.weight)
    for field, ids in of_teacher.items():
        assert set(ids.values.to_pylist()) <= set(vocabularies[field].values.to_pylist()), field
    before = load_file(store.path(first.ref) / "dense.safetensors")
    assert before["adapters.maps.0.weight"].any()


def test_a_replay_share_draws_that_share_of_natural_content(config, store):
    days = prepare(config, "natural", [DATE])
    whole = sum(t.num_rows for t in read_chunks([Part(days[0].path, "natural")], ["click"], 1000))
    drawn = sum(
        t.num_rows
        for t in read_chunks([Part(days[0].path, "natural", 0.2)], ["click"], 1000, seed=3)
    )
    assert abs(drawn / whole - 0.2) < 0.1


def test_strong_consolidation_keeps_dense_weights_near_the_parent(config, store):
    def moved(strength: float) -> float:
        name = f"ewc{strength:.0f}"
        store.create_experiment(name, "plain")
        consolidated = changed(
            config, snapshots={"count": 0}, actr={"ewc": strength, "window_days": 3}
        )
        manifest = train_actr(Request(consolidated, store, DATE, name, name)).manifest
        before, after = (
            load_file(store.path(ref) / "dense.safetensors")["backbone.out.weight"]
            for ref in (Ref.parse(manifest.parents["cpm"][0]), manifest.ref)
        )
        return float((before - after).abs().max())

    assert moved(1e6) < 0.5 * moved(0)


def test_consolidation_reads_no_ad_that_is_held_out(config, store, monkeypatch):
    read = []

    def counted(model, batches, strength):
        read.append(sum(len(batch) for batch in batches))
        return lambda: torch.zeros(())

    monkeypatch.setattr(actr, "elastic_weight_consolidation", counted)
    store.create_experiment("held", "plain")
    settings = {"policy": "continue", "ewc": 1.0, "hold_out_every": 2}
    held = changed(config, snapshots={"count": 0}, actr=settings)
    for date in (DATE, NEXT):
        train_actr(Request(held, store, date, "held", "held"))
    day = prepare(held, "ads", [DATE])[0]
    assert read[-1] == pq.read_metadata(day.path).num_rows // 2


def test_fisher_information_of_a_logistic_model_agrees_with_finite_differences(config, store):
    cpm = store.require("cpm", DATE, "plain")
    model, inputs, vocabularies = load_network(store, cpm)
    day = prepare(config, "natural", [DATE])[0]
    batches = list(
        training_batches([Part(day.path, "natural")], inputs, vocabularies, Cut(64, 10_000, 1))
    )[:2]
    penalty = elastic_weight_consolidation(model, batches, strength=2.0)
    assert penalty().item() == 0
    bias, step = model.backbone.out.bias, 1e-3
    gradients = []
    for batch in batches:
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                bias += sign * step
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    model(batch), batch.label
                )
                bias -= sign * step
            values.append(loss.item())
        gradients.append((values[0] - values[1]) / (2 * step))
    fisher = np.mean([gradient**2 * 64 for gradient in gradients])
    with torch.no_grad():
        bias += 0.5
    assert penalty().item() == pytest.approx(fisher * 0.25, rel=0.05)


def test_bfloat16_learns_what_float32_learns(config, store, monkeypatch, caplog):
    monkeypatch.setattr("ecdctr.training.precision.multiplies_bfloat16", lambda: False)
    losses = {}
    for precision in ("float32", "bfloat16"):
        changed_config = changed(config, snapshots={"count": 0}, cpm={"precision": precision})
        request = Request(changed_config, store, DATE, precision, precision)
        losses[precision] = train("cpm", request).manifest.metrics["train_loss"]
        slow = "bfloat16 on a processor that has no products of bfloat16" in caplog.text
        assert slow == (precision == "bfloat16")
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.01)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_network_learns_what_the_plain_one_learns(config, store):
    losses = {}
    for compiled in (False, True):
        cpm = {"compile": compiled, "batch_size": 512}
        name = f"compiled-{compiled}".lower()
        manifest = train_cpm(Request(changed(config, cpm=cpm), store, DATE, name, name)).manifest
        losses[compiled] = manifest.metrics["train_loss"]
    assert losses[True] == pytest.approx(losses[False], abs=1e-4)


def test_the_compiler_may_ask_modules_of_airflow_for_any_name():
    """It does where Airflow was loaded before torch: whose name is it that I pickle?"""
    for name in ("airflow.utils.timezone", "airflow.utils.entry_points"):
        assert getattr(pytest.importorskip(name), "torch", None) is None


def test_carried_moments_are_those_that_the_parent_saved(config, store):
    saving = changed(config, snapshots={"count": 0}, cpm={"save_optimizer": True})
    carrying = changed(saving, actr={"carry_optimizer": True})
    cpm, carried = both(carrying, store, "carry")
    fresh = train_actr(Request(saving, store, DATE, "carry", "carry")).manifest.ref
    state = load_file(store.path(cpm) / "optimizer.safetensors")
    assert (
        state["tables/item_id/exp_avg"].shape
        == load_file(store.path(cpm) / "embeddings.safetensors")["item_id"].shape
    )
    first, second = (load_file(store.path(ref) / "dense.safetensors") for ref in (carried, fresh))
    assert not torch.equal(first["backbone.out.weight"], second["backbone.out.weight"])


def test_moments_that_nobody_saved_are_an_error_before_training(config, store):
    store.create_experiment("nomoments", "plain")
    carrying = changed(config, snapshots={"count": 0}, actr={"carry_optimizer": True})
    with pytest.raises(ConfigError, match="no optimizer state"):
        train_actr(Request(carrying, store, DATE, "nomoments", "nomoments"))


def test_a_network_from_nothing_can_predict_the_click_rate_at_first(config, store):
    """With steps too small to learn anything, all that is left is where it starts."""
    calibrations = []
    for start in (False, True):
        actr = {"init": "none", "start_at_rate": start, "lr_embedding": 1e-9, "lr_dense": 1e-9}
        still = changed(config, snapshots={"count": 0}, actr=actr)
        name = f"start-{int(start)}"
        manifest = train_actr(Request(still, store, DATE, name, name)).manifest
        calibrations.append(
            evaluate(still, store, manifest.ref, NEXT).metrics["all"]["calibration"]
        )
    assert calibrations[0] > 2
    assert 0.7 < calibrations[1] < 1.4


@pytest.mark.parametrize("batch_norm", ["keep", "reset_all"])
def test_a_network_from_cpm_can_predict_the_click_rate_of_ads_at_first(config, store, batch_norm):
    measured = []
    for start in (False, True):
        actr = {"start_at_rate": start, "batch_norm": batch_norm}
        actr |= {"lr_embedding": 1e-9, "lr_dense": 1e-9}
        still = changed(config, snapshots={"count": 0}, actr=actr)
        name = f"from-cpm-{batch_norm}-{int(start)}"
        store.create_experiment(name, "plain")
        manifest = train_actr(Request(still, store, DATE, name, name)).manifest
        measured.append(evaluate(still, store, manifest.ref, NEXT).metrics["all"])
    before, after = measured
    assert abs(np.log(after["calibration"])) < abs(np.log(before["calibration"])) / 2


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"network": {"backbone": "star"}}, "both domains"),
        ({"actr": {"natural_share": 0.5}}, "natural_days"),
        ({"actr": {"source": "keep"}}, "init: none"),
        ({"actr": {"init": "none", "ewc": 1.0}}, "parent"),
        (
            {"actr": {"init": "none", "source": "keep"}, "network": {"backbone": "dcnv2"}},
            "backbone: mlp",
        ),
        ({"snapshots": {"history": True}, "network": {"history": "none"}}, "click history"),
        (
            {"actr": {"init": "none", "start_at_rate": True}, "network": {"backbone": "deepfm"}},
            "mlp, dcnv2 or masknet",
        ),
        ({"cpm": {"refresh": "window", "carry_optimizer": True}}, "from scratch"),
        ({"cpm": {"refresh": "window", "first_window_days": 9}}, "refresh: incremental"),
        ({"airflow": {"kubernetes": {"spark": {}}}}, r"set data\.engine: spark"),
        (
            {
                "airflow": {"kubernetes": {"spark": {}}},
                "data": {"engine": "spark", "root": "s3://b/d"},
            },
            "ECDCTR_CACHE",
        ),
    ],
)
def test_options_that_cannot_hold_are_refused_at_load(config, sections, message):
    with pytest.raises(ValueError, match=message):
        changed(config, **sections)


def test_a_share_of_the_ads_draws_users_and_times_whole_and_always_the_same(config):
    (day,) = prepare(config, "ads", [DATE])
    whole = next(read_chunks([Part(day.path, "ads")], None, 10_000))
    columns = ["user_id", "item_id"]
    drawn = [
        next(read_chunks([Part(day.path, "ads", moments=0.5)], None, 10_000, seed=seed))
        for seed in (1, 2)
    ]
    assert drawn[0].equals(drawn[1])
    assert 0.3 < drawn[0].num_rows / whole.num_rows < 0.7
    few = next(read_chunks([Part(day.path, "ads", moments=0.5)], columns, 10_000))
    assert few.select(columns).equals(drawn[0].select(columns))
    assert "ts" not in few.column_names
    kept = set(zip(drawn[0]["user_id"].to_pylist(), drawn[0]["ts"].to_pylist(), strict=True))
    left = [
        key
        for key in zip(whole["user_id"].to_pylist(), whole["ts"].to_pylist(), strict=True)
        if key in kept
    ]
    assert len(left) == drawn[0].num_rows, "what is shown together is drawn together"
    (part,) = training_parts(
        changed(config, actr={"ads_share": 0.5}),
        {("ads", DATE): day},
        SnapshotSets(),
    )
    assert part.moments == 0.5


def test_the_rate_that_a_network_starts_at_is_that_of_the_ads_it_learns_from(config, tmp_path):
    """Rows that are held out, here all clicked, are not looked at."""
    path = tmp_path / "day.parquet"
    rows = {"user_id": list(range(8)), "click": [1, 0, 1, 0, 1, 1, 1, 0]}
    pq.write_table(pa.table(rows), path)
    held_out = changed(config, actr={"hold_out_every": 2})
    days = {("ads", DATE): SimpleNamespace(path=path, date=DATE)}
    rate = click_rate(held_out, days, SnapshotSets())
    assert rate == 1 / 4
