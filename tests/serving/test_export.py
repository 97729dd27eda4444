"""The serving bundle: same scores as the trainer, without torch, and clear refusals."""

from __future__ import annotations

import copy
import datetime as dt
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.errors import ConfigError, ContractError, EcdctrError
from ecdctr.evaluation.evaluate import score
from ecdctr.examples.histories import clicks_path
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.days import window
from ecdctr.levels.actr import train_actr
from ecdctr.levels.request import Request
from ecdctr.levels.restore import load_network
from ecdctr.serving import bundle, export
from ecdctr.serving.batch import score_parquet
from ecdctr.serving.bundle import Bundle, sealed
from ecdctr.serving.export import export_bundle
from ecdctr.serving.graph import INPUTS
from ecdctr.serving.rules import RequestError
from ecdctr.serving.scorer import Scorer
from ecdctr.serving.tables import compact
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.serving.logged import logged_requests, read_log
from tests.serving.schemas import of_schema

PLACES = [
    ("ts",),
    ("user_id",),
    ("user",),
    ("context",),
    ("history",),
    ("candidates",),
    ("history", 0),
    ("history", 0, "ts"),
    ("history", 0, "item_id"),
    ("candidates", 0),
    ("candidates", 0, "item_id"),
    ("candidates", 0, "tags"),
    ("candidates", 0, "price"),
    ("user", "city"),
    ("user", "user_clicks"),
    ("context", "slot"),
]
NEXT = DATE + dt.timedelta(days=1)


@pytest.fixture(scope="module")
def exported(trained, shipped, tmp_path_factory):
    """Return a bundle of an A-CTR with snapshots, its store and its version."""
    store = Store(shutil.copytree(trained, tmp_path_factory.mktemp("serving") / "store"))
    return shipped, store, store.require("actr", DATE)


@pytest.fixture(scope="module")
def scorer(exported) -> Scorer:
    return Scorer(exported[0])


@pytest.fixture(scope="module")
def requests(config) -> list[dict]:
    return logged_requests(config, NEXT)


@pytest.fixture(scope="module")
def valid(requests) -> dict:
    return next(r for r in requests if any(c["ts"] < r["ts"] for c in r["history"]))


def test_a_bundle_scores_the_next_day_as_the_trainer_does(config, exported, scorer, requests):
    """The day after has users, items and values that the version never saw."""
    _, store, ref = exported
    expected = score(config, store, ref, "ads", NEXT).scores
    scores = np.array([scorer.score(request)[0] for request in requests])
    assert np.abs(scores - expected).max() < 1e-5
    assert expected.std() > 0


def test_a_parquet_file_scores_as_the_trainer_does(config, exported, tmp_path):
    bundle, store, ref = exported
    source = prepare(config, "ads", [NEXT])[0].path
    target = tmp_path / "new" / "scores.parquet"
    command = [sys.executable, "-m", "ecdctr.cli", "--json", "score", "--bundle", str(bundle)]
    command += ["--examples", str(source), "--out", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    scored, read = pq.read_table(target), pq.read_table(source, partitioning=None)
    expected = score(config, store, ref, "ads", NEXT).scores
    assert np.abs(scored.column("probability").to_numpy() - expected).max() < 1e-5
    assert scored.column("user_id").equals(read.column("user_id"))
    assert scored.schema.metadata[b"ecdctr.version"] == str(ref).encode()


def test_a_parquet_file_that_does_not_fit_is_refused_and_leaves_nothing(config, scorer, tmp_path):
    table = pq.read_table(prepare(config, "ads", [NEXT])[0].path, partitioning=None)
    source, target = tmp_path / "examples.parquet", tmp_path / "scores.parquet"
    pq.write_table(table.drop_columns(["history_start", "slot"]), source)
    with pytest.raises(ContractError, match="lacks history_start, slot, which"):
        score_parquet(scorer, source, target)
    named = table.set_column(
        table.schema.get_field_index("user_id"), "user_id", pa.array(["a"] * len(table))
    )
    pq.write_table(named, source)
    with pytest.raises(
        ContractError, match=r"column user_id: expected integers of 64 bits, found string"
    ):
        score_parquet(scorer, source, target)
    source.write_bytes(b"no parquet")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        score_parquet(scorer, source, target)
    assert list(tmp_path.iterdir()) == [source]


def test_examples_without_their_clicks_or_with_those_of_another_day_are_refused(
    config, scorer, tmp_path
):
    source, target = tmp_path / "examples.parquet", tmp_path / "scores.parquet"
    day = prepare(config, "ads", [NEXT])[0].path
    shutil.copy(day, source)
    with pytest.raises(ContractError, match=r"lacks the clicks .* examples\.clicks\.parquet"):
        score_parquet(scorer, source, target)
    clicks = pq.read_table(clicks_path(day), partitioning=None)
    for broken, message in {
        "few": r"its rows look back on clicks from 0 to [\d,]+, found 3; keep",
        "item_id": "clicks.parquet lacks item_id, which",
        "ts": r"clicks.parquet: column ts: expected times, found int64",
    }.items():
        changed = clicks.slice(0, 3) if broken == "few" else clicks
        changed = changed.drop_columns(["item_id"]) if broken == "item_id" else changed
        if broken == "ts":
            place = clicks.schema.get_field_index("ts")
            changed = clicks.set_column(place, "ts", clicks["ts"].cast(pa.int64()))
        pq.write_table(changed, clicks_path(source))
        with pytest.raises(ContractError, match=message):
            score_parquet(scorer, source, target)
    clicks_path(source).write_bytes(b"no parquet")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        score_parquet(scorer, source, target)
    assert not target.exists()


ODD = {  # a column of examples by a type that preparation never writes
    "user_id": (pa.list_(pa.int64()), pa.struct([("a", pa.int64())]), pa.uint64(), pa.float64(),
                pa.bool_()),
    "slot": (pa.binary(), pa.timestamp("us"), pa.decimal128(10, 2)),
    "tags": (pa.string(), pa.int64(), pa.list_(pa.list_(pa.int64())), pa.list_(pa.float64()),
             pa.map_(pa.string(), pa.int64())),
    "price": (pa.string(), pa.list_(pa.float64()), pa.decimal128(10, 2), pa.timestamp("us"),
              pa.null()),
    "history_start": (pa.float32(), pa.list_(pa.int64()), pa.null()),
    "history_length": (pa.string(), pa.bool_()),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in ODD.items() for kind in kinds], ids=str
)
def test_columns_of_types_that_preparation_never_writes_are_refused(
    config, scorer, tmp_path, name, kind
):
    table = pq.read_table(prepare(config, "ads", [NEXT])[0].path, partitioning=None)
    odd = pa.nulls(len(table), kind)
    table = table.set_column(table.schema.get_field_index(name), name, odd)
    source, target = tmp_path / "examples.parquet", tmp_path / "scores.parquet"
    pq.write_table(table, source)
    with pytest.raises(
        ContractError, match=rf"examples\.parquet: column {name}: expected .*, found"
    ):
        score_parquet(scorer, source, target)
    assert not target.exists()


@pytest.mark.parametrize("name", ["price", "user_ctr"])
@pytest.mark.parametrize("number", [None, math.nan, math.inf])
def test_numbers_of_examples_that_preparation_never_writes_are_refused(
    config, scorer, tmp_path, name, number
):
    """The graph takes the mean for what a request leaves out; examples leave nothing out."""
    day = prepare(config, "ads", [NEXT])[0].path
    table = pq.read_table(day, partitioning=None)
    source, target = tmp_path / "e.parquet", tmp_path / "s.parquet"
    shutil.copy(clicks_path(day), clicks_path(source))
    field = table.schema.field(name)
    numbers = [number, *table[name].to_pylist()[1:]]
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, field, pa.array(numbers, field.type)), source)
    with pytest.raises(
        ContractError, match=rf"e.parquet: column {name}: expected finite numbers, found 1 other"
    ):
        score_parquet(scorer, source, target)
    assert not target.exists()


def test_numbers_of_examples_may_be_of_any_width(config, scorer, tmp_path):
    table = pq.read_table(prepare(config, "ads", [NEXT])[0].path, partitioning=None)
    scores = []
    shutil.copy(clicks_path(prepare(config, "ads", [NEXT])[0].path), tmp_path / "e.clicks.parquet")
    for kind in (pa.float32(), pa.float64()):
        place = table.schema.get_field_index("price")
        pq.write_table(
            table.set_column(place, "price", table["price"].cast(kind)), tmp_path / "e.parquet"
        )
        score_parquet(scorer, tmp_path / "e.parquet", tmp_path / "s.parquet")
        scores.append(pq.read_table(tmp_path / "s.parquet")["probability"].to_pylist())
    assert scores[0] == scores[1]


def test_candidates_of_one_request_score_as_one_by_one(scorer, requests):
    requests = requests[:7]
    many = requests[0] | {"candidates": [request["candidates"][0] for request in requests]}
    single = [
        scorer.score(requests[0] | {"candidates": request["candidates"]})[0] for request in requests
    ]
    assert scorer.score(many) == pytest.approx(single, abs=1e-6)


def test_unknown_and_missing_values_score_as_unknown(scorer, requests):
    request = requests[0]
    unseen = scorer.score(request | {"user_id": -5})
    assert unseen == pytest.approx(scorer.score(request | {"user_id": None}))
    assert np.isfinite(scorer.score({"ts": request["ts"], "candidates": [{}]})).all()


def test_clicks_at_or_after_the_moment_are_not_read(scorer, valid):
    request = valid
    later = [
        {"item_id": request["history"][0]["item_id"], "ts": request["ts"] + s} for s in (0, 60)
    ]
    assert scorer.score(request | {"history": request["history"] + later}) == pytest.approx(
        scorer.score(request)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": []}, "candidates: expected a list"),
        (
            {"candidates": [{"colour": 1}]},
            r"candidates\[0\]: the model has no feature 'colour'; it knows .*category",
        ),
        ({"user": {"shoe_size": 44}}, "user: the model has no feature 'shoe_size'"),
        ({"ts": "noon"}, "ts: expected seconds"),
        ({"user_id": "abc"}, "user_id: expected an integer of 64 bits, found 'abc'"),
        ({"candidates": [{"price": "cheap"}]}, "price: expected a number"),
        ({"candidates": [{"price": float("inf")}]}, "price: expected a finite number"),
        ({"history": [{"item": 3}]}, r"history\[0\]: expected a click"),
        ({"extra": 1}, "Unknown key 'extra'"),
        ({"user": {"user_impressions": -1}}, "user.user_impressions: expected a number from 0"),
        (
            {"user": {"user_impressions": 2, "user_clicks": 3}},
            r"user_clicks: expected at most user_impressions \(2\), found 3",
        ),
        (
            {"candidates": [{}, {"item_clicks": 1, "item_impressions": 0}]},
            r"candidates\[1\].item_clicks: expected at most item_impressions \(0\), found 1",
        ),
        ({"user": {"user_ctr": 0.5}}, "user: the model has no feature 'user_ctr'"),
        ({"prior_ctr": 1.5}, "prior_ctr: expected a number from 0 to 1, found 1.5"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_place(scorer, requests, change, message):
    with pytest.raises(RequestError, match=message):
        scorer.score(requests[0] | change)


def test_the_schema_takes_what_the_scorer_takes_and_refuses_what_it_refuses(
    config, exported, requests
):
    schema = json.loads((exported[0] / "request.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    validator = Draft202012Validator(schema)
    request = requests[0]
    assert list(validator.iter_errors(request)) == []
    assert list(validator.iter_errors({"ts": 1.5, "user_id": None, "candidates": [{}]})) == []
    for change in (
        {"candidates": []},
        {"ts": "noon"},
        {"extra": 1},
        {"user_id": "abc"},
        {"user": {"shoe_size": 44}},
    ):
        assert list(validator.iter_errors(request | change)), change


def test_the_pytorch_program_of_a_bundle_scores_as_the_onnx_graph(exported, scorer, requests):
    program = torch.export.load(exported[0] / "model.pt2").module()
    for request in requests[:5]:
        arrays = scorer.encode(request)
        made = compact(arrays, scorer.tables, scorer.layout)
        scores = program(*(torch.tensor(made[name]) for name in INPUTS)).detach()
        assert scores.numpy() == pytest.approx(scorer.run(arrays), abs=1e-6)


@settings(max_examples=150)
@given(data=st.data())
def test_what_the_bundles_own_schema_allows_is_scored_with_a_finite_number(exported, scorer, data):
    schema = json.loads((exported[0] / "request.schema.json").read_text())
    request = data.draw(of_schema(schema))
    for part in (request.get("user", {}), *request["candidates"]):
        for name in [name for name in part if name.endswith("_clicks")]:
            del part[name]  # that they are at most the impressions is no matter of the schema
    assert np.isfinite(scorer.score(request)).all()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["item_id", "ts", "tags"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300)
@given(place=st.sampled_from(PLACES), value=JSON)
def test_whatever_stands_in_a_request_it_is_scored_or_refused_with_a_reason(
    scorer, valid, place, value
):
    request = copy.deepcopy(valid)
    part = request
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    try:
        scores = scorer.score(request)
    except RequestError:
        return
    assert np.isfinite(scores).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["numeric"]["price"].update(transform="identity"),
        lambda d: d.update(history_days=d["history_days"] + 1),
        lambda d: d.update(history_days=d["history_days"] - 1),
        lambda d: d.update(prior_ctr=d["prior_ctr"] + 0.05),
    ],
)
def test_a_changed_bundle_fails_its_self_test(exported, tmp_path, change):
    bundle, _, _ = exported
    shutil.copytree(bundle, tmp_path, dirs_exist_ok=True)
    described = Bundle(tmp_path).description
    change(described)
    (tmp_path / "bundle.json").write_bytes(sealed(described))
    with pytest.raises(EcdctrError, match="self-test fails"):
        Scorer(tmp_path)


def test_the_self_test_names_no_user_and_holds_nothing_that_was_logged(config, exported):
    cases = json.loads((exported[0] / "selftest.json").read_text())
    log = read_log(config)
    users = {row["user_id"] for rows in log.values() for row in rows}
    clicks = {(row["item_id"], row["ts"]) for rows in log.values() for row in rows}
    of_training = [case for case in cases if case["user_row"]]
    assert 0 < len(of_training) < len(cases), "users that training saw, and others"
    for case in cases:
        assert case["request"]["user_id"] not in users
        for click in case["request"]["history"]:
            assert (click["item_id"], round(click["ts"] * 1e6)) not in clicks


def test_the_prior_is_that_of_the_last_day_that_the_version_read(config, exported):
    """By hand, from the impressions."""
    bundle, store, ref = exported
    days = window(DATE - dt.timedelta(days=1), config.data.lookback_days)
    log = read_log(config)
    clicks = [row["click"] for day in days for row in log["ads", day]]
    expected = sum(clicks) / len(clicks)
    assert json.loads((bundle / "bundle.json").read_text())["prior_ctr"] == pytest.approx(expected)
    old = store.path(ref) / "manifest.json"
    content = json.loads(old.read_text())
    assert content["prior_ctr"] == pytest.approx(expected)


def test_a_click_from_before_the_lookback_changes_no_score(config, scorer, valid):
    first = dt.datetime.combine(NEXT, dt.time(), dt.UTC) - dt.timedelta(config.data.lookback_days)
    item = valid["candidates"][0]["item_id"]
    alone = valid | {"history": []}
    for seconds in (-1e-6, -200 * 86_400):
        click = {"item_id": item, "ts": first.timestamp() + seconds}
        assert scorer.score(valid | {"history": [click]}) == scorer.score(alone)
    click = {"item_id": item, "ts": first.timestamp()}
    assert scorer.score(valid | {"history": [click]}) != scorer.score(alone)


@pytest.mark.parametrize(
    "sent", [{}, {"user_impressions": None}, {"user_impressions": 9}, {"user_clicks": 9}]
)
def test_a_count_that_is_left_out_is_read_as_its_mean_in_training(exported, scorer, valid, sent):
    _, store, ref = exported
    left_out = {k: v for k, v in valid["user"].items() if not k.startswith("user_")}
    request = valid | {"user": left_out | sent}
    arrays = scorer.encode(request)
    names = list(scorer.description["numeric"])
    untold = {name for name, n in zip(names, arrays["numeric"][0], strict=True) if math.isnan(n)}
    told = {"user_impressions"} if sent == {"user_impressions": 9} else set()
    assert untold == {"user_impressions", "user_ctr"} - told
    mean = load_network(store, ref)[0].numeric_norm.running_mean.numpy()
    means = np.where(np.isnan(arrays["numeric"]), mean, arrays["numeric"])
    expected = scorer.run(arrays | {"numeric": means})
    np.testing.assert_allclose(scorer.score(request), expected, rtol=1e-6)
    never = {"user_impressions": 0, "user_clicks": 0}
    assert (scorer.score(request) != scorer.score(valid | {"user": left_out | never})).any()


def test_what_is_left_out_is_what_the_schema_says(config, exported, scorer, valid):
    schema = json.loads((exported[0] / "request.schema.json").read_text())["properties"]
    assert schema["history"]["description"].endswith("left out: no clicks")
    without = {name: part for name, part in valid.items() if name != "history"}
    assert (scorer.score(without) == scorer.score(valid | {"history": []})).all()
    price = schema["candidates"]["items"]["properties"]["price"]["description"]
    assert price == f"left out: {config.data.numeric_null:g}, as in training"
    (candidate,) = valid["candidates"]
    for sent in ({}, {"price": None}):
        left_out = {key: value for key, value in candidate.items() if key != "price"} | sent
        said = candidate | {"price": config.data.numeric_null}
        scores = [scorer.score(valid | {"candidates": [one]}) for one in (left_out, said)]
        assert (scores[0] == scores[1]).all()


def test_clicks_that_are_not_read_are_told_once(exported, valid, caplog):
    scorer = Scorer(exported[0])
    assert not caplog.records, "the self-test's requests bring every click"
    item, ts = valid["candidates"][0]["item_id"], valid["ts"]
    for seconds in (0, 0.25, 2, -400 * 86_400, -500 * 86_400):
        scorer.score(valid | {"history": [{"item_id": item, "ts": ts + seconds}]})
    said = [record.getMessage() for record in caplog.records]
    click, moment = re.findall(r"\d{4}-\S+ [\d:.]+", said[0])
    assert dt.datetime.fromisoformat(click) - dt.datetime.fromisoformat(moment) == dt.timedelta(
        seconds=0.25
    )
    assert ["after its ts" in one for one in said] == [True, False]
    assert ["can be left out" in one for one in said] == [False, True]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize(
    "change", [cut, flipped, lambda _: b"", lambda _: b"{}", lambda _: b"null"]
)
@pytest.mark.parametrize(
    "name",
    [
        "model.onnx",
        "tables/item_id.keys.npy",
        "tables/item_id.vectors.npy",
        "selftest.json",
        "bundle.json",
        "model.pt2",  # these three no scorer reads
        "manifest.json",
        "request.schema.json",
    ],
)
def test_a_damaged_bundle_is_named_with_its_file(exported, tmp_path, name, change):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    with pytest.raises(EcdctrError) as refused:
        Scorer(folder)
    assert str(folder) in str(refused.value)
    assert name in str(refused.value) or name == "bundle.json"


@pytest.mark.parametrize("change", [cut, lambda _: b"", lambda _: b"null", lambda _: b"[1, {}]"])
@pytest.mark.parametrize("name", ["model.onnx", "tables/item_id.vectors.npy", "selftest.json"])
def test_a_damaged_file_is_named_without_its_checksum_too(exported, tmp_path, name, change):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    described = Bundle(folder).description
    del described["files"][name]
    (folder / "bundle.json").write_bytes(sealed(described))
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    place = name.removesuffix(".vectors.npy")
    with pytest.raises(EcdctrError, match=f"copy is damaged: {place} cannot be used"):
        Scorer(folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["kinds"].update(user_id="string"),
        lambda d: d.update(fields=["hour", "nothing"]),
        lambda d: d.update(numeric=["price"]),
        lambda d: d.update(multi="ab"),
        lambda d: d.update(version=d["version"] + "1"),
        lambda d: d.update(more=1),
        lambda d: d.pop("digest"),
    ],
)
def test_a_description_that_was_edited_by_hand_is_not_loaded(exported, tmp_path, change):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    described = json.loads((folder / "bundle.json").read_text())
    change(described)
    (folder / "bundle.json").write_text(json.dumps(described, indent=1))
    words = r"copy is damaged: bundle.json cannot be used \(it was changed since it was exported\)"
    with pytest.raises(EcdctrError, match=words):
        Scorer(folder)


ABSENT = "absent"
NO_VALUES = (None, -1, 10**400, ABSENT, [None], "x", float("nan"), {"a": 1})


def places_of(description: Any, depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """Yield where something stands in a description: all keys, and a few below each."""
    if isinstance(description, dict | list):
        keys = list(description if isinstance(description, dict) else range(len(description)))
        for key in keys[: 2 if depth else None]:
            yield (key,)
            yield from ((key, *below) for below in places_of(description[key], depth + 1))


def test_a_description_that_describes_nothing_is_told_though_its_digest_fits(exported, tmp_path):
    """Whatever is written into it, it is one sentence, or a bundle whose self-test passes."""
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    text, told = json.dumps(Bundle(folder).description), 0
    for i, place in enumerate(places_of(json.loads(text))):
        for value in (NO_VALUES[i % 4], NO_VALUES[4 + i % 3]):
            described = inside = json.loads(text)
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = value
            if value == ABSENT:
                del inside[place[-1]]
            (folder / "bundle.json").write_bytes(sealed(described))
            try:
                assert len(Scorer(folder).score(json.loads(GOOD))) == 2
            except EcdctrError as error:
                assert str(folder) in str(error)  # noqa: PT017  # some are harmless
                told += 1
    assert told > 50


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(history_length=10**9), "history_length: expected a length of 1 to"),
        (lambda d: d["multi"][0].__setitem__(1, 10**9), "tags: expected a length of 1 to 10,000"),
        (
            lambda d: d["files"].update({"../x": {}}),
            r"\.\./x cannot be used \(it would lie outside",
        ),
        (lambda d: d.pop("fields"), r"bundle.json cannot be used \(.*KeyError: 'fields'\)"),
    ],
)
def test_lengths_and_files_that_no_bundle_has_are_told_before_anything_is_scored(
    exported, tmp_path, change, words
):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    described = Bundle(folder).description
    change(described)
    (folder / "bundle.json").write_bytes(sealed(described))
    with pytest.raises(EcdctrError, match=f"copy is damaged: .*{words}"):
        Scorer(folder)


def test_a_large_table_is_compared_by_its_size_and_whole_when_asked(
    exported, tmp_path, monkeypatch
):
    monkeypatch.setattr(bundle, "HASHED_ON_LOADING", 0)
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    path = folder / "tables" / "item_id.vectors.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"!")  # of an item that the self-test may not have
    Scorer(folder, self_test=False)
    with pytest.raises(EcdctrError, match=r"damaged: tables/item_id.vectors.npy cannot be used"):
        Scorer(folder, verify=True)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        EcdctrError, match=r"item_id.vectors.npy cannot be used \(expected .* bytes"
    ):
        Scorer(folder)


@pytest.mark.parametrize(("precision", "share"), [("float16", 0.51), ("int8", 0.34)])
def test_smaller_tables_score_almost_the_same(exported, requests, tmp_path, precision, share):
    whole, store, ref = exported
    described = export_bundle(store, ref, tmp_path / "small", precision)
    scorer, exact = Scorer(tmp_path / "small"), Scorer(whole)
    changes = [np.abs(scorer.score(one) - exact.score(one)).max() for one in requests[:100]]
    assert 0 < max(changes) < 0.01
    assert 0 < described["tables"]["rounding"] < 0.01
    sizes = [
        sum(
            path.stat().st_size - 128  # the header
            for part in ("vectors", "scales")
            for path in (folder / "tables").glob(f"*.{part}.npy")
        )
        for folder in (tmp_path / "small", whole)
    ]
    assert sizes[0] < share * sizes[1]


@pytest.mark.parametrize("kind", ["keep", "keep_added", "ctnet"])
def test_a_version_that_a_cpm_teaches_scores_as_the_trainer_does(
    config, exported, requests, tmp_path, kind
):
    """Its CPM knows fewer ids than it does: what it does not know stays hidden from it."""
    _, store, _ = exported
    settings = config.actr.model_copy(update={"init": "none", "source": kind})
    taught = config.model_copy(update={"actr": settings})
    ref = train_actr(Request(taught, store, DATE, experiment=kind)).manifest.ref
    export_bundle(store, ref, tmp_path / "bundle")
    scorer = Scorer(tmp_path / "bundle")
    expected = score(taught, store, ref, "ads", NEXT).scores
    scores = np.array([scorer.score(request)[0] for request in requests])
    assert np.abs(scores - expected).max() < 1e-5


def test_a_folder_that_is_no_bundle_and_one_that_lacks_a_file(exported, tmp_path):
    (tmp_path / "bundle.zip").touch()
    for name in ("nowhere", "bundle.zip"):
        with pytest.raises(EcdctrError, match=f"{name} is no bundle"):
            Scorer(tmp_path / name)
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(EcdctrError, match=r"no whole bundle: model.onnx is missing"):
        Scorer(folder)


@pytest.mark.parametrize("name", ["bundle.json", "model.onnx"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_in_the_place_of_one_is_named_and_not_waited_for(
    exported, tmp_path, name, make
):
    folder = tmp_path / "copy"
    shutil.copytree(exported[0], folder)
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(EcdctrError, match=f"damaged: {name} cannot be used"):
        Scorer(folder)


GOOD = json.dumps({"ts": 1767225600, "candidates": [{}, {}]})


def score_lines(bundle: Path, text: bytes) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["score", "--bundle", str(bundle)], input=text)
    return done.exit_code, done.stdout, str(done.exception)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"null", "line 2: expected an object with a list 'candidates', found null"),
        (b"5", "line 2: expected an object"),
        (b"[1]", "line 2: expected an object with a list 'candidates', found a list"),
        (b"{nonsense", "line 2: no JSON"),
        (b'{\n "ts": 1,', "(char 1); each line is one whole request"),  # printed over lines
        (b"[" * 100_000, "line 2: no JSON that can be read: it is nested too deeply"),
        ('{"ts": 1, "candidates": [{"item_id": "café"}]}'.encode("latin-1"), "line 2: no UTF-8"),
        (b'{"ts": 1, "ts": 2, "candidates": [{}]}', "line 2: no JSON: the key 'ts' is given twice"),
        (b'{"ts": 1, "candidates": [{"price": 1e39}]}', r"line 2: candidates[0].price: expected a"),
        (b"\n" + GOOD.encode(), "line 2: expected a request, found an empty line"),
    ],
)
def test_a_line_that_is_no_request_is_refused_with_its_number(exported, line, words):
    code, _, said = score_lines(exported[0], GOOD.encode() + b"\n" + line + b"\n")
    assert code
    assert words in said


def test_empty_lines_at_the_end_are_none(exported):
    code, text, _ = score_lines(exported[0], GOOD.encode() + b"\n\n  \n")
    assert code == 0
    assert len(text.splitlines()) == 1


def test_a_folder_and_a_name_that_is_none_instead_of_requests(exported, tmp_path):
    for name, words in ((tmp_path, "found a folder"), (tmp_path / "no", "nothing of that name")):
        arguments = ["score", "--bundle", str(exported[0]), "--requests", str(name)]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code
        assert words in str(done.exception)


def test_what_cannot_be_exported_leaves_nothing(config, exported, tmp_path):
    bundle, store, ref = exported
    with pytest.raises(ConfigError, match="exists already"):
        export_bundle(store, ref, bundle)
    with pytest.raises(ConfigError, match="no ads model"):
        export_bundle(store, ref._replace(level="cpm"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_scoring_needs_neither_torch_nor_airflow(exported, requests, tmp_path):
    bundle, _, _ = exported
    lines = tmp_path / "requests.jsonl"
    lines.write_text("".join(json.dumps(request) + "\n" for request in requests[:3]))
    code = """
import sys
for name in ("torch", "airflow", "pyarrow", "duckdb"):
    sys.modules[name] = None
from ecdctr.cli import app
app(["score", "--bundle", sys.argv[1], "--requests", sys.argv[2]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(lines)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scorer = Scorer(bundle)
    expected = [scorer.score(request).tolist() for request in requests[:3]]
    for line, values in zip(done.stdout.splitlines(), expected, strict=True):
        assert json.loads(line) == pytest.approx(values, abs=1e-6)


def test_two_exports_into_one_folder_leave_one_bundle_and_one_sentence(
    exported, tmp_path, monkeypatch
):
    """The other one is done between the look and the end; the graphs are those of before."""
    bundle, store, ref = exported

    def graphs(_graph: object, _arguments: object, folder: Path, _tolerance: float) -> None:
        for name in ("model.pt2", "model.onnx"):
            shutil.copy(bundle / name, folder)

    def meanwhile(*_: object, **__: object) -> None:
        (tmp_path / "bundle").mkdir()
        (tmp_path / "bundle" / "bundle.json").touch()

    monkeypatch.setattr(export, "write_graphs", graphs)
    monkeypatch.setattr(export, "Scorer", meanwhile)
    with pytest.raises(ConfigError, match="bundle exists already; export to a new folder"):
        export_bundle(store, ref, tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
