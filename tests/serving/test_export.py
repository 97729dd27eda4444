"""The serving bundle: same scores as the trainer, without torch, and clear refusals."""

from __future__ import annotations

import copy
import datetime as dt
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ecdctr.errors import ConfigError, ContractError, EcdctrError
from ecdctr.evaluation.evaluate import score
from ecdctr.examples.batches import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.serving.batch import score_parquet
from ecdctr.serving.export import INPUTS, export_bundle, request_of
from ecdctr.serving.scorer import RequestError, Scorer
from ecdctr.store.store import Store
from tests.conftest import DATE

PLACES = [
    ("ts",), ("user_id",), ("user",), ("context",), ("history",), ("candidates",), ("history", 0), ("history", 0, "ts"),
    ("history", 0, "item_id"), ("candidates", 0), ("candidates", 0, "item_id"), ("candidates", 0, "tags"),
    ("candidates", 0, "price"), ("user", "city"), ("user", "user_ctr"), ("context", "slot"),
]  # fmt: skip
NEXT = DATE + dt.timedelta(days=1)


@pytest.fixture(scope="module")
def exported(config, tmp_path_factory):
    """A bundle of an A-CTR with snapshots, its store and its version."""
    folder = tmp_path_factory.mktemp("serving")
    store = Store(folder / "store")
    for days in (7, 0):
        train_tpm(Request(config, store, DATE - dt.timedelta(days=days)))
    train_cpm(Request(config, store, DATE))
    ref = train_actr(Request(config, store, DATE)).manifest.ref
    export_bundle(config, store, ref, folder / "bundle")
    return folder / "bundle", store, ref


@pytest.fixture(scope="module")
def scorer(exported) -> Scorer:
    return Scorer(exported[0])


@pytest.fixture(scope="module")
def valid(config, examples) -> dict:
    return next(r for r in (request_of(config, example) for example in examples) if r["history"])


@pytest.fixture(scope="module")
def examples(config) -> list[dict]:
    day = prepare(config, "ads", [NEXT])[0]
    return pa.concat_tables(read_chunks([Part(day.path, "ads")], None, 10_000)).to_pylist()


def test_a_bundle_scores_the_next_day_as_the_trainer_does(config, exported, examples):
    """The day after has users, items and values that the version never saw."""
    bundle, store, ref = exported
    scorer = Scorer(bundle)
    expected = score(config, store, ref, "ads", NEXT).scores
    found = np.array([scorer.score(request_of(config, example))[0] for example in examples])
    assert np.abs(found - expected).max() < 1e-5
    assert expected.std() > 0


def test_a_parquet_file_scores_as_the_trainer_does(config, exported, tmp_path):
    bundle, store, ref = exported
    source = prepare(config, "ads", [NEXT])[0].path
    target = tmp_path / "new" / "scores.parquet"
    command = [sys.executable, "-m", "ecdctr.cli", "--json", "score", "--bundle", str(bundle)]
    command += ["--examples", str(source), "--out", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, read = pq.read_table(target), pq.read_table(source, partitioning=None)
    expected = score(config, store, ref, "ads", NEXT).scores
    assert np.abs(found.column("probability").to_numpy() - expected).max() < 1e-5
    assert found.column("user_id").equals(read.column("user_id"))
    assert found.schema.metadata[b"ecdctr.version"] == str(ref).encode()


def test_a_parquet_file_that_does_not_fit_is_refused_and_leaves_nothing(config, exported, tmp_path):
    scorer = Scorer(exported[0])
    table = pq.read_table(prepare(config, "ads", [NEXT])[0].path, partitioning=None)
    source, target = tmp_path / "examples.parquet", tmp_path / "scores.parquet"
    pq.write_table(table.drop_columns(["history", "slot"]), source)
    with pytest.raises(ContractError, match="lacks history, slot, which"):
        score_parquet(scorer, source, target)
    named = table.set_column(
        table.schema.get_field_index("user_id"), "user_id", pa.array(["a"] * len(table))
    )
    pq.write_table(named, source)
    with pytest.raises(ContractError, match=r"user_id: .* knows integers, found string"):
        score_parquet(scorer, source, target)
    source.write_bytes(b"no parquet")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        score_parquet(scorer, source, target)
    assert list(tmp_path.iterdir()) == [source]


def test_candidates_of_one_request_score_as_one_by_one(config, exported, examples):
    bundle, _, _ = exported
    scorer = Scorer(bundle)
    requests = [request_of(config, example) for example in examples[:7]]
    many = requests[0] | {"candidates": [request["candidates"][0] for request in requests]}
    single = [
        scorer.score(requests[0] | {"candidates": request["candidates"]})[0] for request in requests
    ]
    assert scorer.score(many) == pytest.approx(single, abs=1e-6)


def test_unknown_and_missing_values_score_as_unknown(config, exported, examples):
    bundle, _, _ = exported
    scorer = Scorer(bundle)
    request = request_of(config, examples[0])
    unseen = scorer.score(request | {"user_id": -5})
    assert unseen == pytest.approx(scorer.score(request | {"user_id": None}))
    assert np.isfinite(scorer.score({"ts": request["ts"], "candidates": [{}]})).all()


def test_clicks_at_or_after_the_moment_are_not_read(config, exported, examples):
    bundle, _, _ = exported
    scorer = Scorer(bundle)
    request = next(r for r in map(lambda e: request_of(config, e), examples) if r["history"])
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
        ({"user_id": "abc"}, "user_id: expected an integer, found 'abc'"),
        ({"candidates": [{"price": "cheap"}]}, "price: expected a number"),
        ({"candidates": [{"price": float("inf")}]}, "price: expected a finite number"),
        ({"history": [{"item": 3}]}, "history: expected a list of clicks"),
        ({"extra": 1}, "Unknown key 'extra'"),
    ],
)
def test_a_request_that_does_not_fit_is_refused_with_the_place(
    config, exported, examples, change, message
):
    scorer = Scorer(exported[0])
    with pytest.raises(RequestError, match=message):
        scorer.score(request_of(config, examples[0]) | change)


def test_the_schema_takes_what_the_scorer_takes_and_refuses_what_it_refuses(
    config, exported, examples
):
    schema = json.loads((exported[0] / "request.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    known = Draft202012Validator(schema)
    request = request_of(config, examples[0])
    assert list(known.iter_errors(request)) == []
    assert list(known.iter_errors({"ts": 1.5, "user_id": None, "candidates": [{}]})) == []
    for change in (
        {"candidates": []},
        {"ts": "noon"},
        {"extra": 1},
        {"user_id": "abc"},
        {"user": {"shoe_size": 44}},
    ):
        assert list(known.iter_errors(request | change)), change


def test_the_pytorch_program_of_a_bundle_scores_as_the_onnx_graph(config, exported, examples):
    scorer = Scorer(exported[0])
    program = torch.export.load(exported[0] / "model.pt2").module()
    for example in examples[:5]:
        arrays = scorer.encode(request_of(config, example))
        found = program(*(torch.tensor(arrays[name]) for name in INPUTS)).detach()
        assert found.numpy() == pytest.approx(scorer.run(arrays), abs=1e-6)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["item_id", "ts", "tags"]), inner)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
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
        found = scorer.score(request)
    except RequestError:
        return
    assert np.isfinite(found).all()


def test_a_changed_bundle_fails_its_self_test(exported, tmp_path):
    bundle, _, _ = exported
    for path in bundle.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    described = json.loads((tmp_path / "bundle.json").read_text())
    described["numeric"]["price"]["transform"] = "identity"
    (tmp_path / "bundle.json").write_text(json.dumps(described))
    with pytest.raises(EcdctrError, match="self-test fails"):
        Scorer(tmp_path)


def test_what_cannot_be_exported_leaves_nothing(config, exported, tmp_path):
    bundle, store, ref = exported
    with pytest.raises(ConfigError, match="exists already"):
        export_bundle(config, store, ref, bundle)
    with pytest.raises(ConfigError, match="no ads model"):
        export_bundle(config, store, ref._replace(level="cpm"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_scoring_needs_neither_torch_nor_airflow(config, exported, examples, tmp_path):
    bundle, _, _ = exported
    requests = tmp_path / "requests.jsonl"
    requests.write_text(
        "".join(json.dumps(request_of(config, example)) + "\n" for example in examples[:3])
    )
    code = """
import sys
for name in ("torch", "airflow", "pyarrow", "duckdb"):
    sys.modules[name] = None
from ecdctr.cli import app
app(["score", "--bundle", sys.argv[1], "--requests", sys.argv[2]])
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(requests)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    scorer = Scorer(bundle)
    expected = [scorer.score(request_of(config, example)).tolist() for example in examples[:3]]
    for line, values in zip(done.stdout.splitlines(), expected, strict=True):
        assert json.loads(line) == pytest.approx(values, abs=1e-6)
