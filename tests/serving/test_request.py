"""What a request may hold: the rules, request.schema.json made of them.

And JSON that says one thing.
"""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from ecdctr.serving import json_text
from ecdctr.serving.json_text import NoJson, parse_json
from ecdctr.serving.request import Shape, refuse_unknown
from ecdctr.serving.rules import LATEST, Kind, RequestError, Rule, shown
from ecdctr.serving.schema import request_schema
from tests.serving.schemas import keys_in, keys_of, of_schema, schema_at

KINDS: dict[str, Kind] = {
    "user_id": "integer",
    "item_id": "string",
    "city": "string",
    "member": "boolean",
    "slot": "integer",
    "never": "any",
    "tags": "integer",
    "words": "string",
    "hour": "integer",
}
DESCRIPTION: dict[str, Any] = {
    "version": "production/actr/2026-01-18/v0001",
    "data_date": "2026-01-18",
    "history_length": 3,
    "history_days": 7,
    "history_features": [],
    "lookback_days": 7,
    "multi": [["tags", 3], ["words", 2]],
    "numeric": {
        "age": {"transform": "identity", "null": 40.0},
        "price": {"transform": "log1p", "null": 0.0},
        "user_ctr": {"transform": "count"},
    },
    "user_side": ["city", "member", "age", "user_impressions", "user_clicks"],
    "context_side": ["slot", "never"],
    "item_side": ["item_id", "tags", "words", "price", "item_impressions", "item_clicks"],
}
SHAPE = Shape(DESCRIPTION, KINDS)
REMEMBERING = DESCRIPTION | {  # a bundle with memory, whose requests may bring `recent`
    "item_side": [*DESCRIPTION["item_side"], "brand"],
    "memory": {"keys": ["item_id", "brand"], "until": "2026-01-17"},
}
SHAPES = {"plain": SHAPE, "remembering": Shape(REMEMBERING, KINDS | {"brand": "any"})}
SCHEMAS = {
    "plain": request_schema(DESCRIPTION, SHAPE),
    "remembering": request_schema(REMEMBERING, SHAPES["remembering"]),
}
ODD = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        1.0,
        0.5,
        -0.0,
        2**53 + 1,
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        1e18,
        1e19,
        1e30,
        1.1e30,
        -1e31,
        1e39,
        1e300,
        10**400,
        LATEST,
        LATEST + 1,
        1767225600000,
        "",
        "1",
        "a\0",
        "\0",
        "é" * 70,
        "true",
        [],
        [1],
        [True],
        ["a"],
        [None],
        [1.0, 2],
        [[1]],
        {},
        {"item_id": "a"},
        {"item_id": "a", "ts": 5},
        {"ts": 1, "x": 2},
    ]
)


VALID = {name: of_schema(schema) for name, schema in SCHEMAS.items()}
VALIDATORS = {name: Draft202012Validator(schema) for name, schema in SCHEMAS.items()}


def accepted(which: str, request: Any) -> bool:
    try:
        SHAPES[which].check(request)
    except RequestError:
        return False
    return True


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [at, *(place for key, one in inner for place in places(one, (*at, key)))]  # fmt: skip


def put(request: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    changed = part = copy.deepcopy(request)
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    return changed


@pytest.mark.parametrize("which", SHAPES)
def test_what_is_valid_by_the_schema_is_accepted_and_every_key_is_tried(which):
    tried: set[str] = set()

    @settings(max_examples=300, derandomize=True)
    @given(VALID[which])
    def accepts(request_: Any) -> None:
        assert VALIDATORS[which].is_valid(request_)
        SHAPES[which].check(request_)
        tried.update(keys_in(request_))

    accepts()
    assert tried == keys_of(SCHEMAS[which])


@pytest.mark.parametrize("which", SHAPES)
def test_whatever_stands_anywhere_scorer_and_schema_agree(which):
    agreed: list[bool] = []

    @settings(max_examples=500)
    @given(request_=VALID[which], data=st.data())
    def agree(request_: Any, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(places(request_)))
        changed = put(request_, place, data.draw(ODD | of_schema(schema_at(SCHEMAS[which], place))))
        agreed.append(VALIDATORS[which].is_valid(changed))
        assert accepted(which, changed) == agreed[-1]

    agree()
    assert min(agreed.count(True), agreed.count(False)) > len(agreed) / 10  # both are tried


@pytest.mark.parametrize("which", SHAPES)
@settings(max_examples=150)
@given(name=st.text(max_size=5), value=ODD, data=st.data())
def test_a_key_more_is_refused_wherever_the_schema_has_none(which, name, value, data):
    request_ = data.draw(VALID[which])
    objects = [place for place in places(request_) if isinstance(get(request_, place), dict)]
    changed = put(request_, (*data.draw(st.sampled_from(objects)), name), value)
    assert accepted(which, changed) == VALIDATORS[which].is_valid(changed)


def get(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


BASE: dict[str, Any] = {"ts": 1767225600, "candidates": [{"item_id": "a"}, {"item_id": "b"}]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"candidates": [{"item_id": "a"}, {"item_id": True}]},
            r"candidates\[1\].item_id: expected a string, found True",
        ),
        (
            {"candidates": [{"tags": [3, True]}]},
            r"candidates\[0\].tags\[1\]: expected an integer of 64 bits, found True",
        ),
        ({"candidates": [{"tags": 3}]}, r"candidates\[0\].tags: expected a list, found 3"),
        (
            {"candidates": [{"price": True}]},
            r"candidates\[0\].price: expected a number, found True",
        ),
        (
            {"candidates": [{"price": 1e39}]},
            r"candidates\[0\].price: expected a number from -1e\+30 to 1e\+30, found 1e\+39",
        ),
        (
            {"candidates": [{"price": 10**400}]},
            r"candidates\[0\].price: .*found a number of more than 30 digits",
        ),
        (
            {"candidates": [{"price": math.inf}]},
            r"candidates\[0\].price: expected a finite number, found inf",
        ),
        (
            {"candidates": [{"price": math.nan}]},
            r"candidates\[0\].price: expected a finite number, found nan",
        ),
        (
            {"candidates": [{"item_clicks": -1}]},
            r"candidates\[0\].item_clicks: expected a number from 0 to",
        ),
        (
            {"candidates": [{"colour": 1}]},
            r"candidates\[0\]: the model has no feature 'colour'; it knows item_clicks",
        ),
        ({"candidates": [7]}, r"candidates\[0\]: expected an object of features, found 7"),
        ({"candidates": []}, "candidates: expected a list with at least one"),
        ({"candidates": {}}, "candidates: expected a list"),
        ({"user": {"member": 1}}, "user.member: expected true or false, found 1"),
        ({"user": {"city": ["a"]}}, "user.city: expected a string, found a list"),
        ({"user": []}, "user: expected an object of features, found a list"),
        ({"context": None}, "context: expected an object of features, found null"),
        (
            {"context": {"slot": 2**63}},
            "context.slot: expected an integer of 64 bits, found 9223372036854775808",
        ),
        ({"user_id": "7"}, "user_id: expected an integer of 64 bits, found '7'"),
        ({"user_id": 7.5}, "user_id: expected an integer of 64 bits, found 7.5"),
        ({"prior_ctr": 1.5}, "prior_ctr: expected a number from 0 to 1, found 1.5"),
        ({"ts": True}, "ts: expected seconds since 1970 .UTC., found True"),
        ({"ts": "1767225600"}, "ts: expected seconds since 1970 .UTC., found '1767225600'"),
        ({"ts": -1}, "ts: expected seconds"),
        ({"ts": 1767225600000}, "ts: .*looks like milliseconds; divide it by 1,000"),
        ({"ts": 1767225600000000}, "ts: .*looks like microseconds; divide it by 1,000,000"),
        (
            {"history": [{"item_id": "a", "ts": 1767225500000}]},
            r"history\[0\].ts: .*looks like milliseconds",
        ),
        (
            {"history": [{"item_id": "a", "ts": 1}, {"item_id": 3, "ts": 1}]},
            r"history\[1\].item_id: expected a string",
        ),
        (
            {"history": [{"item_id": None, "ts": 1}]},
            r"history\[0\].item_id: expected a string, found null",
        ),
        (
            {"history": [{"item": "a", "ts": 1}]},
            r"history\[0\]: expected a click with 'item_id' and 'ts'",
        ),
        ({"history": {"item_id": "a"}}, "history: expected a list of clicks, found an object"),
        ({"extra": 1}, "Unknown key 'extra'"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_place(change, words):
    with pytest.raises(RequestError, match=words):
        SHAPE.check(BASE | change)


@pytest.mark.parametrize("content", [None, 5, [1], "text", True, 1.5])
def test_json_that_is_no_object_is_refused(content):
    with pytest.raises(RequestError, match="expected an object with a list 'candidates'"):
        SHAPE.check(content)


def test_a_value_is_judged_alike_whatever_stands_beside_it():
    for values in ([1.0], [1.0, 7], [7, None, 1.0]):
        checked = SHAPE.rules["slot"].checked(values, str)
        assert [value for value in checked if value == 1] == [1]
        assert {type(value) for value in checked} <= {int, type(None)}
    for values in ([True], [True, 7], [7, None, True]):
        with pytest.raises(RequestError):
            SHAPE.rules["slot"].checked(values, str)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "no JSON"),
        (b"{nonsense", "no JSON"),
        (b'{"a": 1, "a": 2}', "the key 'a' is given twice"),
        (b'{"x": [{"b": 1, "c": 2, "b": 1}]}', "the key 'b' is given twice"),
        (b"[NaN]", "NaN is no number"),
        (b"[-Infinity]", "-Infinity is no number"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'["\\ud800"]', "half of a surrogate pair"),
        (b'{"\\uDFFF": 1}', "half of a surrogate pair"),
        ('["é"]'.encode("latin-1"), "no UTF-8: found the byte 0xe9"),
        ("[1]".encode("utf-16"), "no UTF-8"),
        (b"[" + b"9" * 5000 + b"]", "no JSON"),
        (b"[1] [2]", "no JSON"),
        (b"['a']", "no JSON"),
    ],
)
def test_json_that_cannot_be_read_in_one_way_is_refused(text, words):
    with pytest.raises(NoJson) as refused:
        parse_json(text)
    assert words in str(refused.value)


def test_numbers_keep_their_digits_and_text_its_characters():
    assert (
        parse_json(b"[9007199254740993, 9007199254740993.0, 9.007199254740993e15]")
        == [9007199254740993] * 3
    )
    assert parse_json(b"[1.5, 1e3, 1e400]") == [1.5, 1000.0, math.inf]
    assert parse_json('["\\ud83d\\ude00", "é\\u0000"]'.encode()) == ["😀", "é\0"]
    assert parse_json(b'\xef\xbb\xbf{"a": {"b": 1}}') == {"a": {"b": 1}}


@given(st.binary(max_size=30) | st.text(max_size=30).map(lambda text: text.encode(errors="ignore")))
def test_any_bytes_are_read_or_refused(content):
    try:
        value = parse_json(content)
    except NoJson:
        return
    json.dumps(value).encode()


@given(ODD | st.text() | st.floats())
def test_whatever_is_shown_fits_a_line_and_an_answer(value):
    text = shown(value)
    assert len(text) < 70
    text.encode()
    assert "\n" not in text


def test_a_name_that_no_answer_can_carry_is_shown_escaped():
    with pytest.raises(RequestError, match=r"no feature '\\ud800'"):
        refuse_unknown("user", {"\ud800": 1}, ["city"])


@pytest.mark.parametrize(
    "text",
    [
        "9007199254740993.5",
        "1.0000000000000000000001",
        "1e-400",
        "-4503599627370497.9999",
        "-0.10E-99999999999999999999",
    ],
)
def test_a_number_with_a_fraction_is_no_id_though_its_float_is_whole(text):
    (value,) = parse_json(f"[{text}]".encode())
    assert value == float(text)
    with pytest.raises(RequestError, match="user_id: expected an integer of 64 bits"):
        Rule("integer").checked([value], lambda _: "user_id")
    assert Rule("number", low=-1e30, high=1e30).checked([value], str) == [float(text)]


@pytest.mark.parametrize("text", ["0e99999999999999999999", "-0.00E-99999999999999999999"])
def test_zero_is_zero_with_any_exponent(text):
    (value,) = parse_json(f"[{text}]".encode())
    assert Rule("integer").checked([value], str) == [0]


def test_a_key_given_twice_is_found_in_one_pass():
    """A request of many keys holds up no other one."""

    class Key(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return str.__eq__(self, other)

    pairs = [(Key(i), 0) for i in range(300)]
    with pytest.raises(ValueError, match="the key '299' is given twice"):
        json_text._unique([*pairs, (Key(299), 1)])
    assert Key.compared < 600


def test_numbers_of_thousands_of_digits_are_refused_in_words():
    with pytest.raises(NoJson, match="no JSON: a number has 5,000 digits"):
        parse_json(b"1" * 5000)
