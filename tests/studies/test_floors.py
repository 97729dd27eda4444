"""Floors: what an afternoon reaches is measured on the same impressions.

And a page says who is below.
"""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy  # its parts are loaded by whoever asks for them

from ecdctr.config import Config
from ecdctr.errors import ConfigError
from ecdctr.evaluation.compare import compare, holm
from ecdctr.evaluation.metrics import gauc
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.request import Silent
from ecdctr.studies.ablation.ahead import against_floors, ahead_of_floor, best_row
from ecdctr.studies.ablation.page import Origin, results_page
from ecdctr.studies.ablation.plan import Study
from ecdctr.studies.ablation.study import run_study
from ecdctr.studies.ablation.worth import worth_section
from ecdctr.studies.floors import FLOORS, Floor, floors, quick_floors
from ecdctr.studies.kept_floors import kept_floors
from ecdctr.worlds.named import load_world
from tests.conftest import DATE, REPOSITORY
from tests.make import changed

NEXT = DATE + dt.timedelta(days=1)


def impressions(config: Config, dates: list[dt.date], domain: str) -> list[dict]:
    log = open_impressions(config.data.root)
    paths = [path for date in dates for path in log.files(domain, date)]
    return [row for path in paths for row in pa.parquet.ParquetFile(path).read().to_pylist()]


@pytest.fixture(scope="module")
def of_world(config: Config) -> list[Floor]:
    """Return the floors of the tiny world."""
    return floors(config, DATE)


def test_floors_are_what_counting_by_hand_gives(config: Config, of_world: list[Floor]):
    by_name = {floor.name: floor for floor in of_world}
    assert tuple(by_name) == FLOORS
    days = [one for one in open_impressions(config.data.root).dates("ads") if one <= DATE]
    past, day = impressions(config, days, "ads"), impressions(config, [NEXT], "ads")
    natural = impressions(config, days, "natural")
    prior = np.mean([row["click"] for row in past])
    users = np.array([row["user_id"] for row in day])
    labels = np.array([row["click"] for row in day], np.float64)
    rates, clicks = [], []
    for row in day:
        of_item = [one["click"] for one in past if one["item_id"] == row["item_id"]]
        rates.append((sum(of_item) + 10 * prior) / (len(of_item) + 10))
        pair = (row["user_id"], row["item_id"])
        both = [one for one in past + natural if (one["user_id"], one["item_id"]) == pair]
        clicks.append(sum(one["click"] for one in both))
    metrics = by_name["item_rate"].metrics["all"]
    assert metrics["gauc"] == pytest.approx(gauc(users, labels, np.array(rates)))
    assert metrics["calibration"] == pytest.approx(np.mean(rates) / labels.mean())
    expected = gauc(users, labels, np.array(clicks) + np.array(rates))
    assert by_name["counts"].metrics["all"]["gauc"] == pytest.approx(expected)
    assert "log_loss" not in by_name["counts"].metrics["all"], "a count is no probability"
    assert 0 < by_name["gbm"].metrics["all"]["log_loss"] < 5
    assert {row["user"] for row in by_name["gbm"].users.to_pylist()} == set(users.tolist())


def test_quick_floors_count_in_the_window_of_ads_alone_and_prepare_nothing(
    config: Config, of_world: list[Floor], tmp_path: Path
):
    prepared = tmp_path / "prepared"  # others prepare into the shared one meanwhile
    config = changed(config, "data", prepared=prepared)
    short = changed(config, "actr", window_days=3)
    days = [DATE - dt.timedelta(days=back) for back in (2, 1, 0)]
    prepare(config, "ads", [*days, NEXT])  # as A-CTR's training and its evaluation do
    before = sorted(config.data.prepared.rglob("*.parquet"))
    by_name = {floor.name: floor for floor in quick_floors(short, DATE)}
    assert sorted(config.data.prepared.rglob("*.parquet")) == before
    past, day = impressions(config, days, "ads"), impressions(config, [NEXT], "ads")
    prior = np.mean([row["click"] for row in past])
    rates = []
    for row in day:
        of_item = [one["click"] for one in past if one["item_id"] == row["item_id"]]
        rates.append((sum(of_item) + 10 * prior) / (len(of_item) + 10))
    users = np.array([row["user_id"] for row in day])
    labels = np.array([row["click"] for row in day], np.float64)
    expected = gauc(users, labels, np.array(rates))
    assert by_name["item_rate"].metrics["all"]["gauc"] == pytest.approx(expected)
    assert 0 < by_name["gbm"].metrics["all"]["log_loss"] < 5
    (judged,) = {floor.judged_on for floor in by_name.values()}
    assert judged == of_world[0].judged_on


def test_floors_are_kept_until_a_day_that_they_read_changes(config: Config, tmp_path, monkeypatch):
    made = kept_floors(config, DATE, tmp_path / "floors")
    with monkeypatch.context() as patch:
        patch.setattr("ecdctr.studies.kept_floors.floors", None)
        kept = kept_floors(config, DATE, tmp_path / "floors")
    for one, two in zip(made, kept, strict=True):
        assert (one.name, one.seconds, one.users.to_pylist()) == (
            two.name,
            two.seconds,
            two.users.to_pylist(),
        )
        assert str(one.metrics) == str(two.metrics), "nan, too"
    (file,) = (tmp_path / "floors").iterdir()
    whole = file.read_bytes()
    for damage in (b"", b"\xff", b"[[]]", b'[{"users": 1}]'):
        file.write_bytes(damage)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("ecdctr.studies.kept_floors.floors", lambda *_: made)
            assert kept_floors(config, DATE, tmp_path / "floors") == made
        assert file.read_bytes() == whole, "made anew and kept"
    copy = tmp_path / "data"
    shutil.copytree(config.data.root, copy)
    (path,) = open_impressions(copy).files("ads", NEXT)
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.slice(1), path)
    other = changed(config, "data", root=copy, prepared=tmp_path / "prepared")
    shorter = kept_floors(other, DATE, tmp_path / "floors")
    assert shorter[0].metrics["all"]["impressions"] < made[0].metrics["all"]["impressions"]


def test_floors_read_nothing_after_their_data_date(config: Config, of_world, tmp_path):
    """With the clicks of the evaluated day turned round, the scores stay: labels are not read."""
    copy = tmp_path / "data"
    shutil.copytree(config.data.root, copy)
    for path in open_impressions(copy).files("ads", NEXT):
        table = pq.read_table(path, partitioning=None)
        turned = pa.array(1 - table["click"].to_numpy(), pa.int8())
        pq.write_table(table.set_column(table.column_names.index("click"), "click", turned), path)
    other = changed(config, "data", root=copy, prepared=tmp_path / "prepared")
    for one, two in zip(of_world, floors(other, DATE), strict=True):
        scored = [floor.metrics["all"]["gauc"] for floor in (one, two)]
        assert scored[0] == pytest.approx(1 - scored[1]), one.name


def test_rows_that_quarantine_sets_aside_change_no_floor(config: Config, of_world, tmp_path):
    """The log with each row of a past day doubled, without a click where there was one."""
    copy = tmp_path / "data"
    shutil.copytree(config.data.root, copy)
    (path,) = open_impressions(copy).files("ads", DATE)
    table = pq.read_table(path, partitioning=None)
    nothing = pa.array([0] * table.num_rows, table.schema.field("click").type)
    doubled = table.set_column(table.column_names.index("click"), "click", nothing)
    pq.write_table(pa.concat_tables([table, doubled]), path)
    clean = changed(config, "data", root=copy, prepared=tmp_path / "prepared", quarantine=True)
    for one, two in zip(of_world, floors(clean, DATE), strict=True):
        assert one.users.equals(two.users), one.name
        assert one.metrics["all"] == two.metrics["all"], one.name


def test_without_scikit_learn_a_study_says_what_to_install_before_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    study = Study(
        REPOSITORY / "configs" / "tiny.yaml", load_world("tiny"), (1,), ("full",), 1, tmp_path
    )
    with pytest.raises(ConfigError, match=r"pip install 'ecdctr\[studies\]'"):
        run_study(study, 1, Silent())
    assert not list(tmp_path.iterdir())


def page(
    means: dict[str, float], seconds: dict[str, float] | None = None, own_data: bool = False
) -> str:
    cohort = {"seed": 1, "date": DATE, "cohort": "all", "impressions": 9}
    records = [
        {**cohort, "row": row, "gauc": value, "daily_seconds": (seconds or {}).get(row)}
        for row, value in means.items()
    ]
    users = [
        {"seed": 1, "row": row, "date": DATE, "user": 1, "auc": value, "impressions": 9}
        for row, value in means.items()
    ]
    return results_page(records, users, Origin(own_data=own_data))


def test_the_first_line_of_a_page_says_which_rows_are_below_a_floor():
    means = {"item_rate": 0.6, "gbm": 0.8, "ads_only": 0.79, "full": 0.81}
    first = page(means).splitlines()[2]
    assert first.startswith(
        "**Below the best floor, gradient boosting on counts (GAUC 0.8000): ads"
    )
    assert "0.7900" in first
    assert "full" not in first
    above = page(means | {"ads_only": 0.805}).splitlines()[2]
    assert above.startswith("**Every row of the method is above the best floor")


def test_where_rows_are_judged_by_held_out_ads_the_first_lines_go_by_them_over_worlds():
    """Drawn clicks say the opposite here; two worlds are too few to speak of others."""
    drawn = {"item_rate": 0.6, "gbm": 0.8, "ads_only": 0.81, "full": 0.7}
    true = {"item_rate": 0.7, "gbm": 0.65, "ads_only": 0.69, "full": 0.72}

    def lines(worlds: int) -> list[str]:
        cohort = {"date": DATE, "cohort": "all", "impressions": 9}
        records = [
            {**cohort, "seed": seed, "row": row, "gauc": drawn[row],
             "expected_gauc": true[row] + 0.001 * seed * (row == "full")}
            for seed in range(worlds) for row in drawn
        ]  # fmt: skip
        users = [
            {"seed": seed, "row": row, "date": DATE, "user": 1, "auc": value, "impressions": 9}
            for seed in range(worlds)
            for row, value in drawn.items()
        ]
        rows = list(drawn)
        ahead = ahead_of_floor(records, users, rows, own_data=False)
        return [against_floors(records, rows).strip(), best_row(records, ahead).strip()]

    of_worlds = lines(4)
    assert of_worlds[0] == (
        "**Below the best floor, item's click rate (expected GAUC on held-out ads 0.7000): "
        "ads only 0.6900.**"
    )
    gain = scipy.stats.ttest_1samp([0.02, 0.021, 0.022, 0.023], 0)
    low, high = gain.confidence_interval()
    assert of_worlds[1] == (
        "The best row of the method, full E-CDCTR, is ahead of item's click rate by 0.0215 "
        f"expected GAUC on held-out ads, interval {low:+.4f} to {high:+.4f} over worlds, p = "
        f"{2 * gain.pvalue:.4f} by Holm."
    )
    assert "boosting on counts (GAUC 0.8000)" in lines(2)[0]


def test_a_page_says_what_each_part_is_worth_as_the_comparison_of_its_two_rows_says():
    rng = np.random.default_rng(5)
    means = {"no_tpm": 0.6, "vectors": 0.65, "full": 0.7}
    users = [
        {"seed": seed, "row": row, "date": DATE, "user": user, "impressions": 9,
         "auc": mean + rng.normal(0, 0.1)}
        for seed in (1, 2) for user in range(40) for row, mean in means.items()
    ]  # fmt: skip
    records = [
        {"seed": seed, "row": row, "date": DATE, "cohort": "all", "impressions": 9, "gauc": mean}
        for seed in (1, 2)
        for row, mean in means.items()
    ]
    table = "\n".join(worth_section(records, users, same_users=True)).splitlines()
    told = {line.split(" | ")[0].removeprefix("| "): line for line in table if " − " in line}
    pairs = {
        "TPM's vectors": ("vectors", "no_tpm"),
        "vectors and memory": ("full", "no_tpm"),
        "memory beside vectors": ("full", "vectors"),
    }
    assert set(told) == set(pairs)  # no row `memory`: nothing of what it would tell
    for part, (first, second) in pairs.items():
        one = compare(users, first, second, same_users=True)
        assert f"| {first} − {second} | {one.interval} |" in told[part]
        assert f"{means[first] - means[second]:+.4f}, " in told[part]
    assert worth_section([r for r in records if r["row"] == "full"], users, same_users=True) == []


def test_over_three_worlds_and_more_held_out_ads_say_what_a_part_is_worth():
    gained = [0.02, 0.01, 0.03]
    records = [
        {"seed": seed, "row": row, "date": DATE, "cohort": "all", "impressions": 9, "gauc": 0.5,
         "expected_gauc": 0.6 + (gained[seed] if row == "memory" else 0)}
        for seed in range(3) for row in ("memory", "no_tpm")
    ]  # fmt: skip
    section = "\n".join(worth_section(records, [], same_users=False))
    interval = scipy.stats.ttest_1samp(gained, 0).confidence_interval()
    assert f"+0.0200 [{interval.low:+.4f}, {interval.high:+.4f}]" in section
    assert "each a world and weights of its own" in section


def test_a_user_is_drawn_with_all_days_and_where_users_are_the_same_with_all_seeds():
    """Against users that copy one day: a hundred copies of a day say no more than the day."""
    rng = np.random.default_rng(1)
    gains = rng.normal(0.01, 0.1, 60)

    def records(days: int, seeds: int) -> list[dict]:
        return [
            {"seed": s, "date": d, "row": row, "user": u, "auc": 0.5 + g * (row == "a"),
             "impressions": 10}
            for s in range(seeds) for d in range(days) for row in "ab" for u, g in enumerate(gains)
        ]  # fmt: skip

    once, often = compare(records(1, 1), "a", "b"), compare(records(30, 1), "a", "b")
    assert (often.low, often.high, often.p) == pytest.approx((once.low, once.high, once.p))
    seeds = compare(records(1, 30), "a", "b", same_users=True)
    assert (seeds.low, seeds.high) == pytest.approx((once.low, once.high))
    assert once.difference == pytest.approx(gains.mean())


def test_a_page_says_how_its_rows_are_compared():
    """Seeds of weights have the same users, seeds of worlds others."""
    means = {"gbm": 0.8, "ads_only": 0.79, "full": 0.81}
    of_worlds, of_weights = page(means), page(means, own_data=True)
    assert of_worlds.count("within each seed over users, each drawn with all of its days.") == 2
    assert of_weights.count("bootstrap over users, each drawn with all of its days and seeds.") == 2
    assert "within each seed" not in of_weights


def test_holm_is_the_textbook_example_and_never_below_the_p_value():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []
    assert holm([0.7, 0.9]) == [1.0, 1.0]


def test_the_detectable_difference_is_found_four_times_in_five():
    """Simulated: users whose true gain is what one such study calls detectable."""
    rng = np.random.default_rng(3)

    def compared(mean: float):
        gains = rng.normal(mean, 0.1, 120)
        users = [
            {"seed": 1, "date": 1, "row": row, "user": u, "auc": 0.5 + g * (row == "a"),
             "impressions": 1}
            for row in "ab" for u, g in enumerate(gains)
        ]  # fmt: skip
        return compare(users, "a", "b")

    detectable = compared(0.0).detectable
    power = np.mean([compared(detectable).low > 0 for _ in range(100)])
    assert 0.65 < power < 0.95


def test_boosting_is_trained_on_the_share_of_ads_that_the_ads_model_is(config: Config):
    whole, some = (
        {
            floor.name: floor.metrics["all"]
            for floor in floors(changed(config, "actr", ads_share=share), DATE)
        }
        for share in (1.0, 0.4)
    )
    assert some["gbm"] != whole["gbm"]
    assert (some["item_rate"], some["counts"]) == (whole["item_rate"], whole["counts"])


def test_a_page_says_what_the_best_row_is_worth_and_costs():
    means = {"item_rate": 0.6, "gbm": 0.8, "ads_only": 0.79, "full": 0.81}
    text = page(means, {"gbm": 3.0, "full": 20.0})
    assert text.splitlines()[4] == (
        "The best row of the method, full E-CDCTR (20.0 s of training a day), is ahead of gradient "
        "boosting on counts (3.0 s of training a day) by 0.0100 GAUC, interval +0.0000 to +0.0100, "
        "p = 1.0000 by Holm."
    )
    assert "| floor: gradient boosting on counts | 0.8000 | – | – | – | 3.0 s | – | – |" in text
    assert "headroom" not in text, "no oracle, no headroom"
