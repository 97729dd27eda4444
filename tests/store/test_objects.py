"""The store on object storage.

What conditional writes promise, when servers lag, lie, lose or are killed.
"""

from __future__ import annotations

import datetime as dt
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import obstore
import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from ecdctr.cli import app
from ecdctr.config import Data, validated
from ecdctr.errors import ConfigError, ContractError, StoreError, TryAgain
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.evaluation.gate import gate
from ecdctr.examples.prepare import prepare
from ecdctr.files.aws import with_variable
from ecdctr.files.cache import Cache
from ecdctr.impressions.impressions import open_impressions
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store import bucket, lease
from ecdctr.store.objects import ObjectStorage
from ecdctr.store.retention import remove
from ecdctr.store.storage import absolute, open_storage
from ecdctr.store.store import Store
from tests.conftest import DATE
from tests.make import DAY, changed, publish, write_config
from tests.store.s3 import S3Server, upload

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(["tests.store.test_objects"])


@pytest.fixture
def url(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    return s3.new_url()


def fresh(url: str) -> Store:
    """As another process sees it."""
    open_storage.cache_clear()
    return Store(url)


def test_versions_are_found_although_listings_show_nothing(url, s3):
    s3.lists = False
    try:
        refs = [publish(Store(url), DAY + dt.timedelta(days=n), f"f{n}").ref for n in range(3)]
        Store(url).set_alias("serving", refs[0], "test")
        other = fresh(url)
        assert other.versions("production", "cpm") == refs
        assert other.require("cpm", DAY + dt.timedelta(days=1)) == refs[1]
        assert other.experiments() == ["production"]
        assert other.alias("serving", level="cpm") == refs[0]
        assert other.verify() == []
    finally:
        s3.lists = True


def test_who_may_only_read_reads_without_a_lease_and_is_told_so(url, s3, caplog):
    ref = publish(Store(url), DAY, "a").ref
    s3.allows_writes = False
    try:
        store = fresh(url)
        with store.in_use(reads_only=True):
            assert store.path(ref).is_dir()
            assert store.verify() == []
        assert "is read without a lease" in caplog.text
        with pytest.raises(StoreError, match="cannot be written"), store.in_use():
            pass
    finally:
        s3.allows_writes = True


def test_a_resolve_reads_the_index_once_however_much_was_removed(url, monkeypatch):
    store = Store(url)
    refs = [publish(store, DAY + dt.timedelta(days=n), f"f{n}").ref for n in range(3)]
    remove(store, 1, 0, "test")
    read, get = [], bucket.Bucket.get
    monkeypatch.setattr(bucket.Bucket, "get", lambda self, key: read.append(key) or get(self, key))
    assert fresh(url).resolve("cpm", DAY + dt.timedelta(days=9)) == refs[-1]
    assert read == ["production/cpm/index.json"]


def test_asking_whether_it_can_be_written_leaves_nothing_behind(url, tmp_path):
    storage = open_storage(url)
    storage.check()
    assert isinstance(storage, ObjectStorage)
    assert [one for page in obstore.list(storage.bucket.objects) for one in page] == []
    open_storage(tmp_path / "store").check()
    assert not (tmp_path / "store").exists()
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_an_endpoint_that_ignores_conditions_is_refused_and_nothing_is_published(url, s3):
    s3.conditional = False
    try:
        with pytest.raises(StoreError, match=r"ignores conditional writes \(If-None-Match\)"):
            publish(Store(url), DAY, "f")
        assert s3.objects(url) == {}
    finally:
        s3.conditional = True


def test_writers_at_once_never_mix_and_the_same_training_is_published_once(url):
    store = Store(url)
    store.create_experiment("x")
    with ThreadPoolExecutor(8) as pool:
        different = list(pool.map(lambda n: publish(Store(url), DAY, f"f{n}"), range(8)))
        same = list(pool.map(lambda _: publish(Store(url), DAY, "same", "x"), range(8)))
    assert sorted(made.version for made in different) == [f"v{n:04d}" for n in range(1, 9)]
    assert {made.version for made in same} == {store.versions("x", "cpm")[0].version}
    assert len(store.versions("x", "cpm")) == 1
    assert fresh(url).verify() == []


def publish_until_killed(url: str, count: int, environment: dict[str, str]) -> None:
    """Die before the count-th object is written or removed."""
    os.environ.update(environment)  # the server of forks is older than this test's
    left, put, delete = [count], obstore.put, obstore.delete

    def counted(function):
        def wrapped(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return wrapped

    obstore.put, obstore.delete = counted(put), counted(delete)
    publish(Store(url), DAY, "f")


def test_killed_before_any_request_shows_a_whole_version_or_none_and_the_next_run_makes_one(
    s3, tmp_path, monkeypatch
):
    monkeypatch.setenv("ECDCTR_CACHE", str(tmp_path / "cache"))
    count, died = 0, True
    while died:
        count += 1
        url = s3.new_url()
        child = FORKED.Process(target=publish_until_killed, args=(url, count, dict(os.environ)))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        died = child.exitcode != 0
        assert Store(url).verify() == []
        made = publish(Store(url), DAY, "f")
        assert Store(url).versions("production", "cpm") == [made.ref]
        assert (Store(url).path(made.ref) / "b").read_text() == "ff"
    assert count > 8, "the kills did not reach the index"


def test_a_damaged_object_is_named_and_a_damaged_copy_is_made_again(url, s3):
    ref = publish(Store(url), DAY, "f").ref
    copy = Store(url).path(ref) / "a"
    copy.write_text("g")
    assert (fresh(url).path(ref) / "a").read_text() == "f"
    s3.damage(url, f"{ref}/a")
    copy.write_text("g")
    with pytest.raises(StoreError, match=f"{ref}/a differs from its digest"):
        fresh(url).path(ref)
    assert len(fresh(url).verify()) == 1
    with pytest.raises(StoreError, match="train cpm"):
        fresh(url).check(ref)


def test_an_evaluation_that_is_replaced_while_it_is_read_is_read_anew(url, monkeypatch, tmp_path):
    """Twice: after its list of files was read, and after a file of the next one was."""
    ref, storage = publish(Store(url), DAY, "f").ref, ObjectStorage(url)
    writer, download, said = fresh(url), storage.bucket.download, ["first", "second", "third"]

    def write() -> None:
        folder = tmp_path / said[0]
        folder.mkdir()
        (folder / "evaluation.json").write_text(said.pop(0))
        writer.save_evaluation(folder, ref, DAY)

    def read(key: str, path: Path) -> None:
        if said:
            write()
        download(key, path)

    write()
    monkeypatch.setattr(storage.bucket, "download", read)
    group, name = "production/evaluations/cpm", f"{DAY}/{ref.date}.{ref.version}"
    assert (storage.folder(group, name) / "evaluation.json").read_text() == "third"


def test_the_cache_stays_within_its_bound_and_keeps_what_is_in_use(tmp_path):
    def fill(folder: Path) -> None:
        (folder / "file").write_bytes(bytes(100))

    other = Cache(tmp_path, 250)
    kept = other.folder("kept", fill, lambda _: True)
    for number in range(6):
        of_process = Cache(tmp_path, 250)  # as a process of its own that ends
        of_process.folder(f"a/{number}", fill, lambda _: True)
        for held in of_process._held.values():
            held.close()
        sizes = [path.stat().st_size for path in tmp_path.rglob("file")]
        assert sum(sizes) <= 300, "the newest is kept although it is one too many"
    assert (kept / "file").exists()
    assert (tmp_path / "folders" / "a" / "5").exists()


@pytest.mark.parametrize("text", ["much", "nan", "-1"])
def test_a_bound_that_is_no_number_is_refused(url, monkeypatch, text):
    monkeypatch.setenv("ECDCTR_CACHE_GB", text)
    with pytest.raises(Exception, match=f"ECDCTR_CACHE_GB is '{text}'; expected a number"):
        fresh(url)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "AWS_ENDPOINT_URL is 'localhost:9000', expected a"),
        ("AWS_ENDPOINT", "minio", "AWS_ENDPOINT is 'minio', expected a URL such as https://s3"),
        ("AWS_ENDPOINT_URL", "", "AWS_ENDPOINT_URL is '', expected a URL .* or unset it"),
        ("AWS_ENDPOINT_URL", "http://h:99999", "AWS_ENDPOINT_URL is 'http://h:99999', expected"),
        ("AWS_ENDPOINT_URL", "http://[::1", "AWS_ENDPOINT_URL is .*, expected a URL"),
        ("AWS_ENDPOINT_URL", "ftp://host", "AWS_ENDPOINT_URL is 'ftp://host', expected a URL"),
        (
            "AWS_ENDPOINT_URL",
            "http://u:SEC@h:9",
            "AWS_ENDPOINT_URL is 'http://…@h:9', which holds a",
        ),
        ("AWS_ALLOW_HTTP", "maybe", "AWS_ALLOW_HTTP is 'maybe', expected true or false"),
        ("AWS_ALLOW_HTTP", "", "AWS_ALLOW_HTTP is '', expected true or false"),
        ("AWS_ALLOW_HTTP", "no", "AWS_ENDPOINT.* not encrypted; set AWS_ALLOW_HTTP=true if"),
        ("AWS_SKIP_SIGNATURE", "T", "AWS_SKIP_SIGNATURE is 'T', expected true or false"),
        ("AWS_REGION", "us east", "AWS_REGION is 'us east', expected a name such as us-east-1"),
        ("AWS_SECRET_ACCESS_KEY", "SECRET\n", "AWS_SECRET_ACCESS_KEY holds a space, the end of"),
        ("AWS_SESSION_TOKEN", "SEC RET", "AWS_SESSION_TOKEN holds a space, the end of a line"),
    ],
)
def test_what_the_environment_says_of_s3_is_looked_at_first(s3, monkeypatch, name, text, words):
    """The client would end the process, with a trace of its own."""
    monkeypatch.setenv(name, text)
    with pytest.raises(StoreError, match=f"s3://a-bucket/x cannot be used: {words}") as told:
        Store("s3://a-bucket/x").versions("production", "tpm")
    with pytest.raises(ContractError, match=f"s3://b-bucket/x cannot be read: {words}"):
        open_impressions("s3://b-bucket/x").dates("ads")
    assert "SEC" not in str(told.value).replace("AWS_SECRET", "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("AWS_TIMEOUT", "x"),
        ("AWS_CHECKSUM_ALGORITHM", "md4"),
        ("AWS_SERVER_SIDE_ENCRYPTION", "rot13"),
    ],
)
def test_a_variable_that_the_client_cannot_read_is_named(s3, monkeypatch, name, text):
    monkeypatch.setenv(name, text)
    with pytest.raises(StoreError, match=rf"{text}.* \(in {name}\); set it anew, or unset it\.$"):
        Store("s3://a-bucket/x").versions("production", "tpm")


def test_an_endpoint_that_does_not_answer_is_told_with_what_to_look_at():
    said = "Generic S3 error: HTTP error: error sending request"
    look = "; look whether the endpoint's address is right and answers from here"
    assert with_variable(said, {"PATH": "/bin", "HTTPS_PROXY": ""}).endswith(look)
    proxies = {"HTTPS_PROXY": "http://a:1", "all_proxy": "socks5://b:2"}
    assert with_variable(said, proxies).endswith(f"{look} (HTTPS_PROXY and all_proxy set)")
    assert "(as AWS_S3_EXPRESS asks for); unset" in with_variable("Invalid Zone suffix for bucket")
    assert with_variable("Generic S3 error: denied") == "Generic S3 error: denied"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            "Generic S3 error: PUT http://169.254.169.254/latest/api/token",
            "AWS_ACCESS_KEY_ID and A",
        ),
        ("Generic GCS error: GET http://metadata.google.internal/", "GOOGLE_SERVICE_ACCOUNT or G"),
        ("Generic MicrosoftAzure error: GET http://169.254.169.254/", "AZURE_STORAGE_ACCOUNT_NAME"),
    ],
)
def test_credentials_that_are_nowhere_are_named(said, words):
    """The client asks the machine for some, which a person who forgot to set them never meant."""
    assert with_variable(said).startswith(f"{said}; the environment holds no credentials")
    assert f"; set {words}" in with_variable(said)


def test_removal_frees_the_bucket_and_gives_no_number_again(url, s3):
    store = Store(url)
    old = publish(store, DAY, "old").ref
    new = publish(store, DAY + dt.timedelta(days=1), "new").ref
    obstore.put(
        ObjectStorage(url).bucket.objects, f"production/cpm/{DAY}/v0009/manifest.json", b"{}"
    )  # and then died
    with (
        store.in_use(),
        pytest.raises(StoreError, match=r"Cannot remove versions .* uses it since"),
    ):
        remove(store, 1, 0, "test")
    assert remove(store, 1, 0, "test")[1] > 0
    assert store.versions("production", "cpm") == [new]
    assert not [key for key in s3.objects(url) if key.startswith(f"{old}/")]
    assert publish(store, DAY, "again").version == "v0002"
    assert (
        store.storage.clean(0) == 2
    )  # the manifest of v0009, and nothing of a version that is there
    assert fresh(url).verify() == []


class Lossy:
    """Requests whose answer gets lost.

    What was asked for is done, and whoever asked tries again and hears otherwise.
    """

    def __init__(self) -> None:
        self.put, self.lost = obstore.put, 0

    def __call__(self, bucket, key, *arguments, **named):
        answer = self.put(bucket, key, *arguments, **named)
        if named.get("mode") and not key.startswith(".probe"):
            self.lost += 1
            self.put(
                bucket, key, *arguments, **named
            )  # the client's own retry, refused by its condition
        return answer


def test_lost_answers_write_no_record_twice_and_lose_no_folder(url, monkeypatch):
    Store(url).storage.check()
    lossy = Lossy()
    monkeypatch.setattr(obstore, "put", lossy)
    store = Store(url)
    refs = [publish(store, DAY + dt.timedelta(days=n), f"f{n}").ref for n in range(2)]
    for ref in refs:
        store.set_alias("serving", ref, "promoted")
    assert [record.ref for record in store.alias_history("serving", level="cpm")] == refs
    assert store.rollback(level="cpm").ref == refs[0]
    for text in ("first", "second"):
        with store.staging() as folder:
            (folder / "study.json").write_text(text)
            store.save_study(folder, "study")
    assert (fresh(url).study("study") / "study.json").read_text() == "second"
    remove(store, 1, 0, "test")
    assert fresh(url).verify() == []
    assert lossy.lost > 10


def test_swaps_against_others_who_are_always_faster_end(url, monkeypatch):
    store = Store(url)
    ref = publish(store, DAY, "f").ref
    monkeypatch.setattr(bucket, "wait", lambda _: None)
    monkeypatch.setattr(bucket.Bucket, "put", lambda *_: False)
    with pytest.raises(TryAgain, match=f"others were faster {bucket.TRIES} times"):
        store.storage.append("production/log", str(ref).encode())


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.time = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)

    def __call__(self) -> dt.datetime:
        return self.time

    def pass_minutes(self, minutes: float) -> None:
        self.time += dt.timedelta(minutes=minutes)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Machines that share a clock; the thread that renews is asleep all the time."""
    clock = Clock()
    monkeypatch.setattr(lease, "RENEWAL", dt.timedelta(days=1))
    return clock


def machine(url: str, clock: Clock) -> Store:
    store = fresh(url)
    store.storage.leases.now = clock
    return store


def test_a_training_of_days_keeps_its_lease_as_long_as_it_is_renewed(url, clock):
    trains, removes = machine(url, clock), machine(url, clock)
    with trains.in_use():
        for _ in range(25 * 60 // 4):  # 25 hours
            clock.pass_minutes(4)
            trains.storage.leases.renew()
        with pytest.raises(StoreError, match="Cannot remove versions"):
            remove(removes, 1, 0, "test")
        assert publish(trains, DAY, "f")
    remove(removes, 1, 0, "test")


def test_a_lease_ends_minutes_after_its_last_renewal_and_who_lost_it_publishes_nothing(url, clock):
    dead, removes = machine(url, clock), machine(url, clock)
    with dead.in_use():
        clock.pass_minutes(4.9)
        with pytest.raises(StoreError, match="Cannot remove versions"):
            remove(removes, 1, 0, "test")
        clock.pass_minutes(0.2)
        remove(removes, 1, 0, "test")
        for write in (
            lambda: publish(dead, DAY, "f"),
            lambda: dead.storage.append("production/log", b"x"),
        ):
            with pytest.raises(TryAgain, match="did not renew its lease for 5 minutes"):
                write()
    assert removes.versions("production", "cpm") == []
    assert publish(dead, DAY, "f").ref == removes.versions("production", "cpm")[0]


def test_a_lease_that_a_clock_ahead_took_for_dead_is_noticed_before_the_next_write(url, clock):
    slow, ahead = machine(url, Clock()), machine(url, clock)
    clock.pass_minutes(10)
    with slow.in_use():
        remove(ahead, 1, 0, "test")
        with pytest.raises(TryAgain, match="did not renew its lease"):
            slow.storage.append("production/log", b"x")
    assert ahead.storage.records("production/log") == []


def test_a_lease_that_ended_but_that_nobody_missed_goes_on(url, clock):
    slow = machine(url, clock)
    with slow.in_use():
        clock.pass_minutes(60)
        assert publish(slow, DAY, "f")


def test_the_thread_of_the_process_renews_while_something_is_held(url, monkeypatch):
    monkeypatch.setattr(lease, "RENEWAL", dt.timedelta(0))
    store, renewed = fresh(url), threading.Event()
    renew = store.storage.leases.renew

    def seen() -> None:
        renew()
        renewed.set()

    monkeypatch.setattr(store.storage.leases, "renew", seen)
    with store.in_use(), store.in_use():
        assert renewed.wait(60)
    assert json.loads(store.storage.read(".locks/in-use.json"))["users"] == {}


def test_removal_holds_a_lease_that_ends_too(url, clock, caplog):
    dead, other = machine(url, clock), machine(url, clock)
    removal = dead.exclusively("remove versions")
    removal.__enter__()
    waited = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.pass_minutes(1)

    other.storage.leases.sleep = sleep
    with caplog.at_level("WARNING"), other.in_use():
        assert 4 <= len(waited) <= 6
    (line,) = [record.getMessage() for record in caplog.records]
    assert f"{url}: waiting; {socket.gethostname()} uses it since 2026-01-01" in line
    assert "clock" not in line


@pytest.mark.parametrize("left", ["users", "remover"])
def test_a_lease_that_a_clock_ahead_left_is_told_with_what_ends_it(url, clock, left):
    """Else who died with its clock a year ahead would hold the store for a year."""
    ahead = Clock()
    ahead.pass_minutes(365 * 24 * 60)
    died = machine(url, ahead)
    held = died.in_use() if left == "users" else died.exclusively("remove versions")
    held.__enter__()
    words = rf"after 2027-.* clock of .* is wrong\. Set it, and remove {url}/\.locks/in-use\.json"
    with pytest.raises(StoreError, match=words):
        remove(machine(url, clock), 1, 0, "test")
    died.storage.discard(".locks/in-use.json")
    assert remove(machine(url, clock), 1, 0, "test") == ([], 0)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3://no-such-bucket/x", "no such bucket"),
        ("sftp://host/x", "has no conditional writes"),
        ("memory://x", "has no conditional writes"),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_sentence(s3, root, words):
    with pytest.raises(StoreError, match=words) as caught:
        Store(root).versions("production", "tpm")
    assert "\n" not in str(caught.value)


def test_a_place_that_can_hold_no_store_is_told_when_the_command_line_is_read():
    for url in ("hdfs://host/x", "dir://x", "zip://a.zip", "nonsense://x"):
        done = CliRunner().invoke(app, ["--store", url, "schema"])
        assert "use a folder, or a URL of s3://, gs:// or az://" in str(done.exception)


def test_the_places_of_other_libraries_that_fsspec_knows_are_taken():
    assert Data(root="oss://bucket/x").root == "oss://bucket/x"


def test_a_bucket_that_is_not_there_cannot_be_written_in_one_sentence(s3):
    with pytest.raises(StoreError, match=r"cannot be written: there is no such bucket; create it"):
        Store("s3://no-such-bucket/x").storage.check()


def test_the_words_of_fsspec_for_a_place_mean_that_place(tmp_path):
    for text, url in (
        ("gcs://bucket/x", "gs://bucket/x"),
        ("s3a://bucket/x", "s3://bucket/x"),
        ("S3://Bucket/X", "s3://Bucket/X"),
    ):
        assert absolute(text) == Data(root=text).root == url
    assert Data(root=f"FILE://{tmp_path}").root == f"file://{tmp_path}"
    assert (
        absolute(f"FILE://{tmp_path}")
        == absolute(f"file://{tmp_path}")
        == absolute(f"local://{tmp_path}")
        == tmp_path
    )


def test_the_three_levels_make_the_same_versions_on_object_storage_as_in_a_folder(
    url, config, world, trained, tmp_path
):
    following = DATE + dt.timedelta(days=1)
    ours, theirs = Store(url), Store(shutil.copytree(trained, tmp_path / "folder"))
    easy = changed(config, "evaluation", gate_calibration=(0.0, 100.0))
    for days in (7, 0):
        train_tpm(Request(easy, ours, DATE - dt.timedelta(days=days)))
    train_cpm(Request(easy, ours, DATE))
    ref = train_actr(Request(easy, ours, DATE)).manifest.ref
    for store in (ours, theirs):
        evaluate(easy, store, ref, following)
        assert gate(easy, store, ref, following).passed
    assert ours.alias("serving") == theirs.alias("serving") == ref
    first, second = ours.manifest(ref), theirs.manifest(ref)
    assert first.fingerprint == second.fingerprint
    weights = ("embeddings.safetensors", "dense.safetensors", "merged.safetensors")
    assert [first.files[name].sha256 for name in weights] == [
        second.files[name].sha256 for name in weights
    ]
    mine, other = (store.load_evaluation(ref, following) for store in (ours, theirs))
    assert mine["metrics"] == other["metrics"]
    written = write_config(tmp_path / "config.yaml", world)
    command = [
        sys.executable,
        "-m",
        "ecdctr.cli",
        "--config",
        str(written),
        "--store",
        url,
        "export",
    ]
    subprocess.run([*command, "--out", str(tmp_path / "bundle")], check=True)


def test_impressions_at_a_url_give_the_examples_of_the_same_files_in_a_folder(
    config, world, url, s3, tmp_path
):
    upload(s3, world, url)
    there = changed(config, "data", root=url, prepared=tmp_path / "there")
    here = changed(config, "data", prepared=tmp_path / "here")
    dates = [DATE - dt.timedelta(days=1), DATE]
    assert open_impressions(url).dates("ads") == open_impressions(world).dates("ads")
    assert open_impressions(url).has("ads", DATE)
    assert not open_impressions(url).has("ads", DATE + dt.timedelta(days=365))
    first, second = prepare(there, "ads", dates), prepare(here, "ads", dates)
    assert [day.fingerprint for day in first] == [day.fingerprint for day in second]
    assert [day.path.read_bytes() for day in first] == [day.path.read_bytes() for day in second]


def test_a_day_that_is_delivered_anew_is_copied_anew_and_a_digest_outlives_its_copy(
    world, url, s3, tmp_path
):
    upload(s3, world / "domain=ads" / f"date={DATE}", f"{url}/domain=ads/date={DATE}")
    before = open_impressions(url).digest("ads", DATE)
    assert before == open_impressions(world).digest("ads", DATE)
    (copy,) = open_impressions(url).files("ads", DATE)
    shutil.rmtree(copy.parent)
    assert open_impressions(url).digest("ads", DATE) == before
    other = world / "domain=ads" / f"date={DATE + dt.timedelta(days=1)}"
    upload(s3, other, f"{url}/domain=ads/date={DATE}")
    assert open_impressions(url).digest("ads", DATE) != before


def test_a_data_root_that_cannot_be_read_is_one_sentence(config, s3, url):
    with pytest.raises(ContractError, match=r"data\.root nonsense://x cannot be read"):
        open_impressions("nonsense://x").dates("ads")
    with pytest.raises(ContractError, match=r"days are missing|no day"):
        prepare(changed(config, "data", root=url), "ads", [DATE])
    with pytest.raises(ValidationError, match="quarantine"):
        Data(root="s3://bucket/x", quarantine=True)


@pytest.mark.parametrize("root", ["file://localhost/s", "file://s", "local://s"])
def test_a_local_url_with_a_machine_is_not_taken_for_a_folder_of_that_name(root):
    with pytest.raises(StoreError, match=r"names a machine or a relative path; write .*:///folder"):
        absolute(root)


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("s3://me:SECRET@bucket/x", "s3://…@bucket/x holds a password"),
        ("https://me:SECRET@host/x", "holds a password"),
        ("s3://:SECRET@b/x", "holds a password"),
        ("az://c/x?sv=1&sig=SECRET", "az://c/x?… holds a query"),
        ("https://host/x?token=SECRET", "holds a query"),
        ("s3:///key", "names no bucket"),
        ("s3://b/../x", "has a part that is empty"),
        ("s3://b//x", "has a part that is empty"),
        ("s3://b/x/./y", "has a part"),
    ],
)
def test_a_url_that_is_no_place_is_refused_without_its_secret(root, words):
    with pytest.raises(StoreError, match=re.escape(words)) as of_store:
        absolute(root)
    with pytest.raises(ConfigError, match=re.escape(words)) as of_data:
        validated(Data, {"root": root}, "c.yaml")
    assert "SECRET" not in f"{of_store.value} {of_data.value}"


@pytest.mark.parametrize("root", ["https://host:99999/x", "https://[::1/x", "https://a b/x"])
def test_an_address_that_no_machine_has_is_one_sentence(root):
    with pytest.raises(StoreError, match=r"is no URL: .*; mend the address"):
        open_storage(root)


def test_letters_that_mean_something_in_urls_are_letters_of_a_store(url):
    """Cut at # or ?, or read as an escape, they would name another store."""
    for name in ("a#b", "a?b", "a%20b", "a b", "a"):
        publish(Store(f"{url}/{name}"), DAY, name)
    for name in ("a#b", "a?b", "a%20b", "a b", "a"):
        (ref,) = fresh(f"{url}/{name}").versions("production", "cpm")
        assert fresh(f"{url}/{name}").manifest(ref).fingerprint == name


@pytest.mark.parametrize("root", ["", " ", "s3:/bucket/x", "gs:/bucket"])
def test_a_place_that_is_neither_a_folder_nor_a_url_is_refused(root):
    with pytest.raises(StoreError, match="is neither a folder nor a URL"):
        absolute(root)


def test_an_alias_is_never_set_on_a_version_that_was_removed_since_it_was_seen(url):
    publish(Store(url), DAY, "f0")
    old = publish(Store(url), DAY - dt.timedelta(days=3), "f1").ref
    ours = fresh(url)
    assert ours.path(old).exists()
    gone, _ = remove(fresh(url), 1, 0, "test")
    assert [one.ref for one in gone] == [old]
    with pytest.raises(StoreError):
        ours.set_alias("serving", old, "test")
