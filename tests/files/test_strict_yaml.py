"""YAML as people write it: what is ambiguous is refused with the line.

The rest is what it looks like.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecdctr.errors import ConfigError
from ecdctr.files.strict_yaml import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' was given in line 1 already"),
        ("s: {x: 1, y: {x: 1, x: 2}}", "the key 'x' was given"),
        ("{<<: {a: 1}, <<: {b: 1}}", "the key '<<' was given"),
        ("true: 1", "the key 'true' is no text; put it into quotes"),
        ("2026: 1", "the key '2026' is no text"),
        ("? [1]\n: 2", "the key a list or a mapping is no text"),
        ("a: &x {b: *x}", "an anchor contains itself"),
        ("a: &x [*x, 1]", "an anchor contains itself"),
        ("a: *nobody", "undefined alias"),
        ("a: &x 1\nb: &x 2", "line 2: found duplicate anchor 'x'; first occurrence, line 1"),
        ("a: !!python/name:os.system ", "the tag 'tag:yaml.org,2002:python/name:os.system'"),
        ("a: !!binary aGFsbG8=", "not known here"),
        ("a: !!int many", "'many' is no number"),
        ("a: !!bool maybe", "neither true nor false"),
        ("a: !!map 3", "expected a mapping"),
        ("a: " + "9" * 5000, "no number that can be read"),
        ('a: "\\0"', "no text"),
        ('a: "\\ud800"', "no text"),
        ('a: "\\x01"', "in single quotes a backslash stays one"),
        ("a: \x07", "no text"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: b: c", "line 1"),
        ("[" * 50_000, "nested too deeply"),
    ],
)
def test_what_is_ambiguous_or_broken_is_one_line_with_the_place(text, words):
    with pytest.raises(ConfigError) as refused:
        parse_yaml(text, "c.yaml")
    assert words in str(refused.value)
    assert str(refused.value).startswith("c.yaml")
    assert "\n" not in str(refused.value)


def test_anchors_that_multiply_each_other_are_refused_before_they_fill_the_memory():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 8)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="anchors repeat each other"):
        parse_yaml("\n".join(lines), "c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"), ("on", "on"), ("Yes", "Yes"), ("true", True), ("010", "010"),
        ("1:30", "1:30"), ("1_000", "1_000"),
        ("0x1f", "0x1f"), ("1e-3", 1e-3), ("-1.5E3", -1500.0), (".5", 0.5), ("7.", 7.0),
        ("2026-02-30", "2026-02-30"),
        ("2026-02-03", "2026-02-03"), ("~", None), ("", None), ("null", None), ("'5'", "5"),
        ("=", "="), ("-", [None]),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(text, value):
    assert parse_yaml(text, "c.yaml") == value


def test_anchors_and_merge_keys_work():
    text = "base: &b {x: 1, y: 2}\nother: {<<: *b, y: 3}\nlist: [*b, *b]"
    read = parse_yaml(text, "c.yaml")
    assert read["other"] == {"x": 1, "y": 3}
    assert read["list"] == [read["base"], read["base"]]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("# Größe\na: 1".encode("latin-1"), "line 1: expected UTF-8, found the byte 0xf6"),
        ("a: 1".encode("utf-16"), "expected UTF-8"),
        (b"", "is empty"),
        (b"# nothing yet\n", "is empty"),
        (b"- a\n", "a mapping of keys, found list"),
        (b"text", "a mapping of keys, found str"),
        (b"a: 1\n" + b"#" * (5 << 20), "bytes; a mapping file has"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_with_its_name(tmp_path, content, words):
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_yaml(path, "mapping file")
    assert words in str(refused.value)
    assert str(path) in str(refused.value)


def test_no_file_a_folder_and_a_name_that_is_none(tmp_path):
    for path, words in (
        (tmp_path / "none.yaml", "No mapping at"),
        (tmp_path, "is a folder"),
        (Path("a\0b"), "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=words):
            read_yaml(path, "mapping")


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: two\r\n".encode())
    assert read_yaml(path, "mapping") == {"a": 1, "b": "two"}


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):  # anything else fails the test
        parse_yaml(text, "c.yaml")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc \u00e4", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1), inner),
    max_leaves=8,
)


@given(VALUES)
def test_json_is_read_as_json(value):
    assert parse_yaml(json.dumps(value), "c.yaml") == value


def test_merges_of_merges_do_not_multiply():
    """Each level would have ten times as many pairs as the one before."""
    lines = ["a0: &a0 {x: 1, y: 2}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, 12)]
    assert parse_yaml("\n".join(lines), "c.yaml")["a11"] == {"x": 1, "y": 2}


def test_what_is_merged_before_it_is_built_has_each_key_once():
    """PyYAML builds outer mappings first, and spreads the inner one when it is merged."""
    text = "o: {p: {q: &b {<<: {x: 1, y: 1}, x: 2}}}\nc: {<<: *b, y: 3}"
    assert parse_yaml(text, "c.yaml") == {
        "o": {"p": {"q": {"x": 2, "y": 1}}},
        "c": {"x": 2, "y": 3},
    }


@pytest.mark.parametrize("merged", ["{a: 1, a: 2}", "{1: 2}", "[{a: 1, a: 2}]"])
def test_keys_of_what_is_merged_are_checked_like_others(merged):
    with pytest.raises(ConfigError, match=r"was given|is no text"):
        parse_yaml(f"k: {{<<: {merged}}}", "c.yaml")
