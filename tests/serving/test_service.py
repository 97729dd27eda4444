"""Scoring over HTTP: a real server on loopback, real bundles, versions that change under load."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import uvicorn

from ecdctr.errors import BundleChanged, EcdctrError, machine_trouble
from ecdctr.levels.actr import train_actr
from ecdctr.levels.request import Request
from ecdctr.serving import connection, follow, routes
from ecdctr.serving.export import export_bundle
from ecdctr.serving.follow import Follower, bundle_name
from ecdctr.serving.routes import build_app, settings_of
from ecdctr.serving.scorer import Scorer
from ecdctr.serving.service import Limits, Service, score_together
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import changed, manifest, publish, until, write_config
from tests.serving.logged import logged_requests

SWAPS, CLIENTS = 100, 4


@pytest.fixture(scope="module")
def store(config, trained, tmp_path_factory) -> Store:
    """Two A-CTR versions of one day that score differently; the first one serves."""
    store = Store(shutil.copytree(trained, tmp_path_factory.mktemp("service") / "store"))
    store.set_alias("serving", store.require("actr", DATE), "first")
    train_actr(Request(changed(config, "actr", lr_dense=5e-3), store, DATE, force=True))
    return store


@pytest.fixture(scope="module")
def scorers(store, shipped, tmp_path_factory) -> list[Scorer]:
    second = tmp_path_factory.mktemp("bundles") / "second"
    export_bundle(store, store.versions("production", "actr")[1], second)
    return [Scorer(shipped), Scorer(second)]


@pytest.fixture(scope="module")
def requests(config) -> list[dict[str, Any]]:
    return logged_requests(config, DATE)[:20]


@contextlib.contextmanager
def running(service: Service, *background: Any) -> Iterator[int]:
    """Yield the service on a free port; yields the port."""
    settings = settings_of(build_app(service, list(background)))
    settings.port = 0
    server = uvicorn.Server(settings)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not end"


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text if path == "/metrics" else json.loads(text)


def test_answers_are_the_scorers_with_the_version_that_made_them(scorers, requests):
    service = Service(Limits())
    service.swap("serving", scorers[0])
    with running(service) as port:
        for request in requests[:5]:
            status, answer = call(port, "POST", "/score", request)
            assert status == 200
            assert answer["version"] == scorers[0].version
            assert answer["probabilities"] == pytest.approx(
                scorers[0].score(request).tolist(), abs=1e-6
            )
        assert 'ecdctr_requests_total{status="200"} 5.0' in call(port, "GET", "/metrics")[1]


def test_a_client_that_goes_away_is_counted_as_such():
    """Neither as a bad request nor as an error of ours, which would wake somebody."""
    with running(Service(Limits())) as port:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        until(lambda: "ecdctr_requests_total" in call(port, "GET", "/metrics")[1])
        told = call(port, "GET", "/metrics")[1]
    assert 'ecdctr_requests_total{status="499"} 1.0' in told


@pytest.mark.parametrize(
    "encoding", ["gzip", "GZIP", "br", "deflate, gzip", "identity, gzip", "x" * 5000]
)
def test_a_compressed_body_is_refused_as_such(encoding):
    """Its bytes are no text; clients compress by themselves."""
    with running(Service(Limits())) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        body = gzip.compress(b'{"ts": 1e9, "candidates": [{}]}')
        connection.request("POST", "/score", body, {"Content-Encoding": encoding})
        answer = connection.getresponse()
        text = json.loads(answer.read())["error"]
        connection.close()
    assert answer.status == 415
    assert "is not read; send the body as it is" in text
    assert len(text) < 100


@pytest.mark.parametrize("start", ["http://host", "HTTP://127.0.0.1:8100", "https://[::1]:1"])
def test_targets_in_absolute_form_are_those_of_their_paths(scorers, requests, start):
    """A server must take them (RFC 9112, 3.2.2); clients that think of a proxy send them."""
    service = Service(Limits())
    service.swap("serving", scorers[0])
    with running(service) as port:
        assert call(port, "GET", f"{start}/health") == call(port, "GET", "/health")
        assert call(port, "GET", f"{start}/ready?now=1")[0] == 200
        status, answer = call(port, "POST", f"{start}/score", requests[0])
        assert (status, answer) == call(port, "POST", "/score", requests[0])
        assert status == 200
        status, answer = call(port, "GET", start)
    assert status == 404
    assert "There is no GET '/' here" in answer["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/score", 405),
        ("POST", "/score/", 404),
        ("POST", "/v2/models/x/infer", 404),
        ("POST", "/a%0Ab", 404),
        ("DELETE", "/health", 405),
    ],
)
def test_another_path_or_method_is_answered_in_json_with_those_that_are_there(method, path, status):
    """And not by a redirect, which behind a proxy names a host that clients do not know."""
    with running(Service(Limits())) as port:
        answered, answer = call(port, method, path, b"{}")
    assert answered == status
    assert "POST /score, or GET /health, /ready or /metrics" in answer["error"]


def _exchanged(port: int, sent: bytes) -> bytes:
    """Return all bytes that come back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_a_client_that_offers_another_protocol_keeps_its_body(framing):
    """Java's client offers h2c with each request; a server may go on with HTTP/1.1."""
    body = b"{nonsense" if b"Length" in framing else b"9\r\n{nonsense\r\n0\r\n\r\n"
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"
    with running(Service(Limits())) as port:
        told = _exchanged(
            port,
            b"POST /score HTTP/1.1\r\nHost: a\r\n%b\r\n%b\r\n\r\n%b" % (offer, framing, body)
            + b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
    assert told.startswith(b"HTTP/1.1 400")
    assert b"line 1 column 2" in told  # it was read
    assert told.endswith(b'{"ready":false}')  # and so is what comes after it


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"GET /ready HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 80_000, b"Receive buffer too long"),
        (b"GET /ready HTTP/1.1\r\n\r\n", b"Host"),
        (b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"Content-Length"),
    ],
)
def test_what_is_no_http_is_refused_with_what_is_wrong(sent, said):
    with running(Service(Limits())) as port:
        told = _exchanged(port, sent)
    assert told.startswith(b"HTTP/1.1 400")
    assert b'{"error": "This is no HTTP/1.1 request: ' in told
    assert said in told


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 408"),
        (
            b"POST /score HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
            b"HTTP/1.1 408",
        ),
        (b"POST /score HTTP/1.1\r\nHost: a\r\n", b"HTTP/1.1 408"),
        (b"GET /health\r\n", b"HTTP/1.1 408"),
        (b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", b"HTTP/1.1 200"),
        (b"", b""),
    ],
)
def test_a_request_that_comes_too_slowly_is_told_so_and_let_go(monkeypatch, sent, answer):
    """The connection ends, so that clients who never finish do not pile up."""
    monkeypatch.setattr(connection, "COMES_WITHIN", 0.1)
    with running(Service(Limits())) as port:
        told = _exchanged(port, sent)
    assert told.startswith(answer)
    assert (b"not whole within 0.1 seconds" in told) == (b"408" in answer)
    assert bool(told) == bool(answer)


def test_a_request_that_never_ends_holds_up_the_end_of_the_server_for_a_while_only(monkeypatch):
    monkeypatch.setattr(routes, "ENDS_WITHIN", 0.2)
    with contextlib.ExitStack() as client, running(Service(Limits())) as port:
        half = client.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
        half.sendall(b"POST /score HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
        call(port, "GET", "/ready")


@pytest.mark.parametrize("encoding", ["", " ", "Identity"])
def test_a_body_that_is_not_compressed_may_say_so(encoding):
    with running(Service(Limits())) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.request("POST", "/score", b"{nonsense", {"Content-Encoding": encoding})
        assert connection.getresponse().status == 400
        connection.close()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{nonsense", 400, "no JSON"),
        ({"ts": 1}, 422, "a list 'candidates'"),
        ([1, 2], 422, "a list 'candidates'"),
        ({"ts": 1e9, "candidates": [{"colour": 1}]}, 422, "no feature 'colour'"),
        ({"ts": 1e9, "candidates": [{}] * 11}, 413, "at most 10"),
        (b"[" * 4000, 400, "nested too deeply"),
        (b'{"ts": 1e9, "ts": 2e9, "candidates": [{}]}', 400, "the key 'ts' is given twice"),
        (b'{"ts": NaN, "candidates": [{}]}', 400, "NaN is no number"),
        (b'{"ts": 1e9, "user_id": "\\ud800", "candidates": [{}]}', 400, "surrogate"),
        ('{"ts": 1e9, "user_id": "é"}'.encode("latin-1"), 400, "no UTF-8"),
        (b"null", 422, "a list 'candidates'"),
        ({"ts": 1e9, "candidates": [{"item_id": True}, {"item_id": 1}]}, 422, "[0].item_id"),
        ({"ts": 1e9, "candidates": [{"price": 1e39}]}, 422, "candidates[0].price"),
        ({"ts": 1e9, "candidates": [{"price": 10**400}]}, 422, "candidates[0].price"),
        ({"ts": 1e12, "candidates": [{}]}, 422, "milliseconds"),
        (b" " * 5000, 413, "longer than 4,096 bytes"),
    ],
)
def test_a_bad_request_is_refused_and_the_next_one_answered(
    scorers, requests, body, status, message
):
    service = Service(Limits(candidates=10, bytes=4096))
    service.swap("serving", scorers[0])
    with running(service) as port:
        code, answer = call(port, "POST", "/score", body)
        assert (code, message in answer["error"]) == (status, True), answer
        assert call(port, "POST", "/score", requests[0])[0] == 200


def test_requests_scored_together_do_not_touch_each_other(scorers, requests):
    bad = requests[0] | {"user": {"shoe_size": 44}}
    results = score_together(scorers[0], [requests[0], bad, requests[1]])
    assert "shoe_size" in str(results[1])
    for scores, request in ((results[0], requests[0]), (results[2], requests[1])):
        assert np.abs(scores - scorers[0].score(request)).max() < 1e-6


def test_a_hundred_swaps_under_load_drop_nothing_and_mix_nothing(scorers, requests):
    service = Service(Limits())
    service.swap("serving", scorers[0])
    expected = {
        scorer.version: [scorer.score(request) for request in requests] for scorer in scorers
    }
    wrong: list[Any] = []
    seen: set[str] = set()
    stop = threading.Event()

    def client(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while not stop.is_set():
            for i, request in enumerate(requests):
                connection.request("POST", "/score", json.dumps(request))
                answer = connection.getresponse()
                content = json.loads(answer.read())
                if answer.status != 200:
                    wrong.append(content)
                elif (
                    np.abs(
                        np.array(content["probabilities"]) - expected[content["version"]][i]
                    ).max()
                    > 1e-5
                ):
                    wrong.append((content, i))
                else:
                    seen.add(content["version"])

    async def swap(service: Service) -> None:
        for i in range(SWAPS):
            await asyncio.sleep(0.01)
            service.swap("serving", scorers[(i + 1) % 2])
        stop.set()

    with running(service, swap) as port:
        threads = [threading.Thread(target=client, args=(port,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert wrong == []
    assert seen == {scorer.version for scorer in scorers}
    assert service.metrics.swaps.labels("serving")._value.get() == SWAPS + 1


def test_a_failure_of_the_runtime_is_told_and_the_next_request_is_tried(
    scorers, requests, monkeypatch
):
    service = Service(Limits())
    service.swap("serving", scorers[0])
    run = Scorer.run
    with running(service) as port:
        monkeypatch.setattr(Scorer, "run", lambda *_: 1 / 0)
        status, answer = call(port, "POST", "/score", requests[0])
        assert (status, answer["error"]) == (
            500,
            f"{scorers[0].version} failed to score; see the server's log.",
        )
        monkeypatch.setattr(Scorer, "run", run)
        assert call(port, "POST", "/score", requests[0])[0] == 200


@pytest.mark.parametrize("damage", ["cut", "rewritten"])
def test_a_bundle_that_is_written_into_scores_no_more_and_says_so(
    scorers, requests, tmp_path, damage
):
    """Its pages are read as they are now: scores would be others, or the process would end."""
    bundle = shutil.copytree(scorers[0].folder, tmp_path / "bundle")
    service = Service(Limits())
    service.swap("serving", Scorer(bundle))
    vectors = bundle / "tables" / "user_id.vectors.npy"
    with running(service) as port:
        assert call(port, "POST", "/score", requests[0])[0] == 200
        with vectors.open("r+b") as file:
            if damage == "cut":
                file.truncate(100)
            else:
                file.seek(200)
                file.write(b"\1" * (vectors.stat().st_size - 200))
        for method, path, body in (("POST", "/score", requests[0]), ("GET", "/health", None)):
            status, answer = call(port, method, path, body)
            assert status == 503
            assert f"{vectors} was written into while" in str(answer)
        assert call(port, "GET", "/ready") == (503, {"ready": False})
        service.swap("serving", scorers[1])
        assert call(port, "POST", "/score", requests[0])[1]["version"] == scorers[1].version
        assert call(port, "GET", "/health")[0] == 200


def test_a_bundle_that_is_moved_replaced_or_removed_is_scored_with_as_it_was(
    scorers, requests, tmp_path
):
    bundle = shutil.copytree(scorers[0].folder, tmp_path / "bundle")
    scorer = Scorer(bundle)
    expected = scorer.score(requests[0])
    bundle.rename(tmp_path / "old")
    shutil.copytree(scorers[1].folder, bundle)
    assert scorer.score(requests[0]).tolist() == expected.tolist()
    shutil.rmtree(tmp_path / "old")
    assert scorer.score(requests[0]).tolist() == expected.tolist()


def test_a_change_while_a_batch_is_scored_is_told_instead_of_its_scores(scorers, tmp_path):
    scorer = Scorer(shutil.copytree(scorers[0].folder, tmp_path / "bundle"))
    with (
        pytest.raises(BundleChanged, match=r"user_id.vectors.npy was written into"),
        scorer.unchanged(),
        (scorer.folder / "tables" / "user_id.vectors.npy").open("ab") as file,
    ):
        file.write(b"more")


def test_too_many_waiting_requests_are_refused_at_once(scorers, requests):
    async def crowd() -> list[Any]:
        service = Service(Limits(waiting=2))
        service.swap("serving", scorers[0])
        asked = [asyncio.ensure_future(service.score(requests[0])) for _ in range(3)]
        await asyncio.sleep(0)  # nobody works yet: two wait, one finds no room
        worker = asyncio.ensure_future(service.work())
        answers = await asyncio.gather(*asked, return_exceptions=True)
        worker.cancel()
        return answers

    kinds = [type(result) for result in asyncio.run(crowd())]
    assert kinds == [tuple, tuple, asyncio.QueueFull]


def test_a_shadow_sees_what_is_served_and_only_tells_the_difference(scorers, requests):
    service = Service(Limits())
    service.swap("serving", scorers[0])
    service.swap("shadow", scorers[1])
    with running(service) as port:
        assert call(port, "POST", "/score", requests[0])[1]["version"] == scorers[0].version
        until(lambda: "ecdctr_shadow_difference_count 1.0" in call(port, "GET", "/metrics")[1])
        text = call(port, "GET", "/metrics")[1]
    line = next(
        line for line in text.splitlines() if line.startswith("ecdctr_shadow_difference_sum")
    )
    expected = float(np.abs(scorers[0].score(requests[0]) - scorers[1].score(requests[0])).sum())
    assert float(line.split()[1]) == pytest.approx(expected, abs=1e-5)


def test_the_service_follows_the_promotion_and_makes_a_broken_bundle_anew(
    config, store, scorers, requests, tmp_path, monkeypatch
):
    """A damaged one in its folder of bundles kept a server from its version for ever."""

    async def refused(_self: Follower, ref: object, _folder: Path) -> None:
        raise EcdctrError(f"{ref} cannot be exported: for a while.")

    async def exported(_self: Follower, _ref: object, folder: Path) -> None:
        shutil.copytree(scorers[1].folder, folder)

    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.0)
    settings = write_config(tmp_path / "config.yaml", config.data.root)
    first, second = store.versions("production", "actr")
    earlier = tmp_path / "bundles" / str(first).replace("/", "_")  # exported by an earlier release
    earlier.mkdir(parents=True)
    (earlier / "bundle.json").write_text('{"schema_version": 2}')
    follower = Follower(
        "serving", "serving", store, "production", tmp_path / "bundles", settings, seconds=0.05
    )
    service = Service(Limits())
    with running(service, follower) as port:
        assert call(port, "GET", "/ready")[0] in (200, 503)
        until(lambda: call(port, "GET", "/ready")[0] == 200)
        assert call(port, "POST", "/score", requests[0])[1]["version"] == str(first)

        places = [
            tmp_path / "bundles" / bundle_name(store.manifest(ref), "float32")
            for ref in (first, second)
        ]
        broken = shutil.copytree(*places)
        (broken / "selftest.json").write_text(
            json.dumps([{"request": requests[0], "user_row": 0, "probabilities": [2.0]}])
        )
        monkeypatch.setattr(Follower, "_export", refused)
        store.set_alias("serving", second, "a broken bundle")
        until(lambda: 'failures_total{role="serving"}' in call(port, "GET", "/metrics")[1])
        assert call(port, "POST", "/score", requests[0])[1]["version"] == str(first)
        monkeypatch.setattr(Follower, "_export", exported)
        until(lambda: call(port, "POST", "/score", requests[0])[1]["version"] == str(second))
        assert sorted(broken.parent.iterdir()) == sorted([earlier, *places])
    store.set_alias("serving", first, "as before")


def test_a_store_that_was_made_anew_is_followed_though_its_version_has_the_same_name(
    tmp_path, monkeypatch
):
    async def no_export(_self: Follower, _ref: object, folder: Path) -> None:
        folder.mkdir(parents=True)

    monkeypatch.setattr(Follower, "_export", no_export)
    monkeypatch.setattr(follow, "Scorer", lambda folder, _threads: folder.name)
    swapped: list[str] = []
    service = SimpleNamespace(swap=lambda _role, name: swapped.append(name))
    follower = Follower(
        "serving", "serving", Store(tmp_path / "s"), "production", tmp_path / "b", tmp_path / "c"
    )
    for text in ("as it was", "made anew"):
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        store = Store(tmp_path / "s")
        with store.staging() as folder:
            ref = store.publish(folder, manifest(DATE, text, level="actr")).ref
        store.set_alias("serving", ref, "promoted")
        for _ in range(2):
            asyncio.run(follower.look(service))
    assert len(swapped) == len(set(swapped)) == 2, swapped


def test_connections_beyond_the_limit_of_open_files_are_told_so(monkeypatch):
    """Python's event loop wrote 37 MB of tracebacks in a minute, and answered nobody any more."""
    monkeypatch.setattr(connection, "most_connections", lambda: 2)
    with running(Service(Limits())) as port:
        idle = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(2)]
        with socket.create_connection(("127.0.0.1", port), timeout=30) as third:
            said = third.makefile("rb").read()
        for one in idle:
            one.close()
    assert said.startswith(b"HTTP/1.1 503"), said
    assert b"Too many connections" in said


def test_a_process_that_may_open_few_files_accepts_fewer_connections_at_one_go():
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))\n"
        "from ecdctr.serving.connection import most_connections\n"
        "most, limits = most_connections(), resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "assert limits == (128, 128) and 1 < most <= 48, (most, limits)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_alias_that_names_nothing_is_told_once_with_where_it_was_looked_for(
    tmp_path, monkeypatch
):
    """A server on a store's empty mount said that it listens, and nothing more."""
    said: list[str] = []
    monkeypatch.setattr(follow, "log", lambda text, **_: said.append(text))
    store = Store(tmp_path / "nowhere")
    follower = Follower("serving", "serving", store, "x", tmp_path / "b", tmp_path / "c")
    service = Service(Limits())
    asyncio.run(follower.look(service))
    asyncio.run(follower.look(service))
    assert len(said) == 1
    assert f"experiment 'x' names no version in {tmp_path / 'nowhere'}, so there is" in said[0]


def test_a_server_that_ends_ends_the_export_that_it_waits_for(store, tmp_path, monkeypatch):
    """It went on by itself, to make a bundle for nobody."""
    python, begun = tmp_path / "python", tmp_path / "begun"
    python.write_text(f"#!/bin/sh\necho $$ > {begun}.part && mv {begun}.part {begun}\nexec cat\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    follower = Follower("serving", "serving", store, "production", tmp_path / "b", tmp_path / "c")
    with running(Service(Limits()), follower):
        until(begun.exists)
    until(lambda: not Path(f"/proc/{begun.read_text().strip()}").exists())


def test_another_stores_version_of_one_name_is_not_taken_for_this_ones(tmp_path):
    """It was served: both stores' bundles lie in one folder unless --bundles says otherwise."""
    one, other = (Store(tmp_path / name) for name in ("one", "other"))
    made = [publish(store, DATE, text) for store, text in ((one, "a"), (other, "b"))]
    moved = Store(shutil.copytree(tmp_path / "one", tmp_path / "moved"))
    names = [bundle_name(manifest, "float32") for manifest in made]
    assert made[0].ref == made[1].ref
    assert names[0] != names[1]
    assert bundle_name(moved.manifest(made[0].ref), "float32") == names[0]


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        (f"print('a line', file=sys.stderr); sys.exit('ecdctr: Denied at /{'x/' * 300}y.')", "y."),
        ("os.kill(os.getpid(), 9)", "it was ended by SIGKILL; look at the machine's memory."),
        ("sys.exit(3)", "it ended with exit code 3."),
    ],
)
def test_why_a_version_cannot_be_exported_is_told_whole(
    store, tmp_path, monkeypatch, ending, words
):
    """Of a sentence with a long path its beginning was cut off, and the file's name with it."""
    python = tmp_path / "python"
    python.write_text(f"#!{sys.executable}\nimport os, sys\n{ending}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    follower = Follower("serving", "serving", store, "production", tmp_path / "b", tmp_path / "c")
    with pytest.raises(EcdctrError) as told:
        asyncio.run(follower.look(Service(Limits())))
    said = rf"production/\S+ cannot be exported: (Denied at /[x/]{{600}})?{words}"
    assert re.fullmatch(said, str(told.value))


@pytest.mark.parametrize("pause", [0.0, 3600.0])
def test_a_file_that_a_server_may_not_read_is_named_and_not_at_each_look(
    store, tmp_path, monkeypatch, pause
):
    def denied(*_: object) -> None:
        looks.append(1)
        raise PermissionError(13, "Permission denied", "/a/b.json")

    async def three_looks() -> None:
        task = asyncio.create_task(follower(Service(Limits())))
        while len(looks) < 3:
            await asyncio.sleep(0)
        task.cancel()

    looks: list[int] = []
    told: list[str] = []
    monkeypatch.setattr(follow, "RETRY_SECONDS", pause)
    monkeypatch.setattr(follow, "log", lambda text, **_: told.append(text))
    monkeypatch.setattr(Store, "alias", denied)
    follower = Follower("serving", "serving", store, "x", tmp_path, tmp_path, seconds=0)
    asyncio.run(three_looks())
    assert "Permission denied at /a/b.json: give this user the right" in told[0]
    assert (len(told) > 1) == (pause == 0)


def test_a_version_that_cannot_be_used_is_tried_again_after_twice_as_long(
    store, tmp_path, monkeypatch
):
    clock = [0.0]
    tries: list[float] = []

    async def broken(_self: Follower, _ref: object, _folder: Path) -> None:
        tries.append(clock[0])
        raise EcdctrError("the self-test fails")

    monkeypatch.setattr(follow.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Follower, "_export", broken)
    follower = Follower("serving", "serving", store, "production", tmp_path / "b", tmp_path / "c")
    for minute in range(300):
        clock[0] = 60.0 * minute
        with contextlib.suppress(EcdctrError):
            asyncio.run(follower.look(Service(Limits())))
    assert [after / 60 for after in tries] == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]


def test_a_sentence_of_another_command_is_not_put_into_one_of_ours():
    said = "a/b cannot be exported: No space left on device at /c: free some space."
    assert machine_trouble(EcdctrError(said)) is None


@pytest.mark.parametrize("name", [None, "elsewhere"])
def test_a_file_of_a_bundle_that_may_not_be_read_is_named_and_not_called_damaged(
    shipped, monkeypatch, name
):
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(Path, "read_bytes", denied)
    with pytest.raises(PermissionError) as told:
        Scorer(shipped)
    assert told.value.filename == (name or str(shipped / "bundle.json"))


def test_the_service_needs_neither_torch_nor_airflow():
    code = """
import sys
for name in ("torch", "airflow", "pyarrow", "duckdb"):
    sys.modules[name] = None
import ecdctr.serving.service, ecdctr.serving.follow, ecdctr.cli
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_server_started_by_the_command_line_answers_what_it_has_when_it_is_ended(
    scorers, requests, number
):
    """A terminal that was closed ended it at once, and the client had no answer."""
    bundle = next(Path(scorer.folder) for scorer in scorers)
    command = [sys.executable, "-m", "ecdctr.cli", "serve", "--bundle", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            port = next(
                int(line.rsplit(":", 1)[1]) for line in process.stderr if "listening on" in line
            )
            assert call(port, "POST", "/score", requests[0])[0] == 200
            sent = post(json.dumps(requests[0]).encode())
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(sent[:-1])
                assert call(port, "GET", "/health")[0] == 200  # by now the rest has been read
                process.send_signal(number)
                client.sendall(sent[-1:])
                assert client.recv(65536).startswith(b"HTTP/1.1 200")
        finally:
            process.terminate()


def test_a_client_that_goes_away_in_the_middle_leaves_the_next_one_served(
    scorers, requests, caplog
):
    service = Service(Limits())
    service.swap("serving", scorers[0])
    with running(service) as port:
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
        assert call(port, "POST", "/score", requests[0])[0] == 200
    assert [record for record in caplog.records if record.exc_info] == []


def exchange(port: int, sent: bytes, half_closed: bool = False) -> bytes:
    """Return all that a server answers to bytes, after which the client may end its side."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(sent)
        if half_closed:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


def post(body: bytes, length: int | None = None) -> bytes:
    """Return a request, which may say another length than its own."""
    said = len(body) if length is None else length
    return f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {said}\r\n\r\n".encode() + body


@pytest.mark.parametrize("empty", [b"\r\n", b"\n", b"\r\n\r\n"])
def test_empty_lines_before_a_request_are_passed_over(empty):
    """Old clients send one after a body; what they asked next was answered by 400."""
    last = b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    with running(Service(Limits())) as port:
        told = exchange(port, empty + post(b"{nonsense") + empty + post(b"{no") + empty + last)
    assert told.count(b"The request is no JSON") == 2
    assert told.endswith(b'{"ready":false}')


def test_headers_of_up_to_64_kb_may_come_in_pieces():
    piece = b"".join(b"X-%d: %b\r\n" % (n, b"a" * 1000) for n in range(20))
    with (
        running(Service(Limits())) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as client,
    ):
        client.sendall(b"GET /ready HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + piece)
        for _ in range(2):
            assert call(port, "GET", "/health")[0] == 200  # by now the piece has been read
            client.sendall(piece)
        client.sendall(b"\r\n")
        told = b"".join(iter(lambda: client.recv(65536), b""))
    assert told.endswith(b'{"ready":false}')


def test_a_client_that_sends_empty_lines_alone_is_let_go(monkeypatch):
    monkeypatch.setattr(connection, "COMES_WITHIN", 0.1)
    with running(Service(Limits())) as port:
        assert exchange(port, b"\r\n") == b""


def test_after_a_request_with_two_lengths_nothing_more_is_taken_for_one():
    chunks = b"9\r\n{nonsense\r\n0\r\n\r\n"
    both = b"Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    with running(Service(Limits())) as port:
        told = exchange(port, b"POST /score HTTP/1.1\r\n" + both + chunks + post(b"{}"))
    assert told.count(b"HTTP/1.1 ") == told.count(b"HTTP/1.1 400") == 1
    assert b"line 1 column 2" in told


def test_a_client_that_ends_its_side_is_answered_where_its_request_is_whole(scorers, requests):
    service = Service(Limits())
    service.swap("serving", scorers[0])
    whole = post(json.dumps(requests[0]).encode())
    with running(service) as port:
        assert exchange(port, whole, half_closed=True).startswith(b"HTTP/1.1 200")
        assert exchange(port, 3 * whole, half_closed=True).count(b"HTTP/1.1 200") == 3
        assert exchange(port, whole + whole[:-1], half_closed=True).count(b"HTTP/1.1 200") == 1
        assert exchange(port, whole + whole[:20], half_closed=True).count(b"HTTP/1.1 200") == 1
        assert exchange(port, whole[:-1], half_closed=True) == b""
        assert exchange(port, b"", half_closed=True) == b""


def test_a_length_beyond_the_limit_is_answered_before_any_of_it_comes():
    with running(Service(Limits(bytes=4096))) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            client.sendall(post(b"", 10**19))
            assert client.recv(65536).startswith(b"HTTP/1.1 413")
        assert call(port, "GET", "/health")[0] == 200


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\n", b"413"),
        (b"POST /score HTTP/1.0\r\n", b"413"),  # as nginx asks behind it
        (b"POST /score HTTP/1.0\r\nContent-Encoding: gzip\r\n", b"415"),
        (b"no HTTP\r\n", b"400"),
    ],
)
def test_who_hears_the_answer_after_a_long_body_alone_is_not_reset(head, status):
    """As most clients: the connection is closed by the server, but not while bytes come."""
    long = b" " * 8_000_000
    with running(Service(Limits(bytes=4096))) as port:
        answer = exchange(port, head + b"Content-Length: %d\r\n\r\n" % len(long) + long)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert answer.endswith(b"}")


def test_a_body_without_an_end_is_not_read_for_ever(monkeypatch):
    monkeypatch.setattr(connection, "COMES_WITHIN", 0.1)
    head = b"POST /score HTTP/1.0\r\nContent-Length: 9000000\r\n\r\n"
    with (
        running(Service(Limits(bytes=4096))) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as client,
    ):
        client.sendall(head)
        assert b"".join(iter(lambda: client.recv(65536), b"")).startswith(b"HTTP/1.1 413")
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            until(lambda: client.sendall(b" " * 65536), "it is read for ever")


def test_a_request_that_never_ends_is_told_that_the_server_does(monkeypatch, caplog):
    monkeypatch.setattr(routes, "ENDS_WITHIN", 0.05)
    service = Service(Limits())
    with socket.socket() as client:
        with running(service) as port:
            client.connect(("127.0.0.1", port))
            client.sendall(post(b"{", 100))
            assert call(port, "GET", "/health")[0] == 200  # by now the other one has begun
        client.settimeout(30)
        assert client.recv(65536).startswith(b"HTTP/1.1 503")
    assert [record for record in caplog.records if record.exc_info] == []
