"""What an operator is told: level, date, cause and remedy, in the log and at a webhook."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from tenacity import wait_none

from ecdctr.airflow import alerts
from ecdctr.airflow.pipeline import STEPS
from tests.make import write_config

WEBHOOK = "ECDCTR_TEST_WEBHOOK"


@pytest.fixture
def webhook() -> Iterator[tuple[str, list[str]]]:
    """Yield a server on loopback and the texts that it was sent."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            texts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hook", texts
    server.shutdown()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts._send.retry, "wait", wait_none())


@pytest.fixture(autouse=True)
def settings(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path / "config.yaml", world, alert_webhook_env=WEBHOOK)
    monkeypatch.setenv("ECDCTR_CONFIG", str(config))
    monkeypatch.setenv("ECDCTR_STORE", str(tmp_path / "store"))


def failure(task: str, error: Exception) -> dict:
    return {
        "ti": SimpleNamespace(task_id=task),
        "dag": SimpleNamespace(dag_id="ecdctr_cpm"),
        "dag_run": SimpleNamespace(data_interval_end=None),
        "params": {"data_date": "2026-03-04", "experiment": "production"},
        "exception": error,
    }


def test_a_failed_task_is_told_with_level_date_cause_and_remedy(webhook, monkeypatch, caplog):
    url, texts = webhook
    monkeypatch.setenv(WEBHOOK, url)
    with caplog.at_level(logging.ERROR):
        alerts.task_failed(
            failure("validate_and_prepare", ValueError("natural 2026-03-04: no clicks\nand more"))
        )
    assert texts == [
        "cpm 2026-03-04 in production: validate_and_prepare failed: natural 2026-03-04: no clicks "
        "To do: mend the cause (broken files: deliver them again), then clear this task; days that "
        "are prepared stay."
    ]
    assert f"ECDCTR ALERT {texts[0]}" in caplog.text


def test_days_that_a_chain_left_out_are_told_and_an_ordinary_training_is_not(webhook, monkeypatch):
    url, texts = webhook
    monkeypatch.setenv(WEBHOOK, url)
    context = failure("train", ValueError())
    for skipped in ([], ["2026-01-02", "2026-01-09"]):
        result = {"version": "v", "skipped_days": skipped}
        context["ti"].xcom_pull = lambda task_ids, result=result: result
        alerts.days_skipped(context)
    assert texts == [
        "cpm 2026-03-04 in production: trained without 2 days since the version before (2026-01-02 "
        "to 2026-01-09), as cpm.skip_missed_days or data.allowed_missing_days allows. To do: train "
        "them oldest first, if they count."
    ]


def test_a_missed_deadline_is_told(webhook, monkeypatch):
    url, texts = webhook
    monkeypatch.setenv(WEBHOOK, url)
    run = {
        "dag_id": "ecdctr_actr",
        "dag_run_id": "r",
        "logical_date": "2026-03-04T00:00:00Z",
        "data_interval_end": "2026-03-05T03:00:00Z",
        "conf": {},
    }
    asyncio.run(alerts.deadline_missed({"dag_run": run}, 48))
    assert texts[0].startswith(
        "actr 2026-03-04 in production: not done 48 h after it was queued (run r)."
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.org/x",
        "http://example.org/x",
        "http://127.0.0.1:9/closed",
        "http://localhost.evil.example/x",
        "http://127.0.0.1.evil.example/x",
        "http://localhost@evil.example/x",
        "http://localhost:80@evil.example/x",
        "https:///x",
        "http://[::1",
    ],
)
def test_a_webhook_that_cannot_be_used_is_logged_and_fails_nothing(monkeypatch, caplog, url):
    monkeypatch.setenv(WEBHOOK, url)
    asked = []
    send = alerts.httpx.post
    monkeypatch.setattr(
        alerts.httpx, "post", lambda url, **options: asked.append(url) or send(url, **options)
    )
    with caplog.at_level(logging.ERROR):
        alerts.task_failed(failure("train", RuntimeError("killed")))
    assert "ECDCTR ALERT cpm 2026-03-04" in caplog.text
    closed = url.startswith("http://127.0.0.1:9/")
    assert ("could not be sent" if closed else "not sent") in caplog.text
    assert len(asked) == closed * alerts.TRIES, "nothing leaves in clear text"


def test_a_webhook_that_refuses_is_logged_without_its_url_and_not_asked_again(monkeypatch, caplog):
    url = "https://hooks.example.org/secret"
    answers = [httpx.Response(403, request=httpx.Request("POST", url))]
    monkeypatch.setenv(WEBHOOK, url)
    monkeypatch.setattr(alerts.httpx, "post", lambda *_, **__: answers.pop())
    with caplog.at_level(logging.ERROR):
        alerts.tell("late")
    assert "could not be sent" in caplog.text
    assert "secret" not in caplog.text


def test_an_alert_to_this_machine_goes_through_no_proxy(webhook, monkeypatch):
    url, texts = webhook
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setenv(WEBHOOK, url)
    alerts.tell("late")
    assert texts == ["late"]


def test_an_alert_reaches_a_webhook_that_was_away_for_a_moment(webhook, monkeypatch):
    url, texts = webhook
    monkeypatch.setenv(WEBHOOK, url)
    send, failures = alerts.httpx.post, [httpx.ConnectError("away")]

    def post(*arguments, **options):
        if failures:
            raise failures.pop()
        return send(*arguments, **options)

    monkeypatch.setattr(alerts.httpx, "post", post)
    alerts.tell("late")
    assert texts == ["late"]


def test_every_step_has_a_remedy():
    steps = set(STEPS) - {"publish"}  # one call to Airflow
    assert set(alerts.REMEDIES) == steps
