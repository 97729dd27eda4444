"""The Complete Journey's files as impressions.

A miniature whose right answer is counted by hand in Python.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.config import DOMAINS, load_config
from ecdctr.errors import ConfigError, ContractError
from ecdctr.files.durable import digests
from ecdctr.impressions.completejourney import convert
from ecdctr.impressions.contract import validate
from tests.conftest import REPOSITORY
from tests.make import changed

TYPES = [f"TYPE {n}" for n in range(12)]
Row = dict[str, Any]


def write_package(folder: Path, seed: int = 3) -> dict[str, list[Row]]:
    """Return the package's files in small.

    40 products of 12 types, 3 stores, 4 weeks, 9 households; as rows, too.
    """
    rng = np.random.default_rng(seed)
    products: list[Row] = [
        {
            "product_id": n,
            "department": "FUEL" if n == 38 else "GROCERY" if n % 3 else "PRODUCE",
            "product_category": f"CATEGORY {n % 5}",
            "product_type": None if n == 39 else TYPES[n % 12],
        }
        for n in range(40)
    ]
    promotions: list[Row] = [
        {
            "product_id": int(n),
            "store_id": store,
            "week": week,
            "mailer_location": place,
            "display_location": "0",
        }
        for store in range(3)
        for week in range(1, 5)
        for n, place in zip(rng.choice(40, 8, replace=False), "DFHA0DAX", strict=True)
    ]
    transactions: list[Row] = []
    for basket in range(150):
        week = 1 + basket * 4 // 150
        start = dt.datetime(2017, 1, 2) + dt.timedelta(
            days=7 * (week - 1), seconds=int(rng.integers(6 * 86400))
        )
        household, store = int(rng.integers(9)), int(rng.integers(3))
        for n in rng.choice(40, int(rng.integers(1, 7)), replace=False):
            moment = start + dt.timedelta(minutes=int(rng.integers(0, 9)))
            keys = {"household_id": household, "store_id": store, "basket_id": basket, "week": week}
            transactions.append(keys | {"product_id": int(n), "transaction_timestamp": moment})
    late = transactions[-1] | {
        "basket_id": 999,
        "transaction_timestamp": dt.datetime(2018, 1, 1, 1),
    }
    transactions.append(late)
    demographics: list[Row] = [
        {
            "household_id": n,
            "age": "35-44",
            "income": "50-74K",
            "household_size": None if n else "2",
        }
        for n in range(3)
    ]
    tables = {
        "products": products,
        "promotions": promotions,
        "transactions": transactions,
        "demographics": demographics,
    }
    folder.mkdir(parents=True)
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return tables


def read(root: Path, domain: str) -> list[Row]:
    paths = sorted((root / f"domain={domain}").rglob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path, partitioning=None).to_pylist()]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[Row]]]:
    folder = tmp_path_factory.mktemp("journey")
    tables = write_package(folder / "package")
    convert(folder / "package", folder / "data")
    return folder / "data", tables


class Counted:
    """What the rules say, in plain Python."""

    def __init__(self, tables: dict[str, list[Row]]) -> None:
        self.type = {
            p["product_id"]: p["product_type"]
            for p in tables["products"]
            if p["product_type"] and p["department"] != "FUEL"
        }
        promoted = {(p["product_id"], p["store_id"], p["week"]) for p in tables["promotions"]}
        shown: dict[tuple[int, int], dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))
        for p in tables["promotions"]:
            if p["mailer_location"] in "DFH" and p["product_id"] in self.type:
                shown[p["store_id"], p["week"]][self.type[p["product_id"]]].add(p["product_id"])
        self.shown = shown
        self.trips: dict[int, tuple[int, int, int, dt.datetime]] = {}
        bought: dict[int, dict[str, bool]] = defaultdict(dict)
        for t in tables["transactions"]:
            basket, at = t["basket_id"], t["transaction_timestamp"]
            before = self.trips.get(basket)
            first = min(at, before[3]) if before else at
            self.trips[basket] = (t["household_id"], t["store_id"], t["week"], first)
            if t["product_id"] in self.type:
                item = self.type[t["product_id"]]
                free = (t["product_id"], t["store_id"], t["week"]) not in promoted
                bought[basket][item] = bought[basket].get(item, True) and free
        del self.trips[999]  # after midnight UTC of the last day
        self.bought = bought
        self.by_moment = {(trip[0], trip[3]): basket for basket, trip in self.trips.items()}

    def basket(self, row: Row) -> int:
        return self.by_moment[row["user_id"], row["ts"].replace(tzinfo=None)]


def test_ads_are_what_the_mailer_shows_in_front_and_clicks_what_was_bought_of_it(converted):
    root, tables = converted
    counted = Counted(tables)
    per_trip: dict[int, list[Row]] = defaultdict(list)
    for row in read(root, "ads"):
        per_trip[counted.basket(row)].append(row)
    for basket, (_, store, week, _) in counted.trips.items():
        shown = counted.shown[store, week]
        clicks = set(shown) & set(counted.bought[basket])
        rows = per_trip.get(basket, [])
        assert {row["item_id"] for row in rows if row["click"]} == clicks
        others = [row["item_id"] for row in rows if not row["click"]]
        assert set(others) <= set(shown) - clicks
        assert len(others) == min(len(shown) - len(clicks), 4 * len(clicks) + 1)
        assert all(row["products_shown"] == len(shown[row["item_id"]]) for row in rows)


def test_natural_content_is_what_was_bought_unpromoted_and_what_others_bought_so(converted):
    root, tables = converted
    counted = Counted(tables)
    clicks: dict[int, set[str]] = defaultdict(set)
    for row in read(root, "natural"):
        basket = counted.basket(row)
        household, store, week, _ = counted.trips[basket]
        assert row["item_id"] not in counted.shown[store, week]
        if row["click"]:
            clicks[basket].add(row["item_id"])
            continue
        assert row["item_id"] not in counted.bought[basket]
        assert any(
            counted.bought[other].get(row["item_id"])
            for other, trip in counted.trips.items()
            if trip[1:3] == (store, week) and trip[0] != household
        )
    for basket, (_, store, week, _) in counted.trips.items():
        free = {item for item, unpromoted in counted.bought[basket].items() if unpromoted}
        assert clicks[basket] == free - set(counted.shown[store, week])


def test_what_is_written_passes_the_contract_and_holds_the_features(converted):
    root, _ = converted
    loaded = load_config(REPOSITORY / "configs" / "completejourney.yaml")
    config = changed(loaded, "data", root=root, allowed_missing_days=3)  # no trips on Sundays
    reports = validate(config, list(DOMAINS))
    assert reports
    assert not [violation for report in reports for violation in report.violations]
    rows = read(root, "ads") + read(root, "natural")
    assert len({row["impression_id"] for row in rows}) == len(rows)
    assert max(row["ts"] for row in rows) < dt.datetime(2018, 1, 1, tzinfo=dt.UTC)
    ages = {row["user_id"]: (row["age"], row["household"]) for row in rows}
    assert ages[0] == ("35-44", "2")
    assert ages[1] == ("35-44", "unknown")
    assert ages[8] == ("unknown", "unknown")
    # of type 0's products 0, 12, 24 and 36 one each has category 0, 2, 4 and 1: the first by bytes
    assert {row["category"] for row in rows if row["item_id"] == TYPES[0]} == {"CATEGORY 0"}


def test_the_same_files_for_any_number_of_threads_and_other_draws_for_another_seed(
    converted, tmp_path
):
    root, _ = converted
    package = root.parent / "package"
    convert(package, tmp_path / "threads", threads=4)
    convert(package, tmp_path / "seed", seed=2)
    assert digests(tmp_path / "threads") == digests(root)
    assert digests(tmp_path / "seed") != digests(root)
    one, other = ({(r["user_id"], r["ts"], r["item_id"]) for r in read(r_, "ads") if r["click"]}
                  for r_ in (root, tmp_path / "seed"))  # fmt: skip
    assert one == other, "the seed decides what was not bought, nothing else"


def test_bad_sources_are_refused_in_a_sentence_and_nothing_is_left(tmp_path):
    tables = write_package(tmp_path / "package")
    root = tmp_path / "data"
    with pytest.raises(ConfigError, match=r"No transactions\.parquet in .*unpacked wheel"):
        convert(tmp_path, root)
    rows = [{k: v for k, v in row.items() if k != "week"} for row in tables["promotions"]]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "package" / "promotions.parquet")
    with pytest.raises(ContractError, match=r"promotions\.parquet: expected column week, found"):
        convert(tmp_path / "package", root)
    (tmp_path / "package" / "promotions.parquet").write_bytes(b"no parquet")
    with pytest.raises(ContractError, match=r"promotions\.parquet cannot be read as Parquet"):
        convert(tmp_path / "package", root)
    nobody = [row | {"mailer_location": "0"} for row in tables["promotions"]]
    pq.write_table(pa.Table.from_pylist(nobody), tmp_path / "package" / "promotions.parquet")
    with pytest.raises(ContractError, match="Expected purchases of what the mailer shows in front"):
        convert(tmp_path / "package", root)
    assert not list(root.iterdir())
    (root / "domain=ads").mkdir()
    with pytest.raises(ConfigError, match="already holds domain=ads"):
        convert(tmp_path / "package", root)


def test_the_command_says_what_was_written(converted, tmp_path):
    package = converted[0].parent / "package"
    arguments = [
        "--config",
        str(REPOSITORY / "configs" / "completejourney.yaml"),
        "--json",
        "import",
    ]
    arguments += ["completejourney", "--from", str(package), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert '"first": "2017-01-02"' in done.output
    assert (tmp_path / "out" / "domain=ads").exists()
