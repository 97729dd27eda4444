"""The configuration at load.

Whatever stands in the file, it is valid or refused with file and key.
"""

from __future__ import annotations

import copy
import typing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from ecdctr.config import Config, load_config
from ecdctr.config.terms import CONTRACT_COLUMNS, RESERVED_COLUMNS
from ecdctr.errors import ConfigError
from ecdctr.examples.prepare import prepare
from ecdctr.impressions.schema import columns_of
from tests.conftest import DATE, REPOSITORY

TINY = yaml.safe_load((REPOSITORY / "configs" / "tiny.yaml").read_text())


def models(model: type[BaseModel], place: str = "") -> dict[str, type[BaseModel]]:
    """Return every section by its dotted place."""
    made = {place: model}
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                made |= models(kind, f"{place}.{name}".lstrip("."))
    return made


def keys() -> list[tuple[str, Any]]:
    """Return every key of the configuration with its field."""
    return [
        (f"{place}.{name}".lstrip("."), field)
        for place, model in models(Config).items()
        for name, field in model.model_fields.items()
    ]


def test_every_key_has_a_description():
    assert len(keys()) > 100
    assert [name for name, field in keys() if not (field.description or "").strip()] == []


def test_every_number_has_a_lower_bound_and_every_whole_number_an_upper_one():
    """A number without bounds ends as an OverflowError somewhere else.

    Or as a machine out of memory.
    """
    schema = Config.model_json_schema()
    sections = {"Config": schema, **schema["$defs"]}
    numbers, unbounded = 0, []
    for section, described in sections.items():
        for name, field in described.get("properties", {}).items():
            for kind in (field, field.get("items", {}), *field.get("anyOf", ())):
                if kind.get("type") not in ("integer", "number"):
                    continue
                numbers += 1
                low = "minimum" in kind or "exclusiveMinimum" in kind
                high = kind["type"] == "number" or "maximum" in kind
                unbounded += [] if low and high else [f"{section}.{name}"]
    assert numbers > 60
    assert unbounded == []


def test_folders_of_a_variant_are_relative_to_the_file_like_others(tmp_path):
    config = load(
        tmp_path,
        "variants: {v: {data: {root: other, prepared: p}}, w: {data: {root: 's3://b/x'}}, x: "
        "{seed: 2}}",
    )
    assert config.with_variant("v").data.root == tmp_path / "other"
    assert config.with_variant("v").data.prepared == tmp_path / "p"
    assert config.with_variant("w").data.root == "s3://b/x"
    assert config.with_variant("x").data.root == tmp_path / "data"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("{root: log, prepared: log}", "data.prepared .*/log is data.root .*/log; "),
        ("{root: a/log, prepared: a}", "data.prepared .*/a holds data.root .*/a/log; "),
        ("{root: log, prepared: log/p}", "data.prepared .*/log/p lies in data.root .*/log; "),
        ("{root: ., prepared: p}", "data.prepared .*/p lies in data.root "),
        ("{root: log, prepared: x/../log}", "data.prepared .*/log is data.root .*/log; "),
        ("{root: log, prepared: link}", "data.prepared .*/log is data.root .*/log; "),
        ("{root: 'file:///log', prepared: /log/p}", "data.prepared /log/p lies in data.root file:"),
    ],
)
def test_what_may_be_taken_away_at_any_time_is_apart_from_the_log(tmp_path, data, words):
    (tmp_path / "log").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "log")
    for text in (f"data: {data}", f"variants: {{v: {{data: {data}}}}}"):
        with pytest.raises(ConfigError, match=words):
            load(tmp_path, text)


@pytest.mark.parametrize(
    "data",
    [
        "{root: log, prepared: log2}",
        "{root: a/log, prepared: a/prepared}",
        "{root: 's3://b/x', prepared: x}",
    ],
)
def test_places_beside_each_other_are_apart(tmp_path, data):
    assert load(tmp_path, f"data: {data}")


def load(tmp_path: Path, content: str | bytes) -> Config:
    path = tmp_path / "c.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_config(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("airflow: {start_date: 2026-02-30}", "airflow.start_date: .*date.*2026-02-30"),
        ("airflow: {start_date: 2026-13-01}", "airflow.start_date"),
        ("airflow: {start_date: 1812-01-01}", "airflow.start_date"),
        ("airflow: {start_date: 20260105}", "airflow.start_date"),
        ("airflow: {daily_cron: '0 25 * * *'}", "airflow.daily_cron: '25' is no hour"),
        ("airflow: {tpm_cron: monday}", "airflow.tpm_cron: 'monday' has 1 fields"),
        ("airflow: {pool: 'a pool'}", "airflow.pool"),
        ("airflow: {wait_hours: 1e300}", "airflow.wait_hours"),
        ("airflow: {retry_seconds: .inf}", "airflow.retry_seconds: .*finite"),
        ("airflow: {alert_webhook_env: 'MY URL'}", "airflow.alert_webhook_env"),
        ("data: {numeric_null: .nan}", "data.numeric_null: .*finite"),
        ("data: {numeric_null: -.inf}", "data.numeric_null: .*finite"),
        ("data: {numeric_null: 1e39}", "data.numeric_null"),
        ("data: {lookback_days: 1000000000}", "data.lookback_days"),
        ("data: {lookback_days: 7 days}", "data.lookback_days"),
        ("data: {threads: true}", "data.threads: expected a whole number .found True"),
        ("data: {quarantine: 1}", "data.quarantine: expected true or false"),
        ("data: {duckdb_memory: 0GB}", "data.duckdb_memory"),
        ("data: {root: ''}", "data.root: expected a folder"),
        ("data: {root: ~/log}", "data.root: expected a folder, found one that starts with ~ and"),
        ("data: {root: '${DATA}/log'}", "data.root: expected a folder, found one that starts with"),
        ("data: {prepared: ~me/p}", "data.prepared: expected a folder, found one that starts"),
        ("data: {prepared: $HOME/p}", "data.prepared: expected a folder, found one that starts"),
        ("data: {root: 's3://'}", "data.root: expected a URL with a scheme and a place"),
        ("data: {root: }", "data.root: expected a folder"),
        ("data: {root: 'http://127.0.0.1:9/x'}", "data.root: expected a folder or a bucket, found"),
        ("data: {root: 'https://host/x'}", "where nothing lists all files; name the bucket"),
        *(
            (f"data: {{root: '{url}'}}", r"data.root: expected a folder, or a URL of s3://, gs://,")
            for url in ("dir://x", "reference://x", "zip://a.zip::s3://b/x", "nonsense://x")
        ),
        ("data: {prepared: s3://bucket/prepared}", "data.prepared: expected a folder"),
        ("data: {prepared: 'GS:/bucket'}", "data.prepared: expected a folder"),
        (
            "variants: {v: {data: {prepared: s3://bucket/x}}}",
            "variant 'v' is not valid. data.prepared: expected",
        ),
        (
            "features: [{name: a, side: item, kind: numeric, max_values: 3}]",
            "features.0: feature 'a': max_values is of multi_valued features, found numeric; take "
            "it out",
        ),
        (
            "features: [{name: a, side: item, kind: categorical, transform: log1p}]",
            "features.0: feature 'a': transform is of numeric features, found categorical",
        ),
        ("seed: -1", "seed: expected 0 or more"),
        ("seed: 99999999999999999999", "seed: expected 4294967295 or less"),
        ("seed: " + "9" * 400, "seed: "),
        ("seed: '1'", "seed: expected a whole number"),
        ("tpm: {lr_dense: .nan}", "tpm.lr_dense: .*finite"),
        ("tpm: {hidden: [0]}", "tpm.hidden.0"),
        ("network: {hidden: [99999999999]}", "network.hidden.0"),
        ("evaluation: {gate_calibration: [2, 0.5]}", "gate_calibration: .*the lower bound first"),
        ("evaluation: {gate_calibration: [-1, 2]}", "gate_calibration"),
        ("evaluation: {gate_calibration: [.nan, 2]}", "gate_calibration.0: .*finite"),
        ("evaluation: {gate_calibration: [1]}", "gate_calibration.1"),
        ("\u200bseed: 1", r"'.u200bseed': there is no such key"),  # a space without width
        ("s\u0435\u0435d: 1", r"'s.u0435.u0435d': there is no such key"),  # Cyrillic letters
        ("'seed ': 1", "'seed ': there is no such key"),
        ("variants: {default: {seed: 2}}", "variants: 'default' is the configuration without"),
        ("variants: {'a/b': {}}", "variants.a/b"),
        (
            "variants: {x: {cpm: {windows_days: 3}}}",
            "variant 'x' .*cpm.windows_days: there is no such key",
        ),
        ("variants: {x: {nothing: 1}}", "variant 'x' .*nothing: there is no such key"),
        ("variants: {x: {cpm: }}", "variant 'x' .*cpm: "),
        ("variants: {x: }", "variants.x"),
        ("variants: {x: {variants: {y: {}}}}", "the overlay 'x' cannot hold 'variants'"),
        (
            "tuning: {space: {actr.lr: [1]}}",
            "tuning.space, actr.lr: 1 .*actr.lr: there is no such key",
        ),
        ("tuning: {space: {actr.epochs: [1, 0]}}", "tuning.space, actr.epochs: 0 .*actr.epochs"),
        ("tables: {t: [full, ghost]}", "tables.t: 'ghost' is no variant"),
        ("variants: {t: {}}\ntables: {t: [full]}", "tables.t: a variant has this name"),
        ("variants: {x: {tables: {}}}", "the overlay 'x' cannot hold 'tables'"),
        (
            "tuning: {per_row: {ghost: {actr.epochs: [1]}}}",
            "tuning.per_row.ghost: there is no variant",
        ),
        ("actr: {epochs: 2}\ncpm: {}\nactr: {}", "line 3: the key 'actr' was given in line 1"),
        ("airflow: {kubernetes: {environment: {MY VAR: x}}}", "kubernetes.environment.MY VAR"),
        ("airflow: {kubernetes: {namespace: My_Space}}", "kubernetes.namespace"),
    ],
)
def test_a_value_that_cannot_be_is_refused_with_its_key(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words) as refused:
        load(tmp_path, text)
    assert "\n" not in str(refused.value)


def test_a_folder_whose_name_is_no_text_is_named(tmp_path):
    folder = tmp_path / "w\udcff"
    folder.mkdir()
    with pytest.raises(ConfigError, match=r"w.udcff' is no UTF-8; rename the file or folder"):
        load(folder, "seed: 1")


def test_of_many_problems_the_first_are_told_and_the_others_counted(tmp_path):
    """In a time that grows with their number: it once grew with its square."""
    text = "\n".join(f"key{n}: 1" for n in range(40_000))
    with pytest.raises(ConfigError, match="; and 39,980 more") as refused:
        load(tmp_path, text)
    assert len(str(refused.value)) < 2_000


@pytest.mark.parametrize("name", sorted(RESERVED_COLUMNS))
def test_a_feature_named_like_a_column_of_ours_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"'{name}' is a column of"):
        load(tmp_path, f"features: [{{name: {name}, side: user, kind: categorical}}]")


@pytest.mark.parametrize("name", ["a:b", "Price", "1st", "a b", "ä", ""])
def test_a_feature_whose_name_is_no_plain_one_is_refused_with_where_to_rename_it(tmp_path, name):
    words = "features.0.name: expected a name of a-z, 0-9 and _ .*; rename the column .*log does"
    with pytest.raises(ConfigError, match=words):
        load(tmp_path, f"features: [{{name: '{name}', side: user, kind: categorical}}]")


def test_every_column_that_preparation_adds_is_reserved(config):
    columns = pq.read_schema(prepare(config, "ads", [DATE])[0].path).names
    assert {*columns} - {feature.name for feature in config.features} <= RESERVED_COLUMNS


def test_every_column_of_the_contract_is_reserved():
    assert {column.name for column in columns_of(())} == CONTRACT_COLUMNS


def test_a_second_seed_on_the_command_line_is_checked_too():
    with pytest.raises(ConfigError, match=r"--seed .*seed: expected 0 or more"):
        Config().with_overrides(seed=-1)


def test_rows_are_those_of_a_table_or_the_ones_named(tmp_path):
    config = load(tmp_path, "variants: {a: {}}\ntables: {both: [a, full@7]}")
    assert config.rows("both") == ("a", "full@7")
    assert config.rows("full, a") == ("full", "a")
    for named, why in (("", "a name is empty"), ("a,", "a name is"), ("a,a", "'a' stands there 2")):
        with pytest.raises(ConfigError, match=f"The rows '{named}': {why}"):
            config.rows(named)


def test_a_long_value_is_shortened_in_the_sentence(tmp_path):
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, "data: {engine: '" + "x" * 100_000 + "'}")
    assert len(str(refused.value)) < 500


ODD = st.sampled_from(
    [None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**30, 10**400, 0.0, -0.5, 1e-300, 1e300,
     float("inf"),
     float("-inf"), float("nan"), "", " ", "x", "no", "1", "-1", "nan", "2026-02-30", "9999-12-31",
     "0 0 * * *", "a/b",
     "../up", "s3://", "s3://b/p", "ä", "x" * 300, [], [1], [-1.0, 0.5], ["a"], [[]], {}, {"a": 1},
     {"a": {"b": []}}]
)  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of everything in a nested value."""
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at, *(place for key, one in inner for place in paths(one, (*at, key)))][
        1 if not at else 0 :
    ]


WHOLE = TINY | {
    key: value
    for key, value in yaml.safe_load(yaml.safe_dump(Config().model_dump(mode="json"))).items()
    if key not in TINY
}


@settings(max_examples=400)
@given(place=st.sampled_from(paths(WHOLE)), value=ODD)
def test_whatever_stands_at_a_key_the_file_loads_or_the_key_is_named(tmp_path, place, value):
    raw = copy.deepcopy(WHOLE)
    part = raw
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    config, said = loaded(path)
    if config is None:
        assert str(place[0]) in said or "variant" in said
        assert "\n" not in said
    else:
        assert Config.model_validate(config.model_dump(mode="json")).seed == config.seed


def loaded(path: Path) -> tuple[Config | None, str]:
    """Return the configuration, or what the refusal said."""
    try:
        return load_config(path), ""
    except ConfigError as refused:
        return None, str(refused)


SIZES = {
    "window_days", "batch_size", "lr_embedding", "lr_dense", "embedding_dim", "hidden", "count",
    "stride_days", "history_length", "lookback_days", "root", "prepared",
}  # fmt: skip


def test_the_tiny_configuration_is_small_and_otherwise_what_is_shipped():
    tiny, shipped = Config.model_validate(TINY), Config()
    for section in ("data", "snapshots", "network", "tpm", "cpm", "actr", "memory", "evaluation"):
        small, whole = (getattr(one, section).model_dump() for one in (tiny, shipped))
        assert {name for name in whole if small[name] != whole[name]} <= SIZES, section
    window = tiny.with_variant("window")
    assert (window.cpm.refresh, window.snapshots.point_in_time) == ("window", False)


def test_what_gc_keeps_reaches_as_far_back_as_any_variant():
    config = load_config(REPOSITORY / "configs" / "tiny.yaml")
    far = {"far": {"snapshots": {"count": 8, "stride_days": 28}}}
    config = config.model_copy(update={"variants": {**config.variants, **far}})
    assert config.longest_snapshot_days == config.with_variant("far").snapshot_days
    assert config.longest_snapshot_days >= 8 * 28


def test_a_lag_of_an_earlier_release_is_read_as_what_it_was_or_refused():
    assert not Config.model_validate({"snapshots": {"lag_days": 0}}).snapshots.point_in_time
    for lag in ({"lag_days": 1}, {"lag_days": 0, "point_in_time": True}):
        with pytest.raises(ValueError, match="lag_days is gone: each day is trained with the"):
            Config.model_validate({"snapshots": lag})
