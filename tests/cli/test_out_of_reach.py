"""A bucket that does not answer, or in whose place another server does."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from ecdctr.cli import app, run
from ecdctr.errors import TRY_AGAIN, no_answer
from tests.conftest import DATE, REPOSITORY
from tests.make import write_config
from tests.store.s3 import S3Server

SAID = "Generic S3 error: Error performing GET http://h:9000/b/x in 1.1s"


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """Yield the address of a server that answers everything so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def listed(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """Return the exit code of a command whose store lies there."""
    monkeypatch.setenv("AWS_ENDPOINT", endpoint)
    config = str(REPOSITORY / "configs" / "tiny.yaml")
    return run(app, ["--config", config, "--store", f"s3://b/{endpoint[-5:]}", "store", "list"])


@pytest.fixture(autouse=True)
def cache(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lead to no bucket of the other tests, with credentials all the same."""
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))


def test_a_store_that_does_not_answer_is_worth_another_try(monkeypatch, capfd):
    """Airflow does not retry what exits with 1."""
    with answering(200, b"") as endpoint:
        pass  # from here on nobody listens there
    assert listed(endpoint, monkeypatch) == TRY_AGAIN
    assert "address is right and answers from here." in capfd.readouterr().err


PAGE = b"<html><head><title>Log in</title></head><body>Please log in</body></html>"


@pytest.mark.parametrize("place", ["s3://bucket/data", "webhdfs://{}/data"])
def test_a_page_that_answers_whatever_is_asked_is_no_listing(
    world, tmp_path, monkeypatch, capfd, place
):
    """A proxy or a login answers with status 200, and a day that is there would seem to lack."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with answering(200, PAGE) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT", endpoint)
        root = place.format(endpoint.partition("//")[2])
        config = write_config(tmp_path / "config.yaml", world)
        config.write_text(config.read_text().replace(f"root: {world}", f"root: {root}"))
        assert run(app, ["--config", str(config), "validate", "--date", str(DATE)]) == 1
    said = capfd.readouterr().err
    assert f"data.root {root} cannot be read: its " in said
    assert "whether a proxy or a login page answers in its place." in said


def test_impressions_that_do_not_answer_are_worth_another_try(world, tmp_path, monkeypatch, capfd):
    config = write_config(tmp_path / "config.yaml", world)
    config.write_text(config.read_text().replace(f"root: {world}", "root: ftp://127.0.0.1:1/x"))
    command = ["--config", str(config), "--store", str(tmp_path / "store"), "validate"]
    assert run(app, [*command, "--date", str(DATE)]) == TRY_AGAIN
    assert "data.root ftp://127.0.0.1:1/x cannot be read: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>Please log in</html>", "experiments.json is damaged (Expecting value"),
        (200, b"[]", "experiments.json is damaged (it is not what was written); look whether the"),
        (403, b"<Error><Code>AccessDenied</Code></Error>", "403 Forbidden"),
    ],
)
def test_what_another_try_does_not_help_is_refused(monkeypatch, capfd, status, body, words):
    with answering(status, body) as endpoint:
        assert listed(endpoint, monkeypatch) == 1
    assert words in capfd.readouterr().err


@pytest.mark.parametrize(
    ("said", "again"),
    [
        (f"{SAID}, after 4 retries, max_retries: 4 - 503 Service Unavailable: SlowDown", True),
        (f"{SAID}, after 4 retries, max_retries: 4 - HTTP error: operation timed out", True),
        (f"{SAID} - HTTP error: error sending request", True),
        (f"{SAID} - Server returned non-2xx status code: 400 Bad Request: ExpiredToken", False),
        ("Received redirect without LOCATION, this normally indicates a wrong region", False),
    ],
)
def test_only_what_the_client_itself_tried_again_may_be_over_in_a_while(said, again):
    assert no_answer(Exception(said)) is again
