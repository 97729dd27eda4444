"""Worlds as files: the packaged ones stay what they were, changes are typed.

Mistakes are one sentence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import get_args

import pytest

from ecdctr.airflow.params import ablation_params
from ecdctr.cli.base import WorldOption
from ecdctr.errors import ConfigError
from ecdctr.worlds.daily import make_day, make_world
from ecdctr.worlds.named import load_world, packaged

# Digests of the worlds as they were when they stood in the source.
BEFORE = {
    ("tiny", "natural"): "b491c17c66e559e6",
    ("tiny", "ads"): "66db4739feada3ba",
    ("daily", "natural"): "0d24570acda44c7f",
    ("daily", "ads"): "f2bc9d5fda6d0e5e",
}
COLUMNS = (
    "impression_id", "user_id", "item_id", "ts", "click", "age_band", "city", "category", "slot",
)  # fmt: skip


@pytest.mark.parametrize(("name", "domain"), BEFORE)
def test_the_packaged_daily_worlds_give_the_impressions_of_before(name, domain):
    settings = load_world(name).settings
    day = make_day(settings, make_world(settings, 1), 1, 5, domain)
    digest = hashlib.sha256()
    for column in COLUMNS:
        digest.update(day[column].cast("int64").to_numpy().tobytes())
    assert digest.hexdigest()[:16] == BEFORE[name, domain]


def test_every_packaged_world_is_valid():
    assert {"tiny", "daily", "demo", "large"} <= set(packaged())
    for name in packaged():
        assert load_world(name).name == name


def test_single_settings_change_the_world_and_its_name():
    world = load_world("tiny", ["users=500", "ctr=0.2"])
    assert (world.settings.users, world.settings.ctr) == (500, 0.2)
    assert world.settings.ad_items == load_world("tiny").settings.ad_items
    names = {world.name, load_world("tiny", ["users=501"]).name, load_world("tiny").name}
    assert len(names) == 3


def test_a_file_of_ones_own_is_a_world(tmp_path: Path):
    text = (Path(__file__).parents[2] / "ecdctr" / "worlds" / "tiny.yaml").read_text()
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace("users: 300", "users: 301"))
    assert load_world(str(path)).settings.users == 301
    assert load_world(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("world", "changes", "said"),
    [
        ("huge", [], "No world 'huge'; expected one of"),
        ("nowhere.yaml", [], "No world at nowhere.yaml"),
        ("tiny", ["user=3"], "user: there is no such key; did you mean 'users'"),
        ("tiny", ["users=many"], "users: expected a whole number"),
        ("tiny", ["start=9999-12-31"], "days from 9999-12-31 end after 9999-12-31, the last date"),
        ("visits", ["start=9999-12-01"], "choose an earlier start, or fewer days"),
        ("tiny", ["users"], "--set 'users': expected KEY=VALUE"),
        ("tiny", ["users=3", "ctr=0.2", "users=4"], "'users=3' and --set 'users=4' set the same"),
    ],
)
def test_a_mistake_is_told_in_one_sentence(world, changes, said):
    with pytest.raises(ConfigError, match=said.replace("(", r"\(")):
        load_world(world, changes)


def test_help_and_the_trigger_form_name_every_packaged_world(config):
    _, option = get_args(WorldOption)
    form = ablation_params(config)["world"].description
    for text in (option.help, form):
        assert ", ".join(packaged()) in text
