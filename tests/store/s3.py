"""A real server of the S3 protocol on loopback (moto's), which can be told to be a bad one."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import boto3
from moto.server import create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "ecdctr"


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log_request(self, *_: object) -> None:
        """Nothing."""


class S3Server:
    """Credentials and endpoint are put into the environment, where obstore looks for them."""

    def __init__(self) -> None:
        self.conditional = True  # whether it honours If-None-Match and If-Match
        # Whether listings show anything: a listing that lags behind, at its worst
        self.lists = True
        self.allows_writes = True
        self.writing = threading.Lock()
        # the app of one service: moto's dispatcher looks through all its folders at each request
        self.app = create_backend_app("s3")
        self.server = make_server("127.0.0.1", 0, self.answer, threaded=True, request_handler=Quiet)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.endpoint = f"http://127.0.0.1:{self.server.port}"
        self.environment = {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        self.client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106  # of the double
            region_name="us-east-1",
        )
        self.client.create_bucket(Bucket=BUCKET)
        self.numbers = itertools.count()

    def answer(self, environ: dict, start: object) -> object:
        if not self.conditional:
            for header in ("HTTP_IF_NONE_MATCH", "HTTP_IF_MATCH"):
                environ.pop(header, None)
        if not self.allows_writes and environ["REQUEST_METHOD"] in ("PUT", "DELETE", "POST"):
            start("403 Forbidden", [("Content-Length", "0")])
            return []
        # moto looks and then writes: of two conditional writers at once both would be let in
        with self.writing if environ["REQUEST_METHOD"] == "PUT" else nullcontext():
            answer = self.app(environ, start)
        if not self.lists and "list-type" in environ.get("QUERY_STRING", ""):
            shown = b"".join(answer)
            empty = re.sub(
                rb"<Contents>.*?</Contents>|<CommonPrefixes>.*?</CommonPrefixes>",
                b"",
                shown,
                flags=re.S,
            )
            return [empty.ljust(len(shown))]  # the length was promised already
        return answer

    def new_url(self) -> str:
        """Return a prefix that nobody has used."""
        return f"s3://{BUCKET}/store-{next(self.numbers)}"

    def objects(self, url: str) -> dict[str, int]:
        """Return what lies under a URL: key and size."""
        prefix = url.removeprefix(f"s3://{BUCKET}/") + "/"
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {
            o["Key"].removeprefix(prefix): o["Size"]
            for page in pages
            for o in page.get("Contents", [])
        }

    def damage(self, url: str, key: str) -> None:
        """Flip a byte of an object."""
        path = f"{url.removeprefix(f's3://{BUCKET}/')}/{key}"
        body = self.client.get_object(Bucket=BUCKET, Key=path)["Body"].read()
        self.client.put_object(Bucket=BUCKET, Key=path, Body=bytes([body[0] ^ 1]) + body[1:])


def upload(s3: S3Server, world: Path, url: str) -> None:
    """Put the days of a world under a URL."""
    prefix = url.removeprefix(f"s3://{BUCKET}/")
    for path in world.rglob("*.parquet"):
        s3.client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(world)}")


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Yield a server for the block, with the environment that leads to it."""
    server = S3Server()
    before = dict(os.environ)
    os.environ.update(server.environment)
    try:
        yield server
    finally:
        os.environ.clear()
        os.environ.update(before)
        server.server.shutdown()
