"""What is wrong with a configuration is told in words of this project, with what was meant."""

from __future__ import annotations

import pytest

from ecdctr.config import Config, validated
from ecdctr.errors import ConfigError
from ecdctr.files.strict_yaml import parse_yaml
from ecdctr.impressions.mapping import Mapping
from ecdctr.worlds.named import SETTINGS

MISTAKES = [
    ("cpm: {windw_days: 3}", "cpm.windw_days: there is no such key; did you mean 'window_days'?"),
    ("Seed: 3", "Seed: there is no such key; did you mean 'seed'? (found 3)"),
    ("features: [{Kind: x}]", "features.0.Kind: there is no such key; did you mean 'kind'? (found"),
    ("store: {deltas: {level: []}}", "store.deltas.level: there is no such key; did you mean 'le"),
    ("cpm: {hidden: [8]}", "cpm.hidden: there is no such key; it is one of network and tpm (found"),
    ("cpm: {zzz: 1}", "cpm.zzz: there is no such key; expected some of batch_size, carry_opt"),
    ("'': 1", "'': there is no such key; expected some of actr, airflow, cpm, data, evaluation"),
    ("cpm: 5", "cpm: expected keys with values, like {key: value} (found 5)"),
    ("tuning: {space: 5}", "tuning.space: expected keys with values, like {key: value} (found 5)"),
    ("features: 5", "features: expected a list, like [a, b] (found 5)"),
    ("features: [{name: a}]", "features.0.side: expected a value, found none; add it; feat"),
    ("seed: 1.5", "seed: expected a whole number (found 1.5)"),
    ("cpm: {lr_dense: fast}", "cpm.lr_dense: expected a number (found 'fast')"),
    ("cpm: {lr_dense: .inf}", "cpm.lr_dense: expected a finite number (found inf)"),
    ("cpm: {lr_dense: 0}", "cpm.lr_dense: expected more than 0 (found 0)"),
    ("evaluation: {gate_power: 1}", "evaluation.gate_power: expected less than 1 (found 1)"),
    ("data: {quarantine: 1}", "data.quarantine: expected true or false (found 1)"),
    ("data: {ready: file}", "data.ready: expected 'files', 'marker' or 'rows' (found 'file')"),
    ("airflow: {start_date: soon}", "airflow.start_date: expected a date, like 2026-01-31 (found"),
    ("network: {hidden: []}", "network.hidden: expected a list of at least 1 (found [])"),
    ("data: {duckdb_memory: much}", "data.duckdb_memory: expected text of the form ^[1-9]"),
    (f"features: [{{name: {'x' * 64}}}]", "features.0.name: expected text of at most 63 letters"),
    ("tables: {t: [x]}", "is not valid. tables.t: 'x' is no variant; declare it, or take it out."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "words"), MISTAKES)
def test_a_mistake_is_told_with_what_was_meant(text, words):
    with pytest.raises(ConfigError) as told:
        validated(Config, parse_yaml(text, "c.yaml"), "c.yaml")
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("kind", "raw", "words"),
    [
        (Mapping, {"log": {"file": []}}, "log.file: there is no such key; did you mean 'files'?"),
        (Mapping, {"joins": {"a": {"kee": ""}}}, "joins.a.kee: there is no such key; did you mea"),
        (SETTINGS, {"kind": "visits", "day": 3}, "day: there is no such key; did you mean 'days'?"),
        (SETTINGS, {"kind": "visits", "recurrence_days": 7}, "did you mean 'renewal_days'?"),
        (SETTINGS, {"kind": "x"}, "expected 'daily', 'visits'"),
    ],
)
def test_a_mapping_and_a_world_are_told_alike(kind, raw, words):
    with pytest.raises(ConfigError) as told:
        validated(kind, raw, "a.yaml")
    assert words in str(told.value)
