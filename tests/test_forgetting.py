"""The forgetting matrix and its measures: against brute force, on matrices whose answer is known, and end to end."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score

from ecdctr.config import Config
from ecdctr.data.batches import Part, read_chunks
from ecdctr.data.prepare import prepare
from ecdctr.levels.actr import train_actr
from ecdctr.levels.common import Request
from ecdctr.levels.cpm import train_cpm
from ecdctr.report import forgetting as f
from ecdctr.training.evaluate import score
from ecdctr.training.matrix import held_out_ads, matrix_row
from tests.conftest import DATE, REPOSITORY

FORGETS = np.array([[0.8, 0.5, 0.5], [0.7, 0.8, 0.6], [0.5, 0.7, 0.9]])  # row: model after day i, column: day j


def test_measures_of_a_matrix_by_hand():
    assert f.backward_transfer(FORGETS) == pytest.approx(((0.5 - 0.8) + (0.7 - 0.8)) / 2)
    assert f.forgetting(FORGETS) == pytest.approx(((0.8 - 0.5) + (0.8 - 0.7)) / 2)
    assert f.forward_transfer(FORGETS) == pytest.approx(((0.5 - 0.5) + (0.6 - 0.5)) / 2)
    assert f.recency_curve(FORGETS) == pytest.approx([(0.8 + 0.8 + 0.9) / 3, (0.7 + 0.7) / 2, 0.5])
    # day 1: 0.5 before, 0.8 after, 0.7 a day later; day 2: 0.6 before, 0.9 after
    assert f.retention(FORGETS) == pytest.approx([1.0, (0.7 - 0.5) / (0.8 - 0.5)])


def test_half_life_is_where_retention_crosses_one_half():
    days = 12
    r = np.full((days, days), 0.5)
    for i in range(days):
        for j in range(i + 1):
            r[i, j] = 0.5 + 0.4 * 0.5 ** ((i - j) / 3)  # what is learned halves every three days
    assert f.half_life(r) == pytest.approx(3.0, abs=0.05)
    assert np.isinf(f.half_life(np.tril(np.full((days, days), 0.4)) + 0.5))


@given(arrays(np.float64, (5, 5), elements=st.floats(0, 1)))
@settings(max_examples=50, deadline=None)
def test_measures_agree_with_loops(r):
    last = len(r) - 1
    expected = np.mean([max(r[i, j] for i in range(j, last)) - r[last, j] for j in range(last)])
    assert f.forgetting(r) == pytest.approx(expected)
    assert f.backward_transfer(r) == pytest.approx(np.mean([r[last, j] - r[j, j] for j in range(last)]))
    stacked = np.stack([r, r])
    for function in (f.forgetting, f.backward_transfer, f.forward_transfer, f.recency_area):
        assert function(stacked) == pytest.approx([function(r)] * 2)


def test_the_matrix_and_its_samples_come_from_users():
    rng = np.random.default_rng(3)
    users = [
        {"model_date": i, "day": j, "user": u, "auc": rng.random(), "impressions": int(rng.integers(2, 9))}
        for i in range(3)
        for j in range(3)
        for u in range(30)
    ]
    weights = {(r["day"], r["user"]): r["impressions"] for r in users}
    for record in users:
        record["impressions"] = weights[record["day"], record["user"]]
    days, r, drawn = f.matrices(users, samples=400)
    assert days == [0, 1, 2]
    cell = [(x["auc"], x["impressions"]) for x in users if (x["model_date"], x["day"]) == (2, 0)]
    assert r[2, 0] == pytest.approx(sum(a * w for a, w in cell) / sum(w for _, w in cell))
    assert drawn.mean(0) == pytest.approx(r, abs=0.03)
    found = f.measure(r, drawn)
    assert found["forgetting"].low <= found["forgetting"].high
    both = f.measure(np.stack([r, r]), np.stack([drawn, drawn]))
    assert both["backward transfer"].value == pytest.approx(found["backward transfer"].value)


@pytest.fixture(scope="module")
def holding_out(config: Config) -> Config:
    actr = config.actr.model_copy(update={"hold_out_every": 4})
    return config.model_copy(update={"actr": actr, "snapshots": config.snapshots.model_copy(update={"count": 0})})


def test_held_out_rows_are_never_trained_on_and_the_two_folds_make_the_day(config):
    path = prepare(config, "ads", [DATE])[0].path
    whole = pa.concat_tables(read_chunks([Part(path, "ads")], None, 50)).to_pylist()
    train = pa.concat_tables(read_chunks([Part(path, "ads", hold_out_every=4)], None, 50)).to_pylist()
    held = pa.concat_tables(read_chunks([Part(path, "ads", hold_out_every=4, held_out=True)], None, 50)).to_pylist()
    assert held == whole[::4]
    assert train == [row for i, row in enumerate(whole) if i % 4]


def test_training_with_a_hold_out_reads_fewer_samples(config, holding_out, store):
    train_cpm(Request(holding_out, store, DATE))
    part = train_actr(Request(holding_out, store, DATE)).manifest.rows["samples"]
    plain = holding_out.model_copy(update={"actr": config.actr})
    whole = train_actr(Request(plain, store, DATE)).manifest.rows["samples"]
    assert part == pytest.approx(whole * 3 / 4, abs=5)


def test_a_matrix_row_equals_brute_force_day_by_day(holding_out, store):
    train_cpm(Request(holding_out, store, DATE))
    ref = train_actr(Request(holding_out, store, DATE)).manifest.ref
    dates = [DATE + dt.timedelta(days=k) for k in (1, 2, 3)]
    held_out = held_out_ads(holding_out, dates, every=2)
    row = matrix_row(holding_out, store, ref, held_out)
    compared = 0
    for date, found in zip(dates, row, strict=True):
        scored = score(holding_out, store, ref, "ads", date)
        users, labels, scores = scored.users[::2], scored.labels[::2], scored.scores[::2]
        expected = {}
        for user in np.unique(users):
            mine = users == user
            if 0 < labels[mine].sum() < mine.sum():
                expected[user] = (roc_auc_score(labels[mine], scores[mine]), int(mine.sum()))
        pairs = sorted(zip(found.auc.round(9), found.impressions, strict=True))
        assert pairs == sorted((round(auc, 9), count) for auc, count in expected.values())
        compared += len(pairs)
    assert compared > 3


def test_a_study_from_the_command_line_reports_every_variant_and_those_that_failed(tmp_path):
    config = tmp_path / "tiny.yaml"
    text = (REPOSITORY / "configs" / "tiny.yaml").read_text()
    config.write_text(
        text + "  broken: {tpm: {window_days: 1}, actr: {init: none, carry_optimizer: true, policy: continue}}\n"
    )
    command = [
        sys.executable, "-m", "ecdctr.cli", "--config", str(config), "forgetting", "--preset", "tiny", "--seeds", "1",
        "--rows", "continue_no_tpm,continue,broken", "--days", "4", "--work", str(tmp_path / "work"), "--workers", "1",
        "--out", str(tmp_path / "page.html"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr[-2000:]
    page, tables = (tmp_path / "page.html").read_text(), (tmp_path / "page.md").read_text()
    assert "data:image/png;base64," in page
    for row in ("continue_no_tpm", "continue"):
        assert f"| {row} | " in tables
    assert "| broken | failed: carry_optimizer is set" in tables
    assert "Traceback" not in done.stderr
    table = pq.read_table(tmp_path / "work" / "forgetting-tiny.parquet").to_pylist()
    assert len({(row["model_date"], row["day"]) for row in table}) == 16
