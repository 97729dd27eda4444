"""Click histories: stored once a day, read as every row saw them; features of what was clicked."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from ecdctr.config import Config
from ecdctr.errors import ConfigError, ContractError
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.examples import histories
from ecdctr.examples.batches import Inputs, encode
from ecdctr.examples.chunks import Part, Shard, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.ragged import gap_buckets
from ecdctr.examples.transforms import SECOND, newest_clicks
from ecdctr.examples.vocabulary import EMPTY
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels import train
from ecdctr.levels.request import Request
from ecdctr.serving.export import export_bundle
from ecdctr.serving.scorer import Scorer
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed
from tests.serving.logged import logged_requests

NEXT = DATE + dt.timedelta(days=1)


@pytest.fixture
def featured(config: Config, tmp_path: Path) -> Config:
    """Return the tiny world's configuration, clicks with the category of their item."""
    return changed(config, "data", history_features=("category",), prepared=tmp_path / "prepared")


def rows_of(path: Path, **part: object) -> pa.Table:
    return pa.concat_tables(read_chunks([Part(path, "ads", **part)], None, 50))


def test_a_click_has_the_features_that_its_item_had_when_it_was_clicked(featured):
    (day,) = prepare(featured, "ads", [DATE])
    clicked = {}
    for domain in ("natural", "ads"):
        for date in window(DATE, featured.data.lookback_days + 1):
            (file,) = open_impressions(featured.data.root).files(domain, date)
            for row in pq.read_table(file, partitioning=None).to_pylist():
                if row["click"]:
                    clicked[row["user_id"], row["ts"], row["item_id"]] = row["category"]
    rows = rows_of(day.path).to_pylist()
    seen = 0
    for row in rows:
        clicks = zip(row["history_ts"], row["history"], row["history.category"], strict=True)
        for ts, item, category in clicks:
            assert category == clicked[row["user_id"], ts, item]
            seen += 1
    assert seen > len(rows)


@pytest.mark.parametrize(("lookback", "days"), [(3, 9), (9, 3)])
def test_histories_reach_further_than_counts_where_they_are_told_to(
    config, tmp_path, lookback, days
):
    paths = {"prepared": tmp_path / "prepared", "lookback_days": lookback}
    one = changed(config, "data", **paths, history_days=days, history_length=1000)
    same = changed(config, "data", **paths)
    (made,), (counted,) = (prepare(each, "ads", [DATE]) for each in (one, same))
    rows, others = rows_of(made.path).to_pylist(), rows_of(counted.path).to_pylist()
    for name in ("user_impressions", "item_ctr", "user_seen", "prior_ctr"):
        assert [row[name] for row in rows] == [row[name] for row in others]
    first = dt.datetime.combine(DATE - dt.timedelta(days=days), dt.time(), dt.UTC)
    oldest = min(ts for row in rows for ts in row["history_ts"])
    assert first <= oldest < first + dt.timedelta(days=1)


def test_clicks_are_stored_once_from_the_oldest_that_a_row_sees_to_the_newest(featured):
    (day,) = prepare(featured, "ads", [DATE])
    clicks = pq.read_table(histories.clicks_path(day.path), partitioning=None).to_pylist()
    rows = rows_of(day.path).to_pylist()
    seen = {
        (row["user_id"], ts, item)
        for row in rows
        for ts, item in zip(row["history_ts"], row["history"], strict=True)
    }
    stored = [(click["user_id"], click["ts"], click["item_id"]) for click in clicks]
    assert len(stored) == len(set(stored))
    assert seen <= set(stored)
    for user in {row["user_id"] for row in rows}:
        times = [ts for one, ts, _ in seen if one == user]
        kept = [ts for one, ts, _ in stored if one == user]
        assert kept == sorted(kept, reverse=True)
        assert (kept[0], kept[-1]) == (max(times), min(times)) if times else not kept
    assert len(stored) < sum(len(row["history"]) for row in rows) * 0.6


def by_hand(rows: list[dict], inputs: Inputs, vocabularies: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return histories and gaps click by click, from the rows as lists."""
    width = inputs.history_length
    history = np.zeros((len(rows), len(inputs.history_fields), width), np.int32)
    gaps = np.zeros((len(rows), width), np.uint8)
    for n, row in enumerate(rows):
        for place, ts in enumerate(row["history_ts"]):
            seconds = np.array([(row["ts"] - ts).total_seconds()], np.float32)
            gaps[n, place] = gap_buckets(seconds)[0]
        columns = ["history", *map(histories.of_feature, inputs.history_features)]
        for field, (name, column) in enumerate(zip(inputs.history_fields, columns, strict=True)):
            for place, value in enumerate(row[column]):
                one = pa.array([value], vocabularies[name].values.type)
                history[n, field, place] = vocabularies[name].lookup(one)[0]
    return history.reshape(len(rows), -1), gaps


def test_batches_hold_what_a_loop_over_each_rows_clicks_gives(featured):
    days = prepare(featured, "ads", window(DATE, 2))
    inputs = Inputs.of(featured, "actr")
    vocabularies = dict.fromkeys(inputs.vocabularies, EMPTY)
    table = pa.concat_tables(read_chunks([Part(d.path, "ads") for d in days], None, 90))
    for name in ("item_id", "category"):  # some are unknown
        vocabularies[name] = EMPTY.extended(table[name].combine_chunks()[::3])
    expected = by_hand(table.to_pylist(), inputs, vocabularies)
    batch = encode(table, inputs, vocabularies)
    assert np.array_equal(batch.history.numpy(), expected[0])
    assert np.array_equal(batch.gaps.numpy(), expected[1])
    few = encode(table.slice(5, 3), inputs, vocabularies)  # fewer clicks are seen than are stored
    assert np.array_equal(few.history.numpy(), expected[0][5:8])


def test_of_a_longer_history_than_a_model_reads_its_newest_clicks_are_read(featured):
    (day,) = prepare(featured, "ads", [DATE])
    table = rows_of(day.path)
    longer, shorter = (
        Inputs.of(changed(featured, "data", history_length=n), "actr") for n in (10, 3)
    )
    vocabularies = dict.fromkeys(longer.vocabularies, EMPTY)
    vocabularies["item_id"] = EMPTY.extended(table["item_id"].combine_chunks())
    whole, few = (encode(table, inputs, vocabularies) for inputs in (longer, shorter))
    assert torch.equal(few.history[:, :3], whole.history[:, :3])
    assert torch.equal(few.gaps, whole.gaps[:, :3])


def test_places_of_clicks_that_cannot_be_are_refused(featured):
    (day,) = prepare(featured, "ads", [DATE])
    rows = pq.read_table(day.path, partitioning=None)
    place = rows.schema.get_field_index("history_start")
    broken = rows.set_column(place, "history_start", pa.array([-1] * len(rows), pa.int32()))
    pq.write_table(broken, day.path)
    with pytest.raises(ContractError, match=r"look back on clicks from -1 to"):
        rows_of(day.path)


def without_category(config: Config, target: Path, until: dt.date) -> Config:
    """Copy the tiny world; nothing is known of its items' category up to a day."""
    root = Path(shutil.copytree(config.data.root, target))
    for file in root.rglob("*.parquet"):
        date = dt.date.fromisoformat(file.parent.name.removeprefix("date="))
        if date <= until:
            table = pq.read_table(file, partitioning=None)
            place = table.schema.get_field_index("category")
            pq.write_table(table.set_column(place, "category", pa.nulls(len(table))), file)
    return changed(config, "data", root=root)


def test_days_before_a_feature_was_known_are_read_with_those_after(featured, tmp_path):
    first = DATE - dt.timedelta(days=5)
    config = without_category(featured, tmp_path / "log", first)
    days = [day.path for day in prepare(config, "ads", [first, DATE])]
    parts = [Part(path, "ads") for path in days]
    (table,) = read_chunks(parts, None, 100_000)
    values = {value for row in table["history.category"].to_pylist() for value in row}
    assert None in values
    assert len(values) > 2


@pytest.mark.parametrize("name", ["n", "newest", "beyond", "us", "start", "pos", "col"])
def test_features_may_have_the_names_of_what_preparation_makes(config, tmp_path, name):
    root = Path(shutil.copytree(config.data.root, tmp_path / "log"))
    for file in root.rglob("*.parquet"):
        table = pq.read_table(file, partitioning=None)
        pq.write_table(table.append_column(name, table["category"]), file)
    feature = config.features[1].model_copy(update={"name": name})
    one = changed(config, "data", root=root, history_features=(name,), prepared=tmp_path / "p")
    one = one.model_copy(update={"features": (*config.features, feature)})
    assert rows_of(prepare(one, "ads", [DATE])[0].path).column(f"history.{name}").null_count == 0


def test_clicks_of_one_instant_may_have_values_of_any_type_where_training_saw_none():
    clicks = [(5, 1, "a"), (5, 1, 3), (5, 1, None), (4, "x", True)]
    kept = newest_clicks(clicks, 6 * SECOND, 1, 10)
    assert kept[-1] == (4, "x", True)
    assert kept[-2] == (5, 1, None)


def test_shares_shards_and_held_out_rows_see_the_same_clicks(featured):
    (day,) = prepare(featured, "ads", [DATE])
    whole = rows_of(day.path).to_pylist()
    shards = [
        row
        for number in range(3)
        for table in read_chunks([Part(day.path, "ads")], None, 50, shard=Shard(number, 3))
        for row in table.to_pylist()
    ]
    assert shards == whole
    assert rows_of(day.path, hold_out_every=4, held_out=True).to_pylist() == whole[::4]


def test_rows_without_their_clicks_are_made_again_and_those_of_another_day_refused(featured):
    days = [day.path for day in prepare(featured, "ads", window(DATE, 2))]
    clicks = histories.clicks_path(days[0])
    content = clicks.read_bytes()
    clicks.unlink()
    with pytest.raises(ContractError, match=r"lacks the clicks of its histories, expected in"):
        rows_of(days[0])
    prepare(featured, "ads", window(DATE, 2))
    assert clicks.read_bytes() == content
    few = pq.read_table(clicks, partitioning=None).slice(0, 2)
    pq.write_table(few, clicks)
    with pytest.raises(
        ContractError, match=r"its rows look back on clicks from 0 to .*, found 2; keep the"
    ):
        rows_of(days[0])
    prepare(featured, "ads", window(DATE, 2))
    assert clicks.read_bytes() == content, "a damaged file is made again"


def validated(config: Config, section: str, **values: object) -> Config:
    whole = config.model_dump()
    return Config.model_validate(whole | {section: whole[section] | values})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["colour"],
            "data.history_features: 'colour' is no categorical feature of items; expected",
        ),
        (["age_band"], "'age_band' is no categorical feature of items; expected some of category"),
        (["category", "category"], "'category' stands there twice; name it once"),
    ],
)
def test_features_that_clicks_cannot_have_are_refused(config, names, message):
    with pytest.raises(ValidationError, match=message):
        validated(config, "data", history_features=names)


def test_features_of_clicks_without_a_history_are_refused(config):
    featured = validated(config, "data", history_features=["category"])
    with pytest.raises(ValidationError, match=r"data\.history_features needs the click history"):
        validated(featured, "network", history="none")


def test_a_teacher_may_read_longer_histories_but_no_other_fields_of_them(
    featured, parents, tmp_path
):
    store = Store(shutil.copytree(parents, tmp_path / "store"))
    few = changed(featured, "snapshots", count=0)
    train("cpm", Request(few, store, DATE, "clicks", "clicks"))
    taught = changed(few, "actr", init="none", source="ctnet")
    shorter = changed(taught, "data", history_length=3)
    ref = train("actr", Request(shorter, store, DATE, "clicks", "clicks")).manifest.ref
    assert evaluate(shorter, store, ref, NEXT).metrics["all"]["auc"] > 0.4
    others = {"source": "ctnet", "init": "none"}, {"init": "cpm"}
    for settings in others:
        plain = changed(changed(few, "actr", **settings), "data", history_features=())
        with pytest.raises(ConfigError, match=r"data\.history_features"):
            train("actr", Request(plain, store, DATE, "clicks", "clicks"))
    plain = changed(shorter, "data", history_features=())
    with pytest.raises(ConfigError, match=r"data\.history_features: \['category'\] \(now \[\]\)"):
        evaluate(plain, store, ref, NEXT)


@pytest.mark.parametrize("source", [None, "ctnet"])
def test_a_bundle_scores_raw_requests_with_the_categories_of_their_clicks(
    featured, parents, tmp_path, source
):
    """From CPM to the server, also with a teacher that reads the clicks in its own rows."""
    store = Store(shutil.copytree(parents, tmp_path / "store"))
    few = changed(featured, "snapshots", count=0)
    train("cpm", Request(few, store, DATE, "clicks", "clicks"))
    settings = {"init": "none", "source": source} if source else {}
    few = changed(few, "actr", **settings)
    ref = train("actr", Request(few, store, DATE, "clicks", "clicks")).manifest.ref
    assert evaluate(few, store, ref, NEXT).metrics["all"]["auc"] > 0.4
    export_bundle(store, ref, tmp_path / "bundle")
    scorer = Scorer(tmp_path / "bundle", verify=True)
    requests = logged_requests(few, NEXT)
    given = next(one for one in requests if any(c["ts"] < one["ts"] for c in one["history"]))
    assert "category" in given["history"][0]
    without = [{k: v for k, v in click.items() if k != "category"} for click in given["history"]]
    assert scorer.score(given) != scorer.score(given | {"history": without})
