"""The HTTP service on loopback.

Clients that ask as fast as they are answered, each over one connection. Clients run in a process of
their own on the same cores as the server, so a server alone on its machine does better.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from http import HTTPStatus
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, Row, json_of, report
from benchmarks.scoring import bundled, requests

SECONDS, CLIENTS = 10, (1, 4, 16)


def clients(port: int, bodies: list[bytes], count: int) -> list[float]:
    """Return seconds of each answer; raises if one is no 200."""
    seconds: list[float] = []
    deadline = time.perf_counter() + SECONDS

    def client(first: int) -> None:
        connection, i = http.client.HTTPConnection("127.0.0.1", port, timeout=30), first
        while time.perf_counter() < deadline:
            began = time.perf_counter()
            connection.request("POST", "/score", bodies[i % len(bodies)])
            answer = connection.getresponse()
            answer.read()
            assert answer.status == HTTPStatus.OK
            seconds.append(time.perf_counter() - began)
            i += 1

    threads = [threading.Thread(target=client, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seconds


def measured(port: int, path: Path, count: int) -> dict[str, Any]:
    """Return what `clients` finds in a process of its own."""
    return json_of(
        [sys.executable, "-m", "benchmarks.service", "clients", str(port), str(path), str(count)]
    )


def main() -> None:
    """Start the server, ask, stop it."""
    bundle, config, day = bundled()
    rows = []
    made = requests(config, day)
    command = [sys.executable, "-m", "ecdctr.cli", "serve", "--bundle", str(bundle), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            port = next(
                int(line.rsplit(":", 1)[1]) for line in server.stderr if "listening on" in line
            )
            for candidates in (20, 200):
                path = RESULTS / f"requests-{candidates}.json"
                path.write_text(
                    json.dumps(
                        [one | {"candidates": one["candidates"][:candidates]} for one in made]
                    )
                )
                for count in CLIENTS:
                    seen = measured(port, path, count)
                    p50, p99 = seen["p50"] * 1000, seen["p99"] * 1000
                    shown = (
                        f"{seen['per_second']:,.0f} requests/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
                    )
                    rows.append(
                        Row(f"{candidates} candidates", f"{count} clients", shown, "–", 1.0)
                    )
        finally:
            server.terminate()
    report("service", rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["clients"]:
        bodies = [json.dumps(one).encode() for one in json.loads(Path(sys.argv[3]).read_text())]
        seconds = clients(int(sys.argv[2]), bodies, int(sys.argv[4]))
        p50, p99 = np.quantile(seconds, [0.5, 0.99]).tolist()
        print(json.dumps({"per_second": len(seconds) / SECONDS, "p50": p50, "p99": p99}))
    else:
        main()
