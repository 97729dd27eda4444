"""The forgetting matrix and its measures.

Against brute force, on matrices whose answer is known, and end to end.
"""

from __future__ import annotations

import csv
import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ecdctr.config import Config
from ecdctr.errors import EcdctrError, StoreError
from ecdctr.evaluation.evaluate import score
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.store.manifest import Ref
from ecdctr.store.retention import remove
from ecdctr.store.store import Store
from ecdctr.studies.forgetting import matrix
from ecdctr.studies.forgetting import measures as f
from ecdctr.studies.forgetting.basis import row_basis_now
from ecdctr.studies.forgetting.matrix import held_out_ads, load_rows, matrix_row, stored_row
from ecdctr.studies.forgetting.study import collect
from tests.conftest import DATE, REPOSITORY
from tests.make import changed, delivered_again, forked, made_before

FORGETS = np.array(
    [[0.8, 0.5, 0.5], [0.7, 0.8, 0.6], [0.5, 0.7, 0.9]]
)  # row: model after day i, column: day j


def test_measures_of_a_matrix_by_hand():
    assert f.backward_transfer(FORGETS) == pytest.approx(((0.5 - 0.8) + (0.7 - 0.8)) / 2)
    assert f.largest_drop(FORGETS) == pytest.approx(((0.8 - 0.5) + (0.8 - 0.7)) / 2)
    assert f.forgetting(np.stack([FORGETS, FORGETS])) == pytest.approx(f.largest_drop(FORGETS))
    assert f.forward_transfer(FORGETS) == pytest.approx(((0.5 - 0.5) + (0.6 - 0.5)) / 2)
    assert f.recency_curve(FORGETS) == pytest.approx([(0.8 + 0.8 + 0.9) / 3, (0.7 + 0.7) / 2, 0.5])
    # day 1: 0.5 before, 0.8 after, 0.7 a day later; day 2: 0.6 before, 0.9 after
    assert f.retention(FORGETS) == pytest.approx([1.0, (0.7 - 0.5) / (0.8 - 0.5)])


@given(arrays(np.float64, (2, 5, 5), elements=st.floats(0, 1)))
@settings(max_examples=50)
def test_forgetting_agrees_with_loops_over_halves_and_days(halves):
    last, drops = 4, []
    for chooses, judges in ((0, 1), (1, 0)):
        for j in range(last):
            best = max(range(j, last), key=lambda i: (halves[chooses, i, j], -i))
            drops.append(halves[judges, best, j] - halves[judges, last, j])
    assert f.forgetting(halves) == pytest.approx(np.mean(drops))


def test_models_that_forget_nothing_but_are_noisy_show_a_drop_but_no_forgetting():
    rng = np.random.default_rng(0)
    halves = 0.7 + 0.03 * rng.standard_normal((300, 2, 20, 20))
    assert f.largest_drop(halves.mean(1)).mean() > 0.02
    assert abs(f.forgetting(halves).mean()) < 0.002


def test_half_life_is_where_retention_crosses_one_half():
    days = 12
    r = np.full((days, days), 0.5)
    for i in range(days):
        for j in range(i + 1):
            r[i, j] = 0.5 + 0.4 * 0.5 ** ((i - j) / 3)  # what is learned halves every three days
    assert f.half_life(r) == pytest.approx(3.0, abs=0.05)
    assert np.isinf(f.half_life(np.tril(np.full((days, days), 0.4)) + 0.5))


@given(arrays(np.float64, (5, 5), elements=st.floats(0, 1)))
@settings(max_examples=50)
def test_measures_agree_with_loops(r):
    last = len(r) - 1
    expected = np.mean([max(r[i, j] for i in range(j, last)) - r[last, j] for j in range(last)])
    assert f.largest_drop(r) == pytest.approx(expected)
    assert f.backward_transfer(r) == pytest.approx(
        np.mean([r[last, j] - r[j, j] for j in range(last)])
    )
    stacked = np.stack([r, r])
    for function in (f.largest_drop, f.backward_transfer, f.forward_transfer, f.recency_area):
        assert function(stacked) == pytest.approx([function(r)] * 2)


def rows_of(
    auc: np.ndarray, day: list[int], user: list[int], impressions: list[int]
) -> list[pa.Table]:
    return [
        pa.table({"day": day, "user": user, "impressions": impressions, "auc": row}) for row in auc
    ]


def test_the_matrix_and_its_samples_come_from_users():
    rng = np.random.default_rng(3)
    day, user = np.repeat([0, 1, 2], 30), np.tile(np.arange(30), 3)
    auc, impressions = rng.random((3, 90)), rng.integers(2, 9, 90)
    matrix = f.Matrix.of_rows(rows_of(auc, day, user, impressions), [0, 1, 2], samples=400)
    cell = day == 0
    assert matrix.r[2, 0] == pytest.approx(
        (auc[2, cell] * impressions[cell]).sum() / impressions[cell].sum()
    )
    assert matrix.drawn.mean(0) == pytest.approx(matrix.r, abs=0.03)
    seeds = f.Matrix.stack([matrix, matrix])
    measured = f.measure(seeds)
    assert measured["forgetting"].low <= measured["forgetting"].high
    assert measured["backward transfer"].value == pytest.approx(f.backward_transfer(matrix.r))


def test_a_day_without_a_user_to_judge_by_is_refused():
    rows = rows_of(np.ones((2, 2)), [0, 0], [0, 1], [2, 2])
    with pytest.raises(EcdctrError, match="held-out ads of 1; hold out more"):
        f.Matrix.of_rows(rows, [0, 1])


@pytest.mark.parametrize(
    "other",
    [
        {"user": [7, 9]},  # as many, but others
        {"impressions": [3, 4]},
        {"day": [1, 0]},
        {"user": [7], "day": [0], "impressions": [3]},
    ],
)
def test_rows_of_other_users_days_or_impressions_are_not_stacked(other):
    of = {"day": [0, 1], "user": [7, 8], "impressions": [3, 3]}
    rows = [pa.table({**one, "auc": [0.5] * len(one["user"])}) for one in (of, of | other)]
    assert f.Matrix.of_rows(rows[:1] * 2, [0, 1]).r.shape == (2, 2)
    with pytest.raises(EcdctrError, match="not of the same held-out ads"):
        f.Matrix.of_rows(rows, [0, 1])


def test_a_user_is_drawn_with_all_days():
    """Two users that disagree on both days: each draw moves both days together."""
    auc = np.array([[0.0, 1.0, 0.0, 1.0]] * 2)
    matrix = f.Matrix.of_rows(
        rows_of(auc, [0, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1]), [0, 1], samples=50
    )
    assert np.allclose(matrix.drawn[:, 0, 0], matrix.drawn[:, 0, 1], equal_nan=True)
    assert len(np.unique(matrix.drawn[:, 0, 0])) > 2  # nan where neither was drawn


def forgetful(loss: float, seed: int, level: float = 0.8) -> f.Matrix:
    """Six days, forty users; a model loses `loss` of GAUC each day after it has learned a day."""
    rng = np.random.default_rng(seed)
    day, user = np.repeat(np.arange(6), 40), np.tile(np.arange(40), 6)
    age = np.arange(6)[:, None] - day[None]
    mean = np.where(age >= 0, level - loss * age, level - 0.1)
    auc = mean + 0.01 * rng.standard_normal((6, 40))[:, user]
    return f.Matrix.stack(
        [f.Matrix.of_rows(rows_of(auc, day, user, [3] * len(day)), list(range(6)))]
    )


def test_the_advice_is_the_best_on_the_next_day_and_among_equals_the_one_that_forgets_least():
    slow, fast = forgetful(0.01, 1), forgetful(0.05, 2)
    advice = f.recommend({"fast": fast, "slow": slow})
    assert advice.startswith("Deploy slow")
    assert "cannot be told apart from fast" in advice
    assert f.recommend({"better": forgetful(0.05, 3, 0.9), "slow": slow}).startswith(
        "Deploy better"
    )
    assert "surely forgets less" in advice
    share = f.forgets_less(slow, fast)
    assert share.low < share.value < share.high
    assert share.value == pytest.approx(0.8, abs=0.05)


def test_nothing_is_recommended_where_nothing_can_be_told():
    """Two that are alike, and one that is surely behind."""
    alike = {"a": forgetful(0.03, 1), "b": forgetful(0.03, 2), "behind": forgetful(0.03, 3, 0.6)}
    advice = f.recommend(alike)
    assert "Deploy" not in advice
    assert advice.startswith("No advice: a, b can be told apart neither on the next day")
    assert "from 6 days and 1 seed" in advice
    assert "more days" in advice
    assert "Surely behind on the next day: behind" in advice
    assert "nothing to compare" in f.recommend({"a": alike["a"]})


def test_what_surely_forgets_more_is_named_where_the_best_two_are_alike():
    variants = {"fast": forgetful(0.08, 3), "a": forgetful(0.01, 1), "b": forgetful(0.01, 2)}
    advice = f.recommend(variants)
    assert advice.startswith("No advice: a, b can be told apart neither")
    assert "Surely forgets more, and is no better on the next day: fast." in advice


@pytest.fixture(scope="module")
def holding_out(config: Config) -> Config:
    actr = config.actr.model_copy(update={"hold_out_every": 4})
    return config.model_copy(
        update={"actr": actr, "snapshots": config.snapshots.model_copy(update={"count": 0})}
    )


def test_held_out_rows_are_never_trained_on_and_the_two_folds_make_the_day(config):
    path = prepare(config, "ads", [DATE])[0].path
    whole = pa.concat_tables(read_chunks([Part(path, "ads")], None, 50)).to_pylist()
    train = pa.concat_tables(
        read_chunks([Part(path, "ads", hold_out_every=4)], None, 50)
    ).to_pylist()
    held = pa.concat_tables(
        read_chunks([Part(path, "ads", hold_out_every=4, held_out=True)], None, 50)
    ).to_pylist()
    assert held == whole[::4]
    assert train == [row for i, row in enumerate(whole) if i % 4]


def test_clicks_of_held_out_ads_stand_in_histories_but_are_no_targets_as_the_docs_say(config):
    """docs/forgetting.md: what is measured, said where a reader looks for it."""
    path, after = (day.path for day in prepare(config, "ads", [DATE, DATE + dt.timedelta(days=1)]))
    held = pa.concat_tables(
        read_chunks([Part(path, "ads", hold_out_every=2, held_out=True)], None, 50)
    ).to_pylist()
    clicked = {(row["user_id"], row["item_id"]) for row in held if row["click"]}
    rows = pa.concat_tables(
        read_chunks([Part(after, "ads", hold_out_every=2)], None, 50)
    ).to_pylist()
    assert any((row["user_id"], item) in clicked for row in rows for item in row["history"])
    assert "click histories and counts of later rows" in " ".join(
        (REPOSITORY / "docs" / "forgetting.md").read_text().split()
    )


def test_training_with_a_hold_out_reads_fewer_samples(config, holding_out, store):
    train_cpm(Request(holding_out, store, DATE))
    part = train_actr(Request(holding_out, store, DATE)).manifest.rows["samples"]
    plain = holding_out.model_copy(update={"actr": config.actr})
    whole = train_actr(Request(plain, store, DATE)).manifest.rows["samples"]
    assert part == pytest.approx(whole * 3 / 4, abs=5)


def test_a_matrix_row_equals_brute_force_day_by_day(holding_out, store):
    from sklearn.metrics import roc_auc_score  # here: every worker loads this module

    train_cpm(Request(holding_out, store, DATE))
    ref = train_actr(Request(holding_out, store, DATE)).manifest.ref
    dates = [DATE + dt.timedelta(days=k) for k in (1, 2, 3)]
    held_out = held_out_ads(holding_out, dates, every=2)
    table = matrix_row(holding_out, store, ref, held_out)
    row = {date: table.filter(pc.equal(table.column("day"), pa.scalar(date))) for date in dates}
    compared = 0
    for date, of_day in row.items():
        scored = score(holding_out, store, ref, "ads", date)
        users, labels, scores = scored.users[::2], scored.labels[::2], scored.scores[::2]
        expected = {}
        for user in np.unique(users):
            mine = users == user
            if 0 < labels[mine].sum() < mine.sum():
                expected[user] = (roc_auc_score(labels[mine], scores[mine]), int(mine.sum()))
        auc, impressions = (of_day.column(name).to_numpy() for name in ("auc", "impressions"))
        pairs = sorted(zip(auc.round(9), impressions, strict=True))
        assert pairs == sorted((round(auc, 9), count) for auc, count in expected.values())
        compared += len(pairs)
    assert compared > 3


def test_rows_from_before_a_day_was_delivered_again_are_not_used_again(
    holding_out, store, tmp_path
):
    train_cpm(Request(holding_out, store, DATE))
    ref = train_actr(Request(holding_out, store, DATE)).manifest.ref
    dates = [DATE + dt.timedelta(days=k) for k in range(3)]
    before = stored_row(holding_out, store, ref, held_out_ads(holding_out, dates, 4))
    basis = row_basis_now(holding_out, dates, 4)
    assert load_rows(store, ref.experiment, basis)[DATE].equals(before)
    again = delivered_again(holding_out, tmp_path, dates[1])
    renewed = row_basis_now(again, dates, 4)
    assert renewed.name != basis.name
    assert load_rows(store, ref.experiment, renewed) == {}
    with pytest.raises(EcdctrError, match="no matrix row on the ads as they are now"):
        collect(store, {"full": [ref.experiment]}, {"full": renewed})
    after = stored_row(again, store, ref, held_out_ads(again, dates, 4))
    assert not after.equals(before)
    with pytest.raises(EcdctrError, match="not of the same held-out ads"):
        f.Matrix.of_rows([before, after], dates)


def test_a_damaged_matrix_row_is_told_with_its_remedy_and_made_anew(holding_out, store):
    train_cpm(Request(holding_out, store, DATE))
    ref = train_actr(Request(holding_out, store, DATE)).manifest.ref
    held_out = held_out_ads(holding_out, [DATE, DATE + dt.timedelta(days=1)], 4)
    before = stored_row(holding_out, store, ref, held_out)
    (path,) = store.root.rglob("matrix/*.parquet")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StoreError, match=f"matrix row of {ref} .*ecdctr matrix row --date {DATE}"):
        load_rows(store, ref.experiment, held_out.basis)
    assert stored_row(holding_out, store, ref, held_out).equals(before)
    assert load_rows(store, ref.experiment, held_out.basis)[DATE].equals(before)


def test_a_version_is_never_judged_on_ads_that_it_learned_before_their_day_was_delivered_again(
    holding_out, store, tmp_path
):
    """One ad more at the beginning of a day: what was held out is learned, and vice versa."""
    train_cpm(Request(holding_out, store, DATE))
    ref = train_actr(Request(holding_out, store, DATE)).manifest.ref
    dates = [DATE + dt.timedelta(days=k) for k in range(3)]
    again = delivered_again(holding_out, tmp_path, DATE)
    with pytest.raises(StoreError, match=f"{ref} was trained on other examples of {DATE}"):
        stored_row(again, store, ref, held_out_ads(again, dates, 4))
    renewed = train_actr(Request(again, store, DATE)).manifest.ref
    assert renewed != ref
    assert stored_row(again, store, renewed, held_out_ads(again, dates, 4)).num_rows


@pytest.fixture
def chained(holding_out, store):
    """Train a chain, each day with a hold-out of its own, and return the last version."""
    chain = holding_out.with_variant("continue_no_tpm")
    train_cpm(Request(chain, store, DATE))

    def train(*held_out: int) -> Ref:
        for k, every in enumerate(held_out):
            config = changed(chain, "actr", hold_out_every=every)
            made = train_actr(Request(config, store, DATE + dt.timedelta(days=k)))
        return made.manifest.ref

    return train


def test_no_version_is_judged_whose_chain_learned_on_a_day_what_is_held_out(
    holding_out, store, chained
):
    ref = chained(0, 4)
    ads = held_out_ads(holding_out, [DATE, DATE + dt.timedelta(days=1)], 4)
    with pytest.raises(StoreError, match=rf"actr/{DATE}/v0001 was trained with .*hold_out_every 0"):
        stored_row(holding_out, store, ref, ads)
    later = held_out_ads(holding_out, [DATE + dt.timedelta(days=1)], 4)
    assert stored_row(holding_out, store, ref, later).num_rows, "the first day is not asked about"


def test_a_row_that_other_code_kept_is_not_taken_and_its_version_is_asked_again(
    holding_out, store, chained, monkeypatch
):
    """Code that did not ask the chain; its rows carry its digest in their names."""
    ref, dates = chained(0, 4), [DATE, DATE + dt.timedelta(days=1)]
    with monkeypatch.context() as before:
        before.setattr("ecdctr.studies.forgetting.basis.code_digest", lambda *_: "of before")
        before.setattr(matrix, "_refuse_learned", lambda *_: None)
        old = held_out_ads(holding_out, dates, 4)
        assert stored_row(holding_out, store, ref, old).num_rows
        assert load_rows(store, ref.experiment, old.basis)
    assert load_rows(store, ref.experiment, row_basis_now(holding_out, dates, 4)) == {}
    with pytest.raises(StoreError, match="hold_out_every 0"):
        stored_row(holding_out, store, ref, held_out_ads(holding_out, dates, 4))


def test_no_version_is_judged_whose_chain_is_not_known_back_to_the_first_day(
    holding_out, store, chained
):
    ref = chained(4, 4, 4, 4)
    assert [str(one.ref.date) for one in remove(store, 1, 7, "gc")[0]] == [str(DATE)]
    ads = held_out_ads(holding_out, [DATE], 4)
    with pytest.raises(StoreError, match=f"goes on from .*actr/{DATE}/v0001, which retention"):
        stored_row(holding_out, store, ref, ads)
    later = held_out_ads(holding_out, [DATE + dt.timedelta(days=1)], 4)
    assert stored_row(holding_out, store, ref, later).num_rows


def test_a_study_from_the_command_line_reports_every_variant_and_those_that_failed(
    config, warm, tmp_path
):
    made_before(tmp_path / "work" / "tiny-1", config)
    path = tmp_path / "tiny.yaml"
    text = (REPOSITORY / "configs" / "tiny.yaml").read_text()
    path.write_text(
        text
        + (
            "  broken: {snapshots: {count: 0}, actr: {init: none, carry_optimizer: true, policy: "
            "continue}}\n"
        )
    )
    store = tmp_path / "store"
    command = [
        "--config",
        path,
        "--store",
        store,
        "forgetting",
        "--world",
        "tiny",
        "--seeds",
        "1",
        "--rows",
        "continue_no_tpm,continue,broken",
        "--days",
        "4",
        "--work",
        str(tmp_path / "work"),
        "--workers",
        "1",
        "--name",
        "first-study",
    ]
    done = forked(warm, *command)
    assert done.returncode == 1, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    folder = Store(store).study("first-study")
    page, tables = (folder / "study.html").read_text(), (folder / "study.md").read_text()
    assert page.count("data:image/png;base64,") == 2
    for row in ("continue_no_tpm", "continue"):
        assert f"| {row} | " in tables
    assert "| broken | failed: carry_optimizer is set" in tables
    assert "**Deploy " in tables or "**No advice: " in tables
    cells = list(csv.DictReader((folder / "matrix.csv").open()))
    assert len(cells) == 2 * 4 * 4
    assert Store(store).studies() == ["first-study"]
