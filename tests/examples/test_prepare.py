"""Simulator, contract, preparation: determinism, every violation, point in time."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from ecdctr.config import Config, Feature
from ecdctr.errors import ContractError
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import example_fingerprint, prepare
from ecdctr.examples.remembered import Remembered
from ecdctr.examples.vocabulary import EMPTY, Vocabulary
from ecdctr.impressions.contract import connect, validate_day
from ecdctr.impressions.days import present_days, window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate
from tests.conftest import DATE
from tests.make import changed


def digests(root: Path) -> dict[str, str]:
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(root.rglob("*.parquet"))
    }


def test_simulator_gives_the_same_bytes_for_a_seed_and_others_for_another(tmp_path):
    sim = load_world("tiny").settings.model_copy(update={"days": 3})
    simulate(sim, 1, tmp_path / "a", workers=1)
    simulate(sim, 1, tmp_path / "b", workers=2)
    simulate(sim, 2, tmp_path / "c", workers=1)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert set(digests(tmp_path / "a").values()).isdisjoint(digests(tmp_path / "c").values())


def test_clicks_follow_the_oracle(world):
    table = pq.read_table(open_impressions(world).files("natural", DATE)[0], partitioning=None)
    assert abs(pc.mean(table["click"]).as_py() - pc.mean(table["oracle_ctr"]).as_py()) < 0.02


@pytest.fixture
def copy(config: Config, tmp_path: Path) -> Config:
    """Return the configuration over a private copy of one ads day."""
    folder = tmp_path / "data" / "domain=ads" / f"date={DATE}"
    folder.mkdir(parents=True)
    shutil.copy(open_impressions(config.data.root).files("ads", DATE)[0], folder)
    data = config.data.model_copy(
        update={"root": tmp_path / "data", "prepared": tmp_path / "prepared"}
    )
    return config.model_copy(update={"data": data})


def broken(config: Config, change) -> list:
    path = open_impressions(config.data.root).files("ads", DATE)[0]
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)
    with connect(config) as connection:
        return validate_day(connection, config, "ads", DATE).violations


def set_first(name: str, value):
    def change(table: pa.Table) -> pa.Table:
        values = table[name].to_pylist()
        values[0] = value
        field = table.schema.field(name)
        return table.set_column(table.schema.names.index(name), field, pa.array(values, field.type))

    return change


def test_a_good_day_has_no_violation(copy):
    assert broken(copy, lambda table: table) == []


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("missing_column", lambda t: t.drop_columns("click"), "column click: expected, not found"),
        (
            "wrong_type",
            lambda t: t.set_column(4, "click", t["click"].cast(pa.string())),
            "expected int8, found string",
        ),
        ("null_id", set_first("user_id", None), "found 1 bad rows of 300"),
        ("label", set_first("click", 2), "expected 0 or 1, found 1 bad rows"),
        (
            "timestamp",
            set_first("ts", dt.datetime(2026, 1, 19, tzinfo=dt.UTC)),
            "inside the partition's date",
        ),
        ("empty_file", lambda t: t.slice(0, 0), "at least one row, found 0"),
        ("duplicate", lambda t: pa.concat_tables([t, t.slice(0, 2)]), "found 2 duplicates"),
    ],
)
def test_a_broken_file_is_named_with_what_was_expected_and_found(copy, kind, change, words):
    violations = broken(copy, change)
    assert [violation.kind for violation in violations] == [kind]
    assert words in str(violations[0])
    assert "part-0.parquet" in violations[0].where


def test_a_truncated_file_is_named(copy):
    path = open_impressions(copy.data.root).files("ads", DATE)[0]
    path.write_bytes(path.read_bytes()[:1000])
    with connect(copy) as connection:
        assert [v.kind for v in validate_day(connection, copy, "ads", DATE).violations] == [
            "unreadable"
        ]


def test_a_missing_day_is_named(config):
    with pytest.raises(ContractError, match="2026-01-25"):
        present_days(config, "ads", window(dt.date(2026, 1, 25), 3))


def test_an_undeclared_feature_is_named(copy):
    unknown = Feature(name="colour", side="item", kind="categorical")
    changed = copy.model_copy(update={"features": (*copy.features, unknown)})
    assert [violation.kind for violation in broken(changed, lambda t: t)] == ["unknown_feature"]


def test_bad_rows_are_set_aside_only_when_asked_for(copy):
    broken(copy, set_first("click", 2))
    with pytest.raises(ContractError, match=r"data\.quarantine"):
        prepare(copy, "ads", [DATE])
    lenient = copy.model_copy(update={"data": copy.data.model_copy(update={"quarantine": True})})
    day = prepare(lenient, "ads", [DATE])[0]
    assert pq.read_metadata(day.path).num_rows == 299
    bad = list((copy.data.root / "_quarantine").rglob("*.parquet"))
    assert pq.read_metadata(bad[0]).num_rows == 1


def test_history_is_the_last_clicks_strictly_before_each_impression(config):
    day = prepare(config, "ads", [DATE])[0]
    (table,) = read_chunks([Part(day.path, "ads")], None, 1_000_000)
    examples = table.to_pylist()
    clicks = []
    for domain in ("natural", "ads"):
        for date in window(DATE, config.data.lookback_days + 1):
            table = pq.read_table(
                open_impressions(config.data.root).files(domain, date)[0], partitioning=None
            )
            clicks += [
                row
                for row in table.select(["user_id", "item_id", "ts", "click"]).to_pylist()
                if row["click"]
            ]
    horizon = dt.datetime.combine(DATE, dt.time(), dt.UTC) - dt.timedelta(
        days=config.data.lookback_days
    )
    assert any(example["history"] for example in examples)
    for example in examples:
        before = [
            c
            for c in clicks
            if c["user_id"] == example["user_id"] and horizon <= c["ts"] < example["ts"]
        ]
        before.sort(key=lambda c: (c["ts"], c["item_id"]))
        expected = [c["item_id"] for c in before[::-1][: config.data.history_length]]
        assert example["history"] == expected
        times = [c["ts"] for c in before[::-1][: config.data.history_length]]
        assert example["history_ts"] == times


def test_counts_are_as_of_the_day_before(config):
    day = prepare(config, "ads", [DATE])[0]
    example = pq.read_table(day.path, partitioning=None).to_pylist()[0]
    seen = ads = 0
    for domain in ("natural", "ads"):
        for date in window(DATE - dt.timedelta(days=1), config.data.lookback_days):
            users = pq.read_table(
                open_impressions(config.data.root).files(domain, date)[0], partitioning=None
            )["user_id"].to_numpy()
            shown = int((users == example["user_id"]).sum())
            seen += shown
            ads += shown if domain == "ads" else 0
    assert example["user_seen"] == seen
    assert example["user_impressions"] == pytest.approx(np.log1p(ads), rel=1e-5)


def test_a_later_day_changes_nothing_that_was_prepared_and_an_earlier_one_does(config, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(config.data.root, root)
    data = config.data.model_copy(update={"root": root, "prepared": tmp_path / "prepared"})
    moved = config.model_copy(update={"data": data})
    before = prepare(moved, "ads", [DATE])[0]
    shutil.rmtree(root / "domain=natural" / f"date={DATE + dt.timedelta(days=1)}")
    assert prepare(moved, "ads", [DATE])[0].fingerprint == before.fingerprint
    shutil.rmtree(root / "domain=natural" / f"date={DATE - dt.timedelta(days=1)}")
    tolerant = changed(moved, "data", allowed_missing_days=1)
    assert prepare(tolerant, "ads", [DATE])[0].fingerprint != before.fingerprint


def test_prepared_days_are_not_made_again(config):
    day = prepare(config, "ads", [DATE])[0]
    written = day.path.stat().st_mtime_ns
    assert prepare(config, "ads", [DATE])[0].path.stat().st_mtime_ns == written


@pytest.mark.parametrize("values", [[5, 3, 9], ["b", "a", "c"]])
def test_a_vocabulary_grows_without_renumbering(values):
    first = EMPTY.extended(pa.array(values))
    more = first.extended(pa.array([*values, values[0] * 7]))
    assert first.lookup(pa.array(sorted(values))).tolist() == [1, 2, 3]
    assert more.lookup(pa.array(sorted(values))).tolist() == [1, 2, 3]
    assert more.lookup(pa.array([values[0] * 7, None])).tolist() == [4, 0]
    assert first.lookup(pa.array([values[0] * 7])).tolist() == [0]


def test_a_saved_vocabulary_is_the_same(tmp_path):
    vocabulary = EMPTY.extended(pa.array(["x", "y"]))
    vocabulary.save(tmp_path / "v.parquet")
    assert Vocabulary.load(tmp_path / "v.parquet").values.equals(vocabulary.values)


@pytest.mark.parametrize("basic", [False, True])
def test_with_quarantine_a_days_examples_go_by_every_declared_feature(copy, basic):
    """A row is set aside for a feature that TPM does not read, too."""
    names = {}
    for quarantine in (False, True):
        data = copy.data.model_copy(update={"quarantine": quarantine})
        whole = copy.model_copy(update={"data": data})
        fewer = tuple(f for f in whole.features if f.name != "price")
        less = whole.model_copy(update={"features": fewer})
        names[quarantine] = [example_fingerprint(c, "ads", DATE, basic) for c in (whole, less)]
    assert names[True][0] != names[True][1]
    assert (names[False][0] != names[False][1]) == (not basic)


def test_with_quarantine_what_is_remembered_goes_by_every_declared_feature(copy):
    data = copy.data.model_copy(update={"quarantine": True})
    memory = copy.memory.model_copy(update={"enabled": True})
    whole = copy.model_copy(update={"data": data, "memory": memory})
    fewer = tuple(f for f in whole.features if f.name != "price")
    less = whole.model_copy(update={"features": fewer})
    assert Remembered(whole).fingerprint(DATE) != Remembered(less).fingerprint(DATE)
