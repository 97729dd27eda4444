"""What a form says of a param that it refuses, and what the run is called that it starts."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import pytest
from airflow.exceptions import ParamValidationError
from airflow.serialization.definitions.param import SerializedParam, SerializedParamsDict
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ecdctr.airflow.forms import NamesRuns, OneSentence, named_body, sentence
from ecdctr.airflow.params import EXPERIMENTS
from tests.make import answer_of


def refusal(value: object, **schema: object) -> str:
    """Return what Airflow says of a param."""
    params = SerializedParamsDict({"experiment": SerializedParam(value, **schema)})
    with pytest.raises(ParamValidationError) as refused:
        params.validate()
    return str(refused.value)


def test_a_name_with_capitals_is_refused_with_what_a_name_is():
    assert sentence(
        refusal("Not A Name", type="string", pattern="^[a-z]+$", expected=EXPERIMENTS)
    ) == (
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


NOW = dt.datetime(2026, 11, 2, 9, 30, tzinfo=dt.UTC)


def name_of(**asked: Any) -> str | None:
    return json.loads(named_body(json.dumps(asked).encode(), NOW)).get("dag_run_id")


def test_a_run_of_a_data_date_is_called_by_it_and_by_experiment_and_variant():
    conf = {"data_date": "2026-04-20", "experiment": "try-1", "variant": "no_tpm"}
    assert name_of(conf=conf) == "manual__2026-04-20_try-1_no_tpm__2026-11-02T09:30:00"
    del conf["experiment"], conf["variant"]
    assert name_of(conf=conf) == "manual__2026-04-20_production_default__2026-11-02T09:30:00"


@pytest.mark.parametrize(
    "asked",
    [
        {"conf": {"data_date": "2026-04-20"}, "dag_run_id": "mine"},
        {"conf": {"data_date": None}},
        {"conf": None},
        {},
    ],
)
def test_a_run_with_a_name_or_without_a_data_date_keeps_what_airflow_calls_it(asked):
    body = json.dumps(asked).encode()
    assert named_body(body, NOW) == body
    assert named_body(b"no json", NOW) == b"no json"


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/api/v2/dags/ecdctr_actr/dagRuns", True),
        ("/api/v2/dags/another/dagRuns", False),
        ("/api/v2/dags/ecdctr_actr/dagRuns/list", False),
    ],
)
def test_only_what_triggers_a_level_by_hand_is_named(path, named):
    async def echo(request: Request) -> Response:
        body = await request.body()
        assert int(request.headers["content-length"]) == len(body)
        return Response(body)

    app = NamesRuns(Starlette(routes=[Route(path, echo, methods=["POST"])]))
    asked = {"conf": {"data_date": "2026-04-20"}, "note": "é"}
    answer = answer_of(app, "POST", path, json=asked).json()
    assert ("dag_run_id" in answer) == named
    answer.pop("dag_run_id", None)
    assert answer == asked
