"""Ids that differ in nothing that is seen stay apart, and the import says so."""

from __future__ import annotations

import pytest
import yaml

from tests.impressions.imported import column, rows, run

ALIKE = {
    "a blank": ("u1", " u1"),
    "a blank that is not broken": ("u1", "u1\u00a0"),
    "zero width": ("u1", "u\u200b1"),
    "a byte order mark": ("u1", "u1\ufeff"),
    "a direction": ("u1", "\u200fu1"),
    "two marks": ("\u200fu1", "\u200eu1"),
    "Unicode's form": ("caf\u00e9", "cafe\u0301"),
}


@pytest.mark.parametrize("how", ALIKE)
def test_ids_that_are_seen_as_one_stay_apart_and_are_said(tmp_path, how):
    heard: list[str] = []
    run(tmp_path, {"a.csv": rows((*ALIKE[how], "u2"))}, on_file=heard.append)
    assert set(column(tmp_path, "user_id")) == {*ALIKE[how], "u2"}
    assert heard[-1].startswith("1 values of user_id differ from others in nothing but blanks")
    assert all(f"{one!a}" in heard[-1] for one in ALIKE[how])
    rule = yaml.safe_load(heard[-1].split("if they mean one: ")[1])["user_id"]
    run(tmp_path / "one", {"a.csv": rows((*ALIKE[how], "u2"))}, user_id=rule)
    assert len(set(column(tmp_path / "one", "user_id"))) == 2


def test_ids_that_are_no_others_are_kept_without_a_word(tmp_path):
    heard: list[str] = []
    run(tmp_path, {"a.csv": rows((" u1", "caf\u00e9", "\u4e2d"))}, on_file=heard.append)
    assert heard == ["a.csv: 40 rows"]
