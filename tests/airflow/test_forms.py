"""What a form says of a param that it refuses."""

from __future__ import annotations

import json

import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.definitions.param import SerializedParam, SerializedParamsDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ecdctr.airflow.forms import NAME, OneSentence, sentence
from tests.make import answer_of


def refusal(value: object, **schema: object) -> str:
    """Return what Airflow says of a param."""
    params = SerializedParamsDict({"experiment": SerializedParam(value, **schema)})
    with pytest.raises(ParamValidationError) as refused:
        params.validate()
    return str(refused.value)


def test_a_name_with_capitals_is_refused_with_what_a_name_is():
    assert sentence(refusal("Not A Name", type="string", pattern="^[a-z]+$", expected=NAME)) == (
        "Invalid input for param experiment: 'Not A Name' is refused; expected lower-case letters, "
        "digits, dots, hyphens."
    )


@pytest.mark.parametrize(
    ("value", "schema", "words"),
    [
        ("x", {"type": "string", "enum": ["default"]}, "'x' is not one of ['default']."),
        ("x", {"type": ["null", "integer"]}, "'x' is not of type 'null', 'integer'."),
        ("2026-13-01", {"type": "string", "format": "date"}, "'2026-13-01' is not a 'date'."),
    ],
)
def test_no_refusal_dumps_the_schema(value, schema, words):
    assert sentence(refusal(value, **schema)) == f"Invalid input for param experiment: {words}"


@pytest.mark.parametrize("status", [200, 400, 404, 500])
def test_only_the_detail_of_a_refused_param_changes(status):
    text = refusal("x", type="integer")

    async def trigger(request: Request) -> Response:
        return JSONResponse({"detail": text, "other": 1}, status, {"x-kept": "yes"})

    app = OneSentence(Starlette(routes=[Route("/", trigger, methods=["POST", "GET"])]))
    answer = answer_of(app, "POST", "/")
    changed = status == 400
    assert (answer.status_code, answer.headers["x-kept"]) == (status, "yes")
    assert answer.json() == {"detail": sentence(text) if changed else text, "other": 1}
    assert answer_of(app, "GET", "/").json()["detail"] == text


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", json.dumps({"detail": []}).encode()])
def test_a_refusal_of_another_kind_passes_as_it_is(body):
    async def trigger(request: Request) -> Response:
        return Response(body, 400)

    app = OneSentence(Starlette(routes=[Route("/", trigger, methods=["POST"])]))
    assert answer_of(app, "POST", "/").content == body
