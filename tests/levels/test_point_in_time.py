"""Each day of training is given the TPM snapshots that were known the day before.

As serving would.
"""

from __future__ import annotations

import datetime as dt
import math
import random
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ecdctr.config import Actr, Config, Cpm, Data, Level, Network, Snapshots, Tpm
from ecdctr.errors import ConfigError, StoreError, TrainingError
from ecdctr.impressions.days import window
from ecdctr.levels import train
from ecdctr.levels.actr import Actr as ActrSteps
from ecdctr.levels.cpm import Cpm as CpmSteps
from ecdctr.levels.parents import load_snapshots
from ecdctr.levels.request import Request
from ecdctr.levels.restore import load_network
from ecdctr.levels.run import build, gather
from ecdctr.models.network import CtrNet
from ecdctr.store.manifest import Manifest, Ref
from ecdctr.store.retention import removable
from ecdctr.store.store import Store
from ecdctr.training import loop
from ecdctr.training.workers import ALONE
from tests.conftest import DATE
from tests.make import changed

DAY = dt.timedelta(days=1)
USERS = 200
FIRST, LAST = dt.date(2026, 3, 1), dt.date(2026, 3, 12)


def drawn_by_coin(root: Path) -> None:
    """Six impressions a user and day, all clicked or none.

    The day's label can be remembered, and not foretold.
    """
    draw = random.Random(1)  # coins, no secrets
    for domain in ("natural", "ads"):
        for date in window(LAST, (LAST - FIRST).days + 1):
            start = dt.datetime.combine(date, dt.time(8), dt.UTC)
            rows = []
            for user in range(USERS):
                click = draw.randrange(2)
                rows += [
                    {"user_id": user, "item_id": item, "ts": start, "click": click}
                    for item in draw.sample(range(20), 6)
                ]
            draw.shuffle(rows)
            folder = root / f"domain={domain}" / f"date={date}"
            folder.mkdir(parents=True)
            schema = pa.schema(
                {
                    "user_id": pa.int64(),
                    "item_id": pa.int64(),
                    "ts": pa.timestamp("us", "UTC"),
                    "click": pa.int8(),
                }
            )
            pq.write_table(pa.Table.from_pylist(rows, schema), folder / "a.parquet")


@pytest.fixture(scope="module")
def coins(tmp_path_factory: pytest.TempPathFactory) -> Config:
    root = tmp_path_factory.mktemp("coins")
    drawn_by_coin(root / "data")
    learning = {"batch_size": 128, "lr_embedding": 0.05, "lr_dense": 0.01}
    return Config(
        data=Data(root=root / "data", prepared=root / "prepared", lookback_days=2),
        tpm=Tpm(window_days=1, epochs=40, embedding_dim=8, **learning),
        snapshots=Snapshots(count=1, aggregation="newest"),
        network=Network(embedding_dim=4, hidden=(16,), history="none"),
        cpm=Cpm(window_days=10, batch_size=128, lr_embedding=1e-4, lr_dense=0.005),
        actr=Actr(window_days=10, batch_size=128, lr_embedding=1e-4, lr_dense=0.005),
    )


def natural_loss(config: Config, store: Store, name: str) -> float:
    manifest = train("cpm", Request(config, store, LAST, name, name)).manifest
    return manifest.metrics["train_loss"]


def test_a_tpm_that_remembers_labels_tells_none_of_them(coins: Config, tmp_path: Path):
    """Where a day's label is a coin's, whoever is better than the coin has seen it."""
    store = Store(tmp_path)
    for date in window(LAST, 12):
        train("tpm", Request(coins, store, date))
    honest = natural_loss(coins, store, "honest")
    assert honest > math.log(2) - 0.01
    all_by_day = changed(coins, "snapshots", point_in_time=False)
    newest_only = changed(all_by_day, "cpm", window_days=1)
    assert natural_loss(newest_only, store, "paper") < math.log(2) - 0.02, "the test sees a leak"


@pytest.fixture(scope="module")
def weekly(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, Store]:
    """TPM of every second day, and the settings that take two of them."""
    store = Store(tmp_path_factory.mktemp("store"))
    config = changed(config, "snapshots", count=2, stride_days=2)
    for back in (9, 7, 5, 3, 1):
        train("tpm", Request(config, store, DATE - dt.timedelta(days=back)))
    return config, store


def network_of(steps: CpmSteps | ActrSteps) -> tuple[CtrNet, dict]:
    gathered = gather(steps, ALONE)
    built = build(steps, gathered)
    return built.start.model, built.vocabularies


def test_a_past_day_is_trained_with_the_very_vectors_that_served_it(weekly):
    """What CPM of DATE gives an impression of day t.

    And what CPM of the day before t serves it with.
    """
    config, store = weekly
    request = Request(config, store, DATE)
    plan = CpmSteps(request).plan()
    training, vocabularies = network_of(CpmSteps(request))
    assert len(plan.snapshots.sets) >= 3
    for day in plan.dates:
        served_by = replace(request, date=day - DAY)
        serving, of_serving = network_of(CpmSteps(served_by))
        for side, name in (("user", "user_id"), ("item", "item_id")):
            ids = of_serving[name].values
            numbers = torch.full((len(ids),), plan.snapshots.of_day[day])
            rows = [torch.from_numpy(v[name].lookup(ids)) for v in (vocabularies, of_serving)]
            ours, theirs = training.snapshots[side], serving.snapshots[side]
            with torch.no_grad():
                theirs.aggregator.load_state_dict(ours.aggregator.state_dict())
                given, served = ours(rows[0], numbers), theirs(rows[1], torch.zeros_like(numbers))
            assert torch.equal(given, served), (day, side)
            assert given.abs().sum() > 0


def test_a_day_never_knows_a_version_that_has_read_it(weekly):
    config, store = weekly
    for steps in (CpmSteps(Request(config, store, DATE)),):
        snapshots = steps.plan().snapshots
        for day, number in snapshots.of_day.items():
            assert all(ref.date < day for ref in snapshots.sets[number])
        assert snapshots.sets[0][0].date == DATE - DAY


def test_the_merged_tables_of_every_set_give_the_scores_of_the_unmerged_ones(weekly):
    config, store = weekly
    entities = load_snapshots(Request(config, store, DATE), *_sets_and_vocabularies(config, store))
    for entity in entities.values():
        rows = torch.arange(entity.present.shape[1])
        several = [torch.full_like(rows, number) for number in range(len(entity.sets))]
        with torch.no_grad():
            before = [entity(rows, sets) for sets in several]
            history = entity(rows[:6].view(3, 2), several[1][:3])
        entity.merge()
        for sets, expected in zip(several, before, strict=True):
            assert torch.allclose(entity(rows, sets), expected, atol=1e-6)
        assert torch.allclose(entity(rows[:6].view(3, 2), several[1][:3]), history, atol=1e-6)
        entity.merge(serving_only=True)
        assert torch.allclose(entity(rows, several[0]), before[0], atol=1e-6)


def _sets_and_vocabularies(config: Config, store: Store):
    steps = CpmSteps(Request(config, store, DATE))
    return steps.plan().snapshots, network_of(steps)[1]


def levels(config: Config, store: Store, name: str, **actr: object) -> Manifest:
    config = changed(config, "actr", **actr)
    train("cpm", Request(config, store, DATE, name, name))
    return train("actr", Request(config, store, DATE, name, name)).manifest


@pytest.mark.parametrize(
    "actr",
    [
        {},
        {"freeze_aggregator": False},
        {"ewc": 10.0},
        {"natural_days": 2},
        {"init": "none"},
        {"init": "none", "source": "keep"},
        {"init": "none", "source": "keep_added"},
        {"init": "none", "source": "ctnet"},
    ],
    ids=lambda actr: "-".join(actr) or "plain",
)
def test_every_form_of_the_ads_model_serves_the_newest_set(weekly, actr, tmp_path):
    config, store = weekly
    name = "_".join(actr) + str(actr.get("source", "")) if actr else "plain"
    manifest = levels(config, store, name, **actr)
    used = [Ref.parse(text).date for text in manifest.parents["tpm"]]
    assert used == sorted(used, reverse=True)
    assert used[0] == DATE - DAY
    assert len(used) >= 4, "lineage holds the versions of the days of training"
    model, _, _ = load_network(store, manifest.ref)
    assert isinstance(model, CtrNet)
    assert all(len(entity.merged) == 1 for entity in model.snapshots.values())


def test_a_chain_of_the_ads_model_takes_the_newest_set_each_day(config, store):
    config = changed(config, "snapshots", count=1, stride_days=2)
    config = changed(config, "actr", policy="continue")
    for back in (4, 0):
        train("tpm", Request(config, store, DATE - dt.timedelta(days=back)))
    parents = []
    for date in (DATE - DAY, DATE):
        train("cpm", Request(config, store, date))
        manifest = train("actr", Request(config, store, date)).manifest
        parents.append([Ref.parse(text).date for text in manifest.parents["tpm"]])
    assert parents == [[DATE - dt.timedelta(days=4)], [DATE, DATE - dt.timedelta(days=4)]]


def test_an_interrupted_training_over_several_sets_ends_in_the_same_weights(
    weekly, monkeypatch, tmp_path
):
    config, store = weekly
    config = changed(config, "cpm", checkpoint_seconds=0.0, lr_final=0.0)
    whole = train("cpm", Request(config, store, DATE, "whole", "whole")).manifest
    settle = loop._Account.settle

    def broken(account, where):
        settle(account, where)
        if where == "about step 20":
            raise TrainingError("killed")

    monkeypatch.setattr(loop._Account, "settle", broken)
    asked = Request(config, store, DATE, "broken", "whole")
    with pytest.raises(TrainingError, match="killed"):
        train("cpm", asked)
    monkeypatch.setattr(loop._Account, "settle", settle)
    assert train("cpm", asked).manifest.files == whole.files


@pytest.mark.parametrize("level", ["cpm", "actr"])
def test_without_a_tpm_that_the_newest_day_may_know_nothing_is_trained(config, store, level: Level):
    config = changed(config, "actr", init="none")
    train("tpm", Request(config, store, DATE))
    with pytest.raises(StoreError, match=f"on or before {DATE - DAY}.*ecdctr train tpm"):
        train(level, Request(config, store, DATE))


def test_a_cpm_of_the_other_form_is_refused_with_what_to_do(weekly):
    config, store = weekly
    paper = changed(config, "snapshots", point_in_time=False)
    train("cpm", Request(paper, store, DATE, "other", "other"))
    with pytest.raises(ConfigError, match="point_in_time: false, but the configuration says true"):
        train("actr", Request(config, store, DATE, "other", "other"))


def test_retention_keeps_what_the_days_of_the_next_training_will_know(weekly):
    config, store = weekly
    assert config.snapshot_days == 2 * 2 + 5
    assert [
        one.ref for one in removable(store, 1, config.snapshot_days) if one.ref.level == "tpm"
    ] == []
