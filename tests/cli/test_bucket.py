"""Every command of the command line with impressions and store in a bucket.

And what it asks the bucket for.
"""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import typer
import yaml
from typer.testing import CliRunner

from ecdctr.cli.base import app
from ecdctr.config import DOMAINS, Config
from ecdctr.errors import ContractError, EcdctrError
from ecdctr.examples.prepare import prepare
from ecdctr.impressions import remote
from ecdctr.impressions.days import window
from ecdctr.impressions.impressions import open_impressions
from ecdctr.impressions.local import LocalImpressions
from ecdctr.impressions.reading import one_reading
from ecdctr.store.store import Store
from tests.conftest import DATE, REPOSITORY
from tests.make import changed, made_before, publish, until, write_config
from tests.store.s3 import BUCKET, S3Server, upload

NEXT = DATE + dt.timedelta(days=1)
VERSION = f"production/actr/{DATE}/v0001"


def commands(group: Any, before: tuple[str, ...] = ()) -> Iterator[str]:
    for name, one in group.commands.items():
        if hasattr(one, "commands"):
            yield from commands(one, (*before, name))
        else:
            yield " ".join((*before, name))


class Bucket:
    """The command line in this process, with everything in a bucket.

    Remembers which commands were run.
    """

    def __init__(self, config: Path, store: str, asked: list[str]) -> None:
        self.asked = asked  # listings, by the server
        self.options = ["--config", str(config), "--store", store, "--json"]
        self.run: set[str] = set()

    def __call__(self, command: str, *arguments: str, refuses: str = "", codes: Any = (0,)) -> str:
        self.run.add(command)
        del self.asked[:]
        with one_reading():  # as ecdctr/cli/net.py does
            done = CliRunner().invoke(app, [*self.options, *command.split(), *arguments])
        for domain in DOMAINS:
            of_domain = [query for query in self.asked if f"domain%3D{domain}" in query]
            assert len(of_domain) <= 1, (command, of_domain)
        if refuses:
            assert isinstance(done.exception, EcdctrError), (command, done.output, done.exception)
            assert refuses in str(done.exception)
        else:
            assert done.exit_code in codes, (command, done.output, done.exception)
        return done.stdout


@pytest.fixture
def bucket(s3: S3Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    root = s3.new_url()
    upload(s3, world, root)
    config = write_config(tmp_path / "config.yaml", world)
    raw = yaml.safe_load(config.read_text())
    raw["data"] |= {"root": root, "prepared": str(tmp_path / "prepared")}
    raw["evaluation"] |= {"gate_min_users": 10, "gate_days": 1}
    raw["tuning"] = {"trials": 2, "space": {"actr.epochs": [1, 2]}}
    raw["cpm"]["window_days"] = 2
    config.write_text(yaml.safe_dump(raw))
    return Bucket(config, s3.new_url(), counted_lists(s3, monkeypatch))


def test_every_command_works_with_impressions_and_store_in_a_bucket(bucket, config, tmp_path):
    day, following = ("--date", str(DATE)), ("--date", str(NEXT))
    bucket("schema")
    bucket("doctor", codes=(0, 1))  # 1: what this machine lacks for Airflow
    bucket("validate", *day)
    bucket("prepare", *day)
    for level, date in (("tpm", DATE - dt.timedelta(days=1)), ("cpm", DATE), ("actr", DATE)):
        bucket("train", level, "--date", str(date))
    evaluated = json.loads(bucket("evaluate", *following))
    assert 0 < evaluated["metrics"]["all"]["gauc"] < 1
    assert json.loads(bucket("gate", "--version", VERSION, *following))["promoted"] is True
    bucket("report", "--out", str(tmp_path / "report.html"), "--experiments", "production")
    bucket("export", "--out", str(tmp_path / "bundle"))
    newer = tmp_path / "newer"
    bucket("export", "--against", str(tmp_path / "bundle"), "--out", str(newer))
    patch = ("--bundle", str(tmp_path / "bundle"), "--changes", str(newer))
    bucket("patch", *patch, "--out", str(tmp_path / "patched"))
    made = (tmp_path / "prepared" / "examples").glob(f"domain=ads/date={NEXT}/*.parquet")
    prepared = next(path for path in made if ".clicks." not in path.name)
    scores = tmp_path / "scores.parquet"
    bundle = ("--bundle", str(tmp_path / "bundle"))
    bucket("score", *bundle, "--examples", str(prepared), "--out", str(scores))
    assert pq.read_metadata(scores).num_rows == pq.read_metadata(prepared).num_rows
    served_by(bucket, tmp_path)

    bucket("train", "actr", *day, "--force")
    bucket("store promote", f"production/actr/{DATE}/v0002")
    assert json.loads(bucket("store rollback"))["serving"] == VERSION
    bucket("store list")
    bucket("store show", VERSION)
    bucket("store lineage", VERSION)
    bucket("store verify")
    bucket("store gc", "--keep", "1", "--delete")

    dates = [DATE + dt.timedelta(days=n) for n in range(3)]
    span = ["--from", str(dates[0]), "--to", str(dates[-1]), "--hold-out-every", "2"]
    for date in dates:
        held = ["--experiment", "forgetting.no_tpm.s1", "--date", str(date)]
        bucket("train", "cpm", *held, "--variant", "no_tpm")
        bucket("train", "actr", *held, "--variant", "no_tpm", "--hold-out-every", "2")
        bucket("matrix row", *held, *span)
    bucket("matrix report", *span, "--variants", "no_tpm")

    studied_in(bucket, config, tmp_path / "studies")

    bucket("simulate", "--world", "tiny", refuses="name a local folder with --out")
    out = ("--out", str(tmp_path / "out"))
    bucket("simulate", "--world", "tiny", "--set", "days=1", *out)
    for source in ("kuairand", "completejourney"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        bucket(f"import {source}", "--from", str(tmp_path / "empty"), *out, refuses=" ")
    mapping = REPOSITORY / "tests" / "impressions" / "none.yaml"
    bucket("import log", "--mapping", str(mapping), refuses=" ")
    assert bucket.run == set(commands(typer.main.get_command(app)))


def studied_in(bucket: Bucket, config: Config, work: Path) -> None:
    """Studies make worlds and stores of their own; the one of the tiny world is there."""
    studied = ["--world", "tiny", "--seeds", "1", "--workers", "1", "--work", str(work)]
    made_before(work / "tiny-1", config)
    bucket("ablation", *studied, "--rows", "ads_only", "--eval-days", "1")
    bucket("sparsity", *studied, "--bases", "full", "--rows", "ads_only", "--eval-days", "1")
    bucket("map", "--minutes", "0", "--work", str(work / "map"))
    bucket("tune", *studied, "--rows", "ads_only", "--eval-days", "1")
    bucket("forgetting", *studied, "--rows", "ads_only", "--days", "3")


def served_by(bucket: Bucket, tmp_path: Path) -> None:
    """`serve` follows the store in the bucket until it is told to end."""
    bucket.run.add("serve")
    command = [sys.executable, "-m", "ecdctr.cli", *bucket.options, "serve", "--port", "0"]
    command += ["--bundles", str(tmp_path / "bundles"), "--poll-seconds", "0.1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            port = next(
                int(line.rsplit(":", 1)[1]) for line in process.stderr if "listening on" in line
            )
            until(lambda: ready(port))
        finally:
            process.terminate()


def ready(port: int) -> bool:
    """Tell whether the server has a version to score with."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError:
        return False


def counted_lists(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the listings that the server is asked for, by their prefix."""
    asked: list[str] = []
    answer = s3.app

    def counting(environ: dict, start: object) -> object:
        query = environ.get("QUERY_STRING", "")
        if environ["REQUEST_METHOD"] == "GET" and "list-type" in query:
            asked.append(query)
        return answer(environ, start)

    monkeypatch.setattr(s3, "app", counting)
    return asked


def test_a_window_costs_one_listing_per_domain_prepared_or_not(
    s3: S3Server, world: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    root = s3.new_url()
    upload(s3, world, root)
    there = changed(config, "data", root=root, prepared=tmp_path / "prepared")
    dates = window(NEXT, 14)
    asked = counted_lists(s3, monkeypatch)
    prefix = root.removeprefix(f"s3://{BUCKET}/")
    first = prepare(there, "natural", dates)
    for again in (False, True):
        if again:
            del asked[:]
            assert prepare(there, "natural", dates) == first
        for domain in DOMAINS:
            assert len([query for query in asked if f"domain%3D{domain}" in query]) == 1, asked
        assert all(prefix in query for query in asked)


def test_a_file_that_is_replaced_before_it_is_copied_costs_one_listing_more(
    s3: S3Server, world: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    root, copied = s3.new_url(), remote.copied
    for domain in DOMAINS:
        part = f"domain={domain}/date={DATE}"
        upload(s3, world / part, f"{root}/{part}")
    other = world / "domain=ads" / f"date={NEXT}"

    def late(url: str, path: str, target: Path) -> Any:
        monkeypatch.setattr(remote, "copied", copied)
        day = path.split(f"{BUCKET}/", 1)[1].rpartition("/")[0]
        upload(s3, other, f"s3://{BUCKET}/{day}")
        return copied(url, path, target)

    monkeypatch.setattr(remote, "copied", late)
    there = changed(config, "data", root=root, prepared=tmp_path / "prepared", lookback_days=1)
    asked = counted_lists(s3, monkeypatch)
    with one_reading(), pytest.raises(ContractError, match="timestamp inside the partition"):
        prepare(there, "ads", [DATE])  # what was delivered is of another day, which is told
    for domain in DOMAINS:
        assert 1 <= len([query for query in asked if f"domain%3D{domain}" in query]) <= 2, asked


def test_a_command_sees_one_moment_and_the_next_one_what_was_delivered_since(
    s3: S3Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    root = s3.new_url()
    part = world / "domain=ads" / f"date={DATE}"
    upload(s3, part, f"{root}/domain=ads/date={DATE}")
    with one_reading():
        assert open_impressions(root).dates("ads") == [DATE]
        upload(s3, part, f"{root}/domain=ads/date={NEXT}")
        with one_reading():
            assert not open_impressions(root).has("ads", NEXT)
    assert open_impressions(root).has("ads", NEXT)


@pytest.mark.parametrize(
    "place",
    [
        "data/_delta_log",
        "data/domain=ads/.hoodie",
        "metadata",
        "data/metadata",
        "data/domain=ads/metadata",
    ],
)
def test_a_table_format_is_recognised_in_a_bucket(s3: S3Server, place: str):
    base = s3.new_url()
    root, prefix = f"{base}/data", base.removeprefix(f"s3://{BUCKET}/")
    s3.client.put_object(Bucket=BUCKET, Key=f"{prefix}/data/domain=ads/date={DATE}/a.parquet")
    assert open_impressions(root).table("ads", DATE) is None
    s3.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{place}/v1.metadata.json")
    with one_reading():
        assert open_impressions(root).table("ads", DATE)


ODD_NAMES = ["my store", "a+b", "50%", "%20", "\u00fcn\u00ef", "a=b&c", "[x]", "a#b?c*"]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_prefix_is_a_name_and_markers_beside_the_days_are_no_data(
    s3: S3Server, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    base = f"{s3.new_url()}/{name}"
    folder, prefix = f"domain=ads/date={DATE}", base.removeprefix(f"s3://{BUCKET}/")
    upload(s3, world / folder, f"{base}/{folder}")
    for marker in (
        "",
        "domain=ads/",
        f"{folder}/",
        f"{folder}/_SUCCESS",
        f"{folder}/_temporary/0/part-9.parquet",
    ):
        s3.client.put_object(Bucket=BUCKET, Key=f"{prefix}/{marker}", Body=b"")
    here = LocalImpressions(world)
    for root in (base, f"{base}/"):
        there = open_impressions(root)
        assert there.dates("ads") == [DATE]
        assert there.digest("ads", DATE) == here.digest("ads", DATE)
        assert there.other_folders("ads") == there.unread("ads", DATE) == []
    stores = [Store(root) for root in (f"{base}/store", f"{base}/store/")]
    ref = publish(stores[0], DATE, "f").ref
    assert [store.versions("production", "cpm") for store in stores] == [[ref], [ref]]
    assert [store.verify() for store in stores] == [[], []]
