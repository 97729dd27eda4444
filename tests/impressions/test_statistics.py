"""What is measured on a log is what its world was made with."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from ecdctr.config import DOMAINS, Config, load_config
from ecdctr.errors import ContractError, StoreError
from ecdctr.impressions.statistics import Statistics, measure
from ecdctr.worlds.named import load_world
from ecdctr.worlds.simulate import simulate
from tests.conftest import REPOSITORY
from tests.impressions.logs import config_of, day_table, put, write_day

SMALL = ("days=45", "users=1500", "natural_items=500", "ad_items=100", "held_out_days=0")


def of(root: Path) -> Config:
    config = load_config(REPOSITORY / "configs" / "map.yaml")
    return config.model_copy(update={"data": config.data.model_copy(update={"root": root})})


def statistics(folder: Path, *changes: str) -> Statistics:
    world = load_world("visits", [*SMALL, *changes])
    simulate(world.settings, 1, folder / world.name, 1)
    return measure(of(folder / world.name))


def test_visits_shares_and_click_rates_are_found_again(tmp_path: Path):
    measured = statistics(tmp_path, "visits_per_month=8", "ads_share=0.1", "leaving_per_month=0")
    assert measured.days == 45
    assert measured.visits_per_month == pytest.approx(8, rel=0.25)
    assert measured.per_visit == pytest.approx(16, rel=0.1)
    assert measured.ads_share == pytest.approx(0.1, rel=0.05)
    assert measured.natural_ctr == pytest.approx(0.2, rel=0.2)
    assert 0.5 < measured.gap_days < 4


def test_repetition_and_correlation_show(tmp_path: Path):
    lasting = ("ad_life_days=300", "habit_days=300", "visits_per_month=15", "ads_share=0.1")
    apart = statistics(tmp_path, *lasting, "repetition=0", "domain_correlation=0")
    close = statistics(tmp_path, *lasting, "repetition=0.4", "domain_correlation=1")
    assert close.repeated_items > apart.repeated_items + 0.1
    assert close.cross_lift > apart.cross_lift + 0.3
    assert apart.cross_lift == pytest.approx(1.0, abs=0.3)


def test_interests_that_return_are_told_from_those_that_never_do(tmp_path: Path):
    strong = ("returning_interest=1.5", "lasting=0.2", "kind_strength=0", "visits_per_month=15")
    month = statistics(tmp_path, *strong, "periods=[28]", "period_shares=[1]")
    never = statistics(tmp_path, *strong, "period_shares=[0, 0, 0]", "renewal_days=14")
    assert month.lift_month > never.lift_month + 0.1


def test_a_log_of_one_domain_is_refused(tmp_path: Path):
    (tmp_path / "domain=ads").mkdir()
    with pytest.raises(StoreError, match="Statistics need days of both domains"):
        measure(of(tmp_path))


def test_columns_are_read_by_their_types_whichever_day_comes_first(tmp_path: Path):
    """A first day of nulls, dictionaries and narrow integers is a log like another."""
    for domain in DOMAINS:
        for day in range(3):
            plain = day_table(domain, day)
            write_day(tmp_path / "plain", domain, day, plain)
            table = put(plain, "category", pa.nulls(len(plain))) if day == 0 else plain
            if day == 1:
                table = put(table, "user_id", table["user_id"].cast(pa.int32()))
                table = put(table, "category", table["category"].cast(pa.float64()))
            write_day(tmp_path / "mixed", domain, day, table)
    configs = {
        name: config_of(tmp_path / name, tmp_path / "prepared") for name in ("plain", "mixed")
    }
    plain, mixed = (measure(config) for config in configs.values())
    assert mixed[:9] == plain[:9]
    wrong = put(day_table("ads", 1), "ts", pa.array(range(60), pa.int64()))
    write_day(tmp_path / "mixed", "ads", 1, wrong)
    with pytest.raises(ContractError, match=r"column ts: expected timestamp.*, found int64"):
        measure(configs["mixed"])
