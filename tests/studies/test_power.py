"""A study on a world with visits is judged by true probabilities too, and says what it can show."""

from __future__ import annotations

from pathlib import Path

import pytest

from ecdctr.config import Visits
from ecdctr.levels.request import Silent
from ecdctr.report.rows import NAMES
from ecdctr.studies.ablation.page import Origin, results_page
from ecdctr.studies.ablation.power import ahead, smallest
from ecdctr.studies.ablation.study import Study, run_study
from ecdctr.worlds.named import NamedWorld
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "configs" / "tiny.yaml"
ROWS = ("ads_only", "full")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory):
    sim = Visits(kind="visits", users=400, days=24, natural_items=200, ad_items=60,
                 visits_per_month=20.0, held_out_days=2)  # fmt: skip
    work: Path = tmp_path_factory.mktemp("study")
    study = Study(TINY, NamedWorld("small", sim), (1,), ROWS, 2, work, chain_days=2)
    return run_study(study, 1, Silent())


def test_every_row_and_the_oracle_are_judged_by_true_probabilities(results):
    records, users = results
    expected = {r["row"]: r["expected_gauc"] for r in records if r.get("expected_gauc") is not None}
    assert set(expected) == {"item_rate", "counts", "gbm", "ads_only", "full", "oracle"}
    assert all(0.4 < expected[row] < expected["oracle"] for row in expected if row != "oracle")
    assert {u["row"] for u in users if u["measure"] == "expected"} == set(expected) - {"oracle"}


def test_held_out_ads_show_smaller_differences_than_drawn_clicks(results):
    records, users = results
    one = ahead(users, "full", "ads_only")
    drawn = [{**u, "measure": "expected"} for u in users if u["measure"] == "drawn"]
    assert 0 < one.detectable < ahead(drawn, "full", "ads_only").detectable
    assert smallest([ahead(users, "full", "ads_only")]) == pytest.approx(one.detectable)
    page = results_page(records, users, Origin("small"))
    assert "The smallest difference to full" in page
    assert f"| {NAMES['ads_only']} |" in page.split("## Held-out ads")[1]
