"""No skew: the scorer makes of a raw request what preparation makes of the same impression."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from ecdctr.config import Config
from ecdctr.examples.batches import Inputs, encode
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.transforms import COUNT_FEATURES, DAY, SECOND
from ecdctr.examples.vocabulary import EMPTY, Vocabulary
from ecdctr.serving.export import _ids, _kind, _places
from ecdctr.serving.request import Shape
from ecdctr.serving.scorer import Scorer
from ecdctr.serving.selftest import Impressions, request_of, write
from ecdctr.serving.tables import Ids, Layout, Table, write_ids

DATE = dt.date(2026, 1, 20)
MIDNIGHT = int(dt.datetime.combine(DATE, dt.time(), dt.UTC).timestamp()) * SECOND
FEATURES = [
    {"name": "city", "side": "user", "kind": "categorical"},
    {"name": "tags", "side": "item", "kind": "multi_valued", "max_values": 2},
    {"name": "price", "side": "item", "kind": "numeric", "transform": "log1p"},
    {"name": "age", "side": "user", "kind": "numeric"},
    {"name": "slot", "side": "context", "kind": "categorical"},
    {"name": "kind", "side": "item", "kind": "categorical"},
]
# Around midnights, inside one second, and anywhere
OFFSETS = st.sampled_from([0, 1, SECOND - 1, DAY - 1, DAY // 2, DAY // 2 + 1]) | st.integers(
    0, DAY - 1
)
NUMBERS = st.none() | st.floats(-1e6, 1e6, width=32)


class Encoder(Scorer):
    """A scorer without a network: its features alone."""

    def __init__(
        self, config: Config, inputs: Inputs, prior: float, vocabularies: dict[str, Vocabulary]
    ) -> None:
        declared = {
            f.name: {"transform": f.transform, "null": config.data.numeric_null}
            for f in config.features
        }
        self.description = {
            "fields": inputs.fields,
            "multi": inputs.multi,
            "numeric": declared | {name: {} for name in COUNT_FEATURES},
            "tables": {"parts": []},  # no vectors: there is no network
            "history_length": inputs.history_length,
            "history_features": inputs.history_features,
            "lookback_days": config.data.lookback_days,
            "history_days": config.data.click_days,
            "prior_ctr": prior,
            "user_side": ["city", "age", "user_impressions", "user_clicks"],
            "context_side": ["slot"],
        }
        self.description["numeric"] = {
            name: self.description["numeric"][name] for name in inputs.numeric
        }
        self.description["item_side"] = [
            "item_id",
            "kind",
            "tags",
            "price",
            "item_impressions",
            "item_clicks",
        ]
        self.kinds = {name: _kind(vocabulary) for name, vocabulary in vocabularies.items()}
        self.tables, self.places = {}, {}
        with tempfile.TemporaryDirectory() as folder:
            for name, vocabulary in vocabularies.items():
                self.places[name] = _places(write_ids(Path(folder), name, _ids(vocabulary)))
                ids = Ids(Path(folder), name, self.kinds[name])
                self.tables[name] = Table.__new__(Table)
                self.tables[name].ids = ids
        self.shape = Shape(self.description, self.kinds)
        self.layout = Layout.of(self.description)
        self._memory = None


@st.composite
def impressions(draw: st.DrawFn, days: int, named: Any) -> Impressions:
    """Return both domains, the day itself and up to `days` before it.

    Ids and categories from a few values.
    """
    few = st.integers(0, 3)
    log: Impressions = {}
    seen = set()
    moments = st.tuples(st.sampled_from(["natural", "ads"]), st.integers(0, days), OFFSETS)
    today = st.tuples(st.just("ads"), st.just(0), OFFSETS)
    drawn = draw(st.lists(today, min_size=1, max_size=8)) + draw(st.lists(moments, max_size=25))
    for domain, back, offset in drawn:
        row = {"user_id": named(draw(few)), "item_id": named(draw(few))}
        row |= {"ts": MIDNIGHT - back * DAY + offset, "click": draw(st.integers(0, 1))}
        key = tuple(row[name] for name in ("user_id", "item_id", "ts"))
        if key not in seen:
            seen.add(key)
            optional = st.none() | few.map(named)
            row |= {"city": draw(optional), "slot": draw(optional), "kind": draw(optional)}
            row |= {"price": draw(NUMBERS), "age": draw(NUMBERS)}
            row["tags"] = draw(st.none() | st.lists(optional, max_size=3))
            log.setdefault((domain, DATE - dt.timedelta(days=back)), []).append(row)
    return log


def in_bundle(
    scorer: Scorer, inputs: Inputs, vocabularies: dict[str, Vocabulary], array: str, rows: Any
) -> Any:
    """Return rows of the trainer's tables as rows of the bundle's, which lie in another order."""
    columns = {
        "ids": inputs.fields,
        "multi": [name for name, width in inputs.multi for _ in range(width)],
        "history": [name for name in inputs.history_fields for _ in range(inputs.history_length)],
    }.get(array)
    if columns is None:
        return rows
    places = [scorer.places[name] for name in columns]
    return np.stack([place[column] for place, column in zip(places, rows.T, strict=True)], axis=1)


@settings(max_examples=60)
@given(data=st.data(), strings=st.booleans(), length=st.integers(1, 3), lookback=st.integers(1, 3))
def test_the_scorer_makes_of_a_request_what_preparation_makes_of_the_impression(
    data: st.DataObject, strings: bool, length: int, lookback: int
) -> None:
    named = (lambda number: f"é{number}") if strings else (lambda number: number - 1)
    log = data.draw(impressions(lookback + 1, named))
    names = ("user_id", "item_id", "city", "slot", "tags", "kind")
    trained_ids = pa.array([named(number) for number in (2, 0, 1)])  # 3 was never seen in training
    vocabularies = {name: EMPTY.extended(trained_ids) for name in names}
    hours = EMPTY.extended(pa.array([0, 12, 23]))
    with tempfile.TemporaryDirectory() as name:
        paths = {"root": Path(name) / "log", "prepared": Path(name) / "prepared"}
        shape = {
            "history_length": length,
            "lookback_days": lookback,
            "history_features": ["kind"],
            "history_days": data.draw(st.none() | st.integers(1, lookback + 1)),
            "numeric_null": -1.5,
            "allowed_missing_days": 9,
        }
        config = Config.model_validate({"data": paths | shape, "features": FEATURES})
        write(config, vocabularies, log)
        (day,) = prepare(config, "ads", [DATE])
        table = next(read_chunks([Part(day.path, "ads")], None, 1000))
    inputs = Inputs.of(config, "actr")
    vocabularies["hour"] = hours
    expected = encode(table, inputs, vocabularies)
    scorer = Encoder(config, inputs, table["prior_ctr"][0].as_py(), vocabularies)
    rows = sorted(log["ads", DATE], key=lambda row: (row["ts"], row["user_id"], row["item_id"]))
    for i, row in enumerate(rows):
        encoded = scorer.encode(request_of(config, log, row, DATE))
        for array in ("ids", "multi", "numeric", "history", "gaps"):
            prepared = getattr(expected, array)[i : i + 1].numpy()
            prepared = in_bundle(scorer, inputs, vocabularies, array, prepared)
            if array == "numeric":  # ln of two libraries
                np.testing.assert_allclose(encoded[array], prepared, rtol=3e-7, atol=1e-7)
            else:
                np.testing.assert_array_equal(encoded[array], prepared, err_msg=f"{array} of {row}")


def test_counts_of_zero_are_what_preparation_gives_the_unseen(config, tmp_path) -> None:
    """Of a day in whose past neither the user nor the item is: the prior, not zero."""
    rows = [
        {
            "user_id": user,
            "item_id": user + 10,
            "ts": ts,
            "click": click,
            "city": 1,
            "slot": 1,
            "kind": 1,
        }
        | {"price": 1.0, "age": 2.0, "tags": []}
        for user, ts, click in ((1, MIDNIGHT - 2, 1), (1, MIDNIGHT - 1, 0), (2, MIDNIGHT, 0))
    ]
    log: Impressions = {("ads", DATE - dt.timedelta(days=1)): rows[:2], ("ads", DATE): rows[2:]}
    names = ("user_id", "item_id", "city", "slot", "tags", "kind")
    vocabularies = {name: EMPTY.extended(pa.array([1])) for name in names}
    paths = {"root": tmp_path / "log", "prepared": tmp_path / "prepared"}
    made = Config.model_validate({"data": paths, "features": FEATURES})
    write(made, vocabularies, log)
    (day,) = prepare(made, "ads", [DATE])
    (example,) = pq.read_table(day.path, partitioning=None).to_pylist()
    assert (example["user_ctr"], example["item_ctr"], example["prior_ctr"]) == (0.5, 0.5, 0.5)
    inputs = Inputs.of(made, "actr")
    vocabularies["hour"] = EMPTY
    scorer = Encoder(made, inputs, example["prior_ctr"], vocabularies)
    user, item = ({f"{side}_impressions": 0, f"{side}_clicks": 0} for side in ("user", "item"))
    request = {"ts": MIDNIGHT / SECOND, "user": user, "candidates": [item]}
    numbers = scorer.encode(request)["numeric"][0]
    assert dict(zip(inputs.numeric, numbers.tolist(), strict=True)) == {
        "price": 0.0,
        "age": 0.0,
        "user_impressions": 0.0,
        "user_ctr": 0.5,
        "item_impressions": 0.0,
        "item_ctr": 0.5,
    }
