"""The map: cells that share what they share, results that are kept, a page of what was measured.

A log's place.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ecdctr.cli.base import app
from ecdctr.errors import ConfigError, EcdctrError
from ecdctr.impressions.statistics import Statistics
from ecdctr.levels.request import Silent
from ecdctr.studies.ablation.worth import parts_of
from ecdctr.studies.map.figure import heat_maps
from ecdctr.studies.map.grid import PLANES, cells, parse_plane
from ecdctr.studies.map.measure import ROWS, MapStudy, load_results, run_map
from ecdctr.studies.map.page import map_page
from ecdctr.studies.map.place import advice, distance, measured_cells, place
from ecdctr.studies.map.rule import follow, for_log
from tests.conftest import REPOSITORY

BASE = ("days=24", "natural_items=200", "ad_items=60", "held_out_days=2", "ads_share=0.1")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> MapStudy:
    raw = yaml.safe_load((REPOSITORY / "configs" / "map.yaml").read_text())
    raw["data"] |= {"lookback_days": 7, "history_length": 10}
    raw["memory"]["windows"] = [7]
    raw["tpm"] |= {"window_days": 14, "embedding_dim": 8, "hidden": [16]}
    raw["network"] = {"embedding_dim": 8, "hidden": [32, 16]}
    raw["cpm"] |= {"first_window_days": 5, "window_days": 5}
    raw["actr"]["window_days"] = 5
    folder = tmp_path_factory.mktemp("map")
    (folder / "map.yaml").write_text(yaml.safe_dump(raw))
    return MapStudy(folder / "map.yaml", (1,), 1, 2, folder / "work")


@pytest.fixture(scope="module")
def worlds():
    plane = parse_plane("visits_per_month=10,20 repetition=0,0.2")
    return cells(plane, "visits", BASE, 2000)


@pytest.fixture(scope="module")
def measured(study, worlds) -> list[dict[str, Any]]:
    return run_map(study, list(worlds.values())[:1], 1, Silent())


def test_every_cell_has_the_same_impressions_a_day(worlds):
    for world in worlds.values():
        sim = world.settings
        assert sim.users * sim.visits_per_month / 30 * sim.per_visit == pytest.approx(
            2000, rel=0.02
        )


def test_planes_that_cross_share_their_cells():
    planes = [cells(parse_plane(text), "visits", (), 20_000) for text in PLANES]
    names = [world.name for plane in planes for world in plane.values()]
    assert len(set(names)) < len(names)
    one = cells(parse_plane("ads_share=0.05,0.1 repetition=0,0.03"), "visits", (), 20_000)
    other = cells(parse_plane("ads_share=0.05,0.2 domain_correlation=0.8,1"), "visits", (), 20_000)
    assert one[0.05, 0.03] == other[0.05, 0.8]


def test_a_period_is_that_of_every_user_or_of_none():
    plane = cells(parse_plane("period=30,0 returning_interest=0.3,1.2"), "visits", (), 20_000)
    assert plane[30, 0.3].settings.periods == (30.0,)
    assert plane[30, 0.3].settings.period_shares == (1.0,)
    assert set(plane[0, 1.2].settings.period_shares) == {0.0}


@pytest.mark.parametrize(
    "text", ["ads_share=0.1", "a=1 b=2 c=3", "ads_share=x repetition=0", "ads_share=0 repetition=0"]
)
def test_a_plane_that_is_none_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError):
        cells(parse_plane(text), "visits", (), 20_000)
    with pytest.raises(ConfigError, match="no visits"):
        cells(parse_plane("ads_share=0.1 repetition=0"), "tiny", (), 20_000)


def test_a_cell_has_every_row_and_floor_and_what_each_part_is_worth(measured):
    (result,) = measured
    assert {*ROWS, "item_rate", "counts", "gbm", "oracle"} == set(result["rows"])
    assert set(result["worth"]) == set(parts_of(ROWS))
    assert {len(seeds) for seeds in result["by_seed"].values()} == {1}
    assert all(worth["error"] > 0 for worth in result["worth"].values())
    assert set(result["statistics"]) == set(Statistics._fields)
    assert result["statistics"]["visits_per_month"] == pytest.approx(10, rel=0.5)


def test_a_measured_cell_is_not_measured_again_and_leaves_no_world_behind(study, worlds, measured):
    first = next(iter(worlds.values()))
    written = study.result_path(first).stat().st_mtime_ns
    assert not study.study(first).work.exists()
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert run_map(study, list(worlds.values()), 1, Silent(), until=past) == measured
    assert study.result_path(first).stat().st_mtime_ns == written


@pytest.mark.parametrize("damage", [b"", b"\xff", b"[]", b"{}"])
def test_a_cell_that_a_disk_damaged_is_named(tmp_path, damage):
    (tmp_path / "cell.json").write_bytes(damage)
    with pytest.raises(EcdctrError, match=r"cell\.json is damaged \(.*\); remove it, and its cell"):
        load_results([tmp_path / "no-cell.json", tmp_path / "cell.json"])


def test_the_page_holds_what_was_measured_and_says_how_much_is_missing(measured, worlds):
    plane = parse_plane("visits_per_month=10,20 repetition=0,0.2")
    inside = {(10, 0): measured[0]}
    page = map_page([(plane, inside)], measured, {0: "a.png"}, "ecdctr map", len(worlds))
    assert "**1 of 4 cells are measured**, each with 1 seed" in page
    assert "![Heat maps](a.png)" in page
    assert "one seed says nothing of that" in page
    counted = [line for line in page.splitlines() if line.startswith("| memory |")]
    assert sum(map(int, counted[0].split("|")[2:5])) == 1
    assert len(heat_maps(plane, inside).axes) == len(parts_of(ROWS))
    assert "Nothing is measured yet" in map_page([(plane, {})], [], {}, "ecdctr map", 4)


def test_few_rows_tell_of_few_parts_and_the_page_shows_each_seed(measured):
    assert list(parts_of(("memory", "full"))) == [
        "vectors beside memory",
        "full over the best floor",
    ]
    parts = parts_of(("memory", "full"))
    few = measured[0] | {
        "rows": {row: measured[0]["rows"][row] for row in ("memory", "full")},
        "worth": {part: measured[0]["worth"][part] for part in parts},
        "by_seed": {part: [0.001, -0.0021] for part in parts},
        "seeds": [1, 2],
    }
    plane = parse_plane("visits_per_month=10,20 repetition=0,0.2")
    page = map_page([(plane, {(10, 0): few})], [few], {}, "ecdctr map", 4)
    assert "each with 2 seeds" in page
    assert "| +1.0, -2.1 | +1.0, -2.1 |" in page
    assert "| CPM |" not in page
    assert len(heat_maps(plane, {(10, 0): few}).axes) == 2


def test_a_log_is_placed_at_the_cell_that_is_like_it(measured):
    near = measured[0]
    far = json.loads(json.dumps(near))
    far["name"], far["statistics"]["visits_per_month"] = "far", 100.0
    statistics = Statistics(**near["statistics"])
    nearest = place(statistics, [far, near])
    assert nearest is not None
    assert (nearest.cell["name"], nearest.distance) == (near["name"], 0.0)
    assert nearest.ranking == sorted(nearest.ranking, key=lambda one: -one[1])
    assert "Nearest measured world" in advice(nearest)
    assert place(statistics, []) is None
    assert "No cell of the map is measured" in advice(None)
    assert distance(near["statistics"], far["statistics"]) > 1.5


def cell(name: str, share: float, visits: float, scores: dict[str, float]) -> dict[str, Any]:
    """Return a measured cell whose differences have an error of a thousandth."""
    beside = {"difference": scores["full"] - scores["memory"], "error": 0.001}
    world = {"period_shares": [0.0], "visits_per_month": visits, "ads_share": share}
    world |= {"domain_correlation": 0.8, "returning_interest": 0.7, "repetition": 0}
    return {
        "name": name,
        "world": world,
        "statistics": {"ads_share": share, "visits_per_month": visits},
        "rows": {row: {"expected_gauc": v, "daily_samples": 1} for row, v in scores.items()},
        "worth": {"vectors beside memory": beside},
        "by_seed": {"vectors beside memory": [beside["difference"]]},
        "seeds": [1],
        "days": 1,
        "held_out": 100,
    }


def test_the_rule_of_thumb_is_held_to_worlds_that_it_was_not_made_on():
    scores = {"gbm": 0.60, "memory": 0.64, "full": 0.645, "oracle": 0.9}
    weekly = cell("new-1", 0.01, 4, scores)
    daily = cell("new-2", 0.1, 60, scores)
    level = cell("new-3", 0.01, 60, scores | {"full": 0.639})
    assert [follow(one).row for one in (weekly, daily, level)] == ["full", "memory", "memory"]
    assert follow(weekly).over_other.difference == pytest.approx(0.005)
    assert follow(daily).behind_best == pytest.approx(0.005)
    page = map_page([], [weekly, daily, level], {}, "ecdctr map", 3)
    assert "**On worlds that were measured after it was written**: In 2 of 3 worlds" in page
    assert "behind the best by 5.0 thousandths at most" in page
    assert "surely right in 1, surely wrong in 1, and in 1 the two cannot be told apart" in page
    assert "that it was made on" not in page
    fitted = {**weekly, "name": measured_cells()[0]["name"]}
    both = map_page([], [fitted, daily], {}, "ecdctr map", 2)
    assert "On the worlds that it was made on: In 1 of 1 worlds its row is the best" in both


def test_a_log_too_short_to_tell_its_visits_is_advised_what_never_harmed():
    assert "memory and snapshots" in for_log({"ads_share": 0.001, "visits_per_month": math.nan})
    assert "memory, no snapshots" in for_log({"ads_share": 0.001, "visits_per_month": 60.0})


def test_the_command_on_the_page_is_the_one_that_was_given(tmp_path: Path):
    plane = "visits_per_month=10,20 repetition=0,0.2"
    options = ["--config", str(REPOSITORY / "configs" / "map.yaml"), "map", "--minutes", "0"]
    options += ["--plane", plane, "--set", "days=30", "--work", str(tmp_path)]
    done = CliRunner().invoke(app, [*options, "--out", str(tmp_path / "map.md")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "map.md").read_text()
    assert f"map --plane '{plane}' --world visits --set days=30 --seeds 1" in page


def test_rows_that_tell_of_no_part_are_refused_before_a_world_is_made(study, worlds):
    with pytest.raises(ConfigError, match="--rows memory tells the worth of no part"):
        run_map(dataclasses.replace(study, rows=("memory",)), worlds, 1, Silent())


def test_a_damaged_description_of_a_cells_world_is_told_before_anything_is_measured(tmp_path: Path):
    plane, settings = "visits_per_month=10,20 repetition=0,0.2", ("days=30",)
    world = next(iter(cells(parse_plane(plane), "visits", settings, 20_000).values()))
    root = tmp_path / world.name / f"{world.name}-1" / "data"
    root.mkdir(parents=True)
    (root / "world.json").write_text("{")
    options = ["--config", str(REPOSITORY / "configs" / "map.yaml"), "map", "--plane", plane]
    done = CliRunner().invoke(app, [*options, "--set", "days=30", "--work", str(tmp_path)])
    assert f"{root / 'world.json'} is damaged (" in str(done.exception)
