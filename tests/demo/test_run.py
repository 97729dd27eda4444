"""The demo's configuration, and where its runs come from."""

from __future__ import annotations

from ecdctr.config import load_config
from ecdctr.demo.run import FIRST_WINDOW_DAYS, write_config
from tests.conftest import REPOSITORY


def test_the_demo_differs_from_its_configuration_in_the_first_cpm_alone(tmp_path):
    ours = load_config(write_config(tmp_path))
    shipped = load_config(REPOSITORY / "configs" / "demo.yaml")
    assert ours.cpm.first_window_days == FIRST_WINDOW_DAYS
    assert ours.data.root == tmp_path / "data"
    same = {"cpm": shipped.cpm, "data": shipped.data}
    assert ours.model_copy(update=same) == shipped
    first = {"first_window_days": shipped.cpm.first_window_days}
    assert ours.cpm.model_copy(update=first) == shipped.cpm
