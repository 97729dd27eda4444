"""A bundle that remembers: raw requests score as preparation and the network do."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecdctr.config import Config
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.serving import batch
from ecdctr.serving.export import export_bundle
from ecdctr.serving.rules import RequestError
from ecdctr.serving.scorer import Scorer
from ecdctr.serving.service import SERVES, Limits, Service
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.serving.logged import logged_requests

NEXT = DATE + dt.timedelta(days=1)
ONE = {"item_id": 1, "ts": 1e9, "domain": "ads", "click": 1}
THREE_ON = DATE + dt.timedelta(days=3)


@pytest.fixture(scope="module")
def remembering(config: Config) -> Config:
    memory = {"enabled": True, "windows": [3, 10], "max_pairs": 50}
    return config.with_overlay({"memory": memory}, "test")


@pytest.fixture(scope="module")
def trained(remembering: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Ref]:
    store = Store(tmp_path_factory.mktemp("store"))
    for days in (7, 0):  # the days of training know the first
        train_tpm(Request(remembering, store, DATE - dt.timedelta(days=days)))
    request = Request(remembering, store, DATE)
    train_cpm(request)
    return store, train_actr(request).manifest.ref


@pytest.fixture(scope="module")
def bundle(trained: tuple[Store, Ref], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "bundle"
    export_bundle(*trained, folder)
    return folder


@pytest.fixture(scope="module")
def next_days(remembering: Config) -> list[dict[str, Any]]:
    """Return what was logged on the day after the table."""
    return logged_requests(remembering, NEXT)


@pytest.mark.parametrize("date", [NEXT, THREE_ON])
def test_raw_logged_requests_a_day_score_as_its_prepared_examples(
    remembering: Config, bundle: Path, next_days: list[dict[str, Any]], date: dt.date
):
    """The day after the table, and some days later, when requests bring more days."""
    scorer = Scorer(bundle)
    (day,) = prepare(remembering, "ads", [date])
    (examples,) = next(read_chunks([Part(day.path, "ads")], None, 100_000)).to_batches()
    expected = scorer.run(batch.encode(scorer, examples))
    requests = next_days if date == NEXT else logged_requests(remembering, date)
    assert len(requests) == len(expected)
    prepared = batch.encode(scorer, examples)["numeric"]
    count = sum(name.startswith("memory_") for name in scorer.columns)
    assert count == 2 * 2 * 6
    for row, request in enumerate(requests[:150]):
        arrays = scorer.encode(request)
        of_row = prepared[row, -count:]
        assert arrays["numeric"][0, -count:] == pytest.approx(of_row, abs=1e-6, nan_ok=True)
        assert scorer.run(arrays)[0] == pytest.approx(expected[row], abs=1e-5)
    some = prepared[:, -count + 3]  # impressions of the item in natural content, 10 days
    assert (some > 0).mean() > 0.05, "there is something to remember"


def test_a_left_out_count_is_unknown_and_an_empty_list_is_none(
    bundle: Path, next_days: list[dict[str, Any]]
):
    scorer = Scorer(bundle)
    request = next_days[0]
    none, unknown = request | {"recent": []}, request | {"recent": None}
    left_out = {key: value for key, value in request.items() if key != "recent"}
    count = 2 * 2 * 6
    assert np.isfinite(scorer.encode(none)["numeric"][:, -count:]).all()
    for one in (unknown, left_out, request | {"user_id": None}):
        assert np.isnan(scorer.encode(one)["numeric"][:, -count:]).all()
        assert np.isfinite(scorer.score(one)).all()
    nobody = scorer.encode(request | {"user_id": 10**9, "recent": []})["numeric"][0, -count:]
    assert nobody[0] == nobody[1] == 0, "a user without memory was shown nothing"
    strange = request | {"candidates": [{"item_id": request["candidates"][0]["item_id"]}]}
    of_category = scorer.encode(strange | {"recent": []})["numeric"][0, -count // 2 :]
    assert np.isnan(of_category).all(), "an ad without its category"


@pytest.mark.parametrize(
    ("recent", "message"),
    [
        ({"item_id": 1}, "recent: expected a list of impressions, found an object"),
        ([{"item_id": 1, "ts": 0}], r"recent\[0\]: expected an impression with click, domain"),
        ([ONE | {"ts": "x"}], r"recent\[0\]\.ts: expected seconds since 1970"),
        ([ONE | {"domain": "radio"}], r"recent\[0\]\.domain: expected natural or ads"),
        ([ONE | {"click": 2}], r"recent\[0\]\.click: expected 0 or 1"),
        ([ONE | {"item_id": None}], r"recent\[0\]\.item_id: expected an integer"),
        ([ONE | {"ts": 4e9}], r"recent\[0\]\.ts: expected nothing after ts"),
        ([ONE], f"expected a time after {DATE}, up to which this bundle remembers"),
    ],
)
def test_bad_recent_impressions_are_refused_in_a_sentence(
    bundle: Path, next_days: list[dict[str, Any]], recent: Any, message: str
):
    request = next_days[0] | {"recent": recent}
    with pytest.raises(RequestError, match=message):
        Scorer(bundle).score(request)


@pytest.mark.parametrize("name", ["item_id.counts.npy", "item_id.values.npy"])
@pytest.mark.parametrize("place", ["memory", "selftest_memory"])
def test_an_array_of_the_memory_that_is_not_what_was_exported_is_named(
    bundle: Path, tmp_path: Path, place: str, name: str
):
    """One byte of the last number: the file has its size and its form."""
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    path = damaged / place / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(EcdctrError, match=f"is damaged: {place}/{name} cannot be used .*SHA-256"):
        Scorer(damaged)


def test_a_missing_table_and_a_version_without_one_are_told(
    remembering: Config, trained: tuple[Store, Ref], bundle: Path, tmp_path: Path
):
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    (damaged / "memory" / "item_id.counts.npy").unlink()
    with pytest.raises(EcdctrError, match=r"no whole bundle: memory/item_id.counts.npy is missing"):
        Scorer(damaged)


def test_an_ads_model_without_tpm_brings_the_memory_itself(
    remembering: Config, trained: tuple[Store, Ref], tmp_path: Path
):
    store, _ = trained
    alone = remembering.with_overlay({"snapshots": {"count": 0}, "actr": {"init": "none"}}, "x")
    ref = train_actr(Request(alone, store, DATE, "alone", "x")).manifest.ref
    export_bundle(store, ref, tmp_path / "bundle")
    scorer = Scorer(tmp_path / "bundle")
    (day,) = prepare(alone, "ads", [THREE_ON])
    (examples,) = next(read_chunks([Part(day.path, "ads")], None, 100_000)).to_batches()
    expected = scorer.run(batch.encode(scorer, examples))
    scores = [scorer.run(scorer.encode(one))[0] for one in logged_requests(alone, THREE_ON)[:100]]
    assert scores == pytest.approx(expected[:100], abs=1e-5)


def test_a_tpm_that_remembers_nothing_is_told(config: Config, remembering: Config, tmp_path: Path):
    store = Store(tmp_path / "store")
    train_tpm(Request(config, store, DATE - dt.timedelta(days=1)))
    alone = remembering.with_overlay({"actr": {"init": "none"}}, "x")
    ref = train_actr(Request(alone, store, DATE, "own", "x")).manifest.ref
    with pytest.raises(
        ConfigError, match=r"reads the memory of users, but production/tpm/.* has none"
    ):
        export_bundle(store, ref, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("of_tpm", "name"),
    [({"features": []}, "features"), ({"windows": [4, 12]}, "windows"), ({"max_pairs": 2}, "max")],
)
def test_a_tpm_that_remembers_otherwise_is_refused_and_nothing_is_silently_zero(
    remembering: Config, tmp_path: Path, of_tpm: dict[str, Any], name: str
):
    store = Store(tmp_path / "store")
    other = remembering.with_overlay({"memory": of_tpm}, "x")
    train_tpm(Request(other, store, DATE - dt.timedelta(days=1)))
    alone = remembering.with_overlay({"actr": {"init": "none"}}, "x")
    ref = train_actr(Request(alone, store, DATE, "own", "x")).manifest.ref
    with pytest.raises(ConfigError, match=rf"production/tpm/.* other settings of memory\.{name}"):
        export_bundle(store, ref, tmp_path / "bundle")


def test_a_table_older_than_any_in_training_is_told_once(bundle: Path, next_days, caplog):
    """Its windows begin where its own end does, so that later counts are of longer ones."""
    scorer = Scorer(bundle)
    request = next_days[0]
    for days in (6, 7, 8):
        scorer.score(request | {"ts": request["ts"] + days * 86400, "recent": []})
        told = [one for one in caplog.records if "remembers users up to" in one.getMessage()]
        assert len(told) == (days > 6), f"{days + 1} days after the table"
    assert f"up to {DATE}" in told[0].getMessage()


def test_a_service_tells_up_to_when_its_version_remembers_users(bundle: Path):
    service, remembers, forgets = Service(Limits()), Scorer(bundle), Scorer(bundle)
    forgets._memory = None
    series = "ecdctr_memory_until_timestamp_seconds", {"role": SERVES}
    service.swap(SERVES, remembers)
    until = json.loads((bundle / "bundle.json").read_bytes())["memory"]["until"]
    end = dt.datetime.combine(dt.date.fromisoformat(until), dt.time(), dt.UTC) + dt.timedelta(1)
    assert service.metrics.registry.get_sample_value(*series) == end.timestamp()
    service.swap(SERVES, forgets)
    assert service.metrics.registry.get_sample_value(*series) is None
    service.swap(SERVES, remembers)
    assert service.metrics.registry.get_sample_value(*series) == end.timestamp()
