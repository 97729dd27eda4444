"""The curve over the share of ads: what its bases share, and what its page and picture say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ecdctr.config import Config
from ecdctr.levels.request import Silent
from ecdctr.studies.ablation.page import Origin
from ecdctr.studies.ablation.plan import Study
from ecdctr.studies.ablation.records import mean_gauc
from ecdctr.studies.ablation.sparsity import Point, curve, run_sparsity, sparsity_page
from ecdctr.worlds.named import load_world
from tests.conftest import REPOSITORY
from tests.make import made_before


@pytest.fixture(scope="module")
def finished(config: Config, tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, list[Point]]:
    folder = tmp_path_factory.mktemp("sparsity")
    settings = yaml.safe_load((REPOSITORY / "configs" / "tiny.yaml").read_text())
    settings["variants"]["fifth"] = {"actr": {"ads_share": 0.2}}
    path: Path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    rows = ("ads_only", "full")
    study = Study(path, load_world("tiny"), (1,), rows, 1, folder / "work", chain_days=0)
    made_before(study.folder(1), config)
    return study, run_sparsity(study, ["fifth", "full"], 1, Silent())


def test_points_come_fullest_first_and_fewer_ads_are_trained_on(finished):
    _, points = finished
    assert [point.share for point in points] == [1.0, 0.2]
    read = [
        next(
            r["daily_samples"]
            for r in point.records
            if r["row"] == "ads_only" and "daily_samples" in r
        )
        for point in points
    ]
    assert read[1] == pytest.approx(0.2 * read[0], rel=0.15)


def test_all_shares_are_judged_by_the_same_ads_and_start_from_the_same_cpm(finished):
    study, points = finished
    judged = [{r["judged_on"] for r in point.records if r.get("judged_on")} for point in points]
    assert len(judged[0]) == 1
    assert judged[0] == judged[1]
    store = study.store(1)
    cpms = [ref for name in store.experiments() for ref in store.versions(name, "cpm")]
    assert len(cpms) == 1


def test_the_page_has_each_row_at_each_share_and_differences_of_all_shares(finished):
    _, points = finished
    page = sparsity_page(points, Origin("tiny", "ecdctr sparsity"), "curve.png")
    gauc = [f"{mean_gauc(point.records)['full']:.4f}" for point in points]
    assert "| row | all | 20 % |" in page
    assert f"| full E-CDCTR | {gauc[0]} | {gauc[1]} |" in page
    for share in ("all", "20 %"):
        for row in ("floor: gradient boosting on counts", "ads only"):
            assert f"| {share} | {row} | " in page
    assert "![GAUC by share of ads](curve.png)" in page


def test_the_curve_has_a_line_per_row_over_the_shares(finished):
    _, points = finished
    lines = curve(points).axes[0].lines
    assert len(lines) == len(mean_gauc(points[0].records))
    for line in lines:
        assert list(line.get_xdata()) == [1.0, 0.2]
    (full,) = [line for line in lines if line.get_label() == "full E-CDCTR"]
    means = [mean_gauc(point.records)["full"] for point in points]
    assert list(full.get_ydata()) == pytest.approx(means)
