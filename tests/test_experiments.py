"""The ablation on the tiny world: rows, records, resuming, the page, speeds."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ecdctr.errors import ConfigError
from ecdctr.experiments.ablation import Study, run_study
from ecdctr.experiments.speed import measure
from ecdctr.levels.common import Silent
from ecdctr.report.results import results_page
from tests.conftest import REPOSITORY

TINY = REPOSITORY / "configs" / "tiny.yaml"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Study, list[dict]]:
    study = Study(TINY, "tiny", (1,), ("ads_only", "full"), 2, tmp_path_factory.mktemp("study"))
    return study, run_study(study, 1, Silent())


def test_every_row_is_evaluated_on_every_next_day_with_the_oracle_once(finished):
    study, records = finished
    found = [(r["row"], str(r["date"])) for r in records if r["cohort"] == "all"]
    dates = ["2026-01-22", "2026-01-23"]
    assert found == [(row, date) for row in ("ads_only", "full", "oracle") for date in dates]
    assert pq.read_metadata(study.work / "ablation-tiny.parquet").num_rows == len(records)


def test_a_study_run_again_trains_nothing_and_says_the_same(finished):
    study, records = finished
    store = study.store(1)
    before = {name: store.versions(name, "actr") for name in store.experiments()}
    assert run_study(study, 1, Silent()) == records
    assert {name: store.versions(name, "actr") for name in store.experiments()} == before


def test_the_page_has_rows_differences_and_speeds(finished):
    study, records = finished
    page = results_page(records, measure(study, 1, Silent()), "tiny")
    for words in ("| full E-CDCTR |", "full E-CDCTR − ads only", "train tpm", "prepare natural"):
        assert words in page
    assert "nan" not in page


def test_an_unknown_row_is_refused_before_anything_is_made(tmp_path: Path):
    study = Study(TINY, "tiny", (1,), ("magic",), 1, tmp_path / "work")
    with pytest.raises(ConfigError, match="known variants"):
        run_study(study, 1, Silent())
    assert not (tmp_path / "work").exists()
