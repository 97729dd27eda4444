"""Several processes train one model.

The same numbers as one process, no row lost or read twice, one version.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import distributed
from torch.testing import assert_close

from ecdctr import cli
from ecdctr.airflow.standalone import free_port
from ecdctr.config import load_config
from ecdctr.errors import TRY_AGAIN, ConfigError
from ecdctr.evaluation.evaluate import evaluate
from ecdctr.examples.chunks import Part, Shard, read_chunks
from ecdctr.examples.vocabulary import distinct
from ecdctr.impressions import contract
from ecdctr.levels.actr import train_actr
from ecdctr.levels.cpm import train_cpm
from ecdctr.levels.request import Outcome, Request
from ecdctr.levels.tpm import train_tpm
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.training import address, progress
from ecdctr.training.address import meeting
from ecdctr.training.progress import Progress
from ecdctr.training.workers import Workers, join
from tests.conftest import DATE, warmed
from tests.make import changed, forked, write_config

NEXT = DATE + dt.timedelta(days=1)
# all days that CPM and A-CTR train on know the TPM
DATES = {"tpm": DATE - dt.timedelta(days=7), "cpm": DATE, "actr": DATE}


@pytest.fixture
def run(warm: Path) -> Callable[..., Any]:
    """Return what runs a command and gives its result, or what it says if it fails."""

    def ran(config: Path, store: Path, *arguments: str, fails: bool = False) -> Any:
        done = forked(warm, "--config", config, "--store", store, "--json", *arguments)
        if fails:
            assert done.returncode == 1, done.stderr[-800:]
            return done.stderr
        assert done.returncode == 0, done.stderr[-1500:]
        return json.loads(done.stdout)

    return ran


@pytest.mark.parametrize("name", ["no-such-host.invalid", "", "a b", "x" * 300])
def test_a_name_of_no_host_is_refused_instead_of_waited_for(monkeypatch, name):
    for key, value in (place(1, 2) | {"MASTER_ADDR": name}).items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr(address, "WITHIN", 0)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ConfigError, match=f"MASTER_ADDR is '{name}', which is the name of no host"):
        address.await_address()
    monkeypatch.setenv("WORLD_SIZE", "1")  # nobody is met
    address.await_address()


def test_a_name_that_comes_later_is_waited_for(monkeypatch, caplog):
    for key, value in (place(1, 2) | {"MASTER_ADDR": "first-0.job"}).items():
        monkeypatch.setenv(key, value)
    answers = iter([OSError("Name or service not known"), None])

    def look_up(*_: object) -> None:
        if error := next(answers):
            raise error

    monkeypatch.setattr(address.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(address.time, "sleep", lambda _: None)
    with caplog.at_level("INFO", logger="ecdctr"):
        address.await_address()
    assert "No host is named first-0.job (MASTER_ADDR) yet" in caplog.text


def test_a_port_that_another_server_has_is_told(monkeypatch, capfd):
    """Exit code 75: the other may be gone the next time."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        for key, value in (place(0, 2) | {"MASTER_PORT": port}).items():
            monkeypatch.setenv(key, value)
        assert cli.run(cli.app, ["train", "tpm", "--date", str(DATE)]) == TRY_AGAIN
    said = capfd.readouterr().err
    assert f"Process 0 of 2 meets the others at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT)" in said
    assert f"did not meet at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT): " in said
    assert "look whether each was started, with the RANK 0 on that host" in said


def test_a_port_that_nobody_can_find_is_refused(monkeypatch):
    for key, value in (place(0, 2) | {"MASTER_PORT": "0"}).items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match="MASTER_PORT is '0', expected the port"), meeting():
        pass


@pytest.fixture(scope="module")
def sharing() -> Iterator[Path]:
    """Yield the socket of a process that forks commands, with TorchRec loaded."""
    code = "import sys, torchrec; from pathlib import Path; from ecdctr.cli.warm import serve; "
    with warmed("-c", f"{code}serve(Path(sys.argv[1]))") as path:
        yield path


def by(processes: int, sharing: Path, config: Path, store: Path, level: str) -> Any:
    """Train a level in some processes, as torchrun would start them; return the first's result."""
    port = free_port()

    def one(rank: int) -> subprocess.CompletedProcess[str]:
        command = "--config", config, "--store", store, "--json", "train", level
        return forked(sharing, *command, "--date", DATES[level], **place(rank, port, processes))

    with ThreadPoolExecutor(processes) as pool:
        all_of_them = list(pool.map(one, range(processes)))
    failed = [done.stderr[-1500:] for done in all_of_them if done.returncode]
    assert not failed, "".join(failed)
    return json.loads(all_of_them[0].stdout)


def place(rank: int, port: int, processes: int = 2) -> dict[str, str]:
    """Return what tells a process that it is one of some."""
    return {
        "RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "MASTER_PORT"])
@pytest.mark.parametrize("text", ["x", "-1", "1.0", ""])
def test_an_environment_whose_numbers_are_none_is_refused(monkeypatch, name, text):
    for key, value in (place(0, 1) | {name: text}).items():
        monkeypatch.setenv(key, value)
    join.cache_clear()
    with pytest.raises(ConfigError, match=f"{name} is '{text}', expected a whole number"):
        join()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("MASTER_PORT", "99999", "MASTER_PORT is 99999, expected a port, at most 65535"),
        ("RANK", "2", "RANK is 2, but WORLD_SIZE is 2, expected 0 to 1"),
    ],
)
def test_a_port_and_a_rank_that_cannot_be_are_refused(monkeypatch, name, text, words):
    for key, value in (place(0, 1) | {name: text}).items():
        monkeypatch.setenv(key, value)
    join.cache_clear()
    with pytest.raises(ConfigError, match=words):
        join()


@pytest.fixture(scope="module")
def config(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_config(tmp_path_factory.mktemp("distributed") / "config.yaml", world)
    raw = yaml.safe_load(path.read_text())
    for level in ("tpm", "cpm", "actr"):
        raw[level] |= {"shards": 2, "batch_size": 64, "save_optimizer": True}
    raw["cpm"]["shards"] = 4
    raw["actr"] |= {"carry_optimizer": True, "ewc": 1.0}
    raw["variants"] = {}  # some have nothing that EWC could stay near
    path.write_text(yaml.safe_dump(raw))
    return path


@pytest.fixture(scope="module")
def starting(config: Path) -> Path:
    """The same without EWC: A-CTR's scores fit clicks on ads before it learns."""
    raw = yaml.safe_load(config.read_text())
    raw["actr"]["ewc"] = 0
    path = config.with_name("starting.yaml")
    path.write_text(yaml.safe_dump(raw))
    return path


def weights(store: Path, ref: str) -> dict[str, Any]:
    folder = Store(store).path(Ref.parse(ref))
    tensors: dict[str, Any] = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= {f"{path.stem}/{name}": tensor for name, tensor in load_file(path).items()}
    # What a BatchNorm takes out again has no gradient but float noise, which Adam makes steps of.
    idle = re.compile(r"numeric_norm\.bias|backbone\.hidden\.([036]\.bias|[147]\.running_mean)")
    return {name: tensor for name, tensor in tensors.items() if not idle.search(name)}


def furthest(some: dict[str, Any], others: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """Return by how much of its length a tensor differs most, and its name; moments apart.

    As a whole, since single weights of inputs that hardly vary have no gradient but float noise.
    """
    assert some.keys() == others.keys()
    apart = {"weights": (0.0, ""), "moments": (0.0, "")}
    for name, tensor in others.items():
        one, other = some[name].double(), tensor.double()
        assert one.shape == other.shape, name
        distance = float((one - other).norm() / other.norm().clamp(min=1e-3))
        kind = "moments" if name.startswith("optimizer") else "weights"
        apart[kind] = max(apart[kind], (distance, name))
    return apart


def alone(config: Path, store: Path, level: str) -> Outcome:
    """Return a training in this process."""
    train = {"tpm": train_tpm, "cpm": train_cpm, "actr": train_actr}[level]
    return train(Request(load_config(config), Store(store), DATES[level]))


def test_processes_train_what_one_trains_within_float_noise_whatever_number_trained_the_parent(
    config, starting, run, sharing, tmp_path
):
    """TPM by two, CPM by four and A-CTR by two processes, each from what those before have trained.

    The first by the command that starts both processes. Each process has a share of tables,
    moments and snapshots: A-CTR takes over moments, and asks for all rows in EWC, or where its
    scores are fitted before it learns.
    """
    one, two = tmp_path / "one", tmp_path / "two"
    trained = (("tpm", config), ("cpm", config), ("actr", config), ("actr", starting))
    for level, path in trained:
        single = alone(path, one, level).manifest
        together = (
            run(path, two, "train", level, "--date", str(DATES[level]), "--processes", "2")
            if level == "tpm"
            else by({"cpm": 4, "actr": 2}[level], sharing, path, two, level)
        )
        assert together["fingerprint"] == single.fingerprint
        assert together["samples"] == single.rows["samples"]
        assert together["train_loss"] == pytest.approx(single.metrics["train_loss"], abs=5e-4)
        apart = furthest(weights(two, together["version"]), weights(one, str(single.ref)))
        assert apart["weights"][0] < 0.05, apart
        assert apart["moments"][0] < 0.5, apart
        assert alone(path, two, level).reused, "one process takes it as its own"
    metrics = [
        evaluate(load_config(starting), Store(store), single.ref, NEXT).metrics["all"]
        for store in (one, two)
    ]
    assert metrics[0]["gauc"] == pytest.approx(metrics[1]["gauc"], abs=5e-3)
    assert Store(two).verify() == []
    assert list((two / ".progress").glob("*.safetensors")) == []


def test_shards_that_do_not_match_the_processes_are_refused_in_one_sentence(config, run, tmp_path):
    said = run(
        config, tmp_path, "train", "tpm", "--date", str(DATE), "--processes", "3", fails=True
    )
    lines = [line for line in said.splitlines() if line.startswith("ecdctr: ")]
    assert lines == [
        "ecdctr: tpm.shards is 2, but 3 processes train together, and each takes as many shards as "
        "the others; set tpm.shards to a multiple of 3, or start fewer processes."
    ]
    assert "Traceback" not in said
    assert Store(tmp_path).versions("production", "tpm") == []


@settings(max_examples=60)
@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    group=st.integers(1, 17),
    of=st.integers(1, 7),
    chunk=st.integers(1, 50),
    every=st.sampled_from([0, 2, 3]),
)
def test_shards_have_every_row_once(tmp_path_factory, sizes, group, of, chunk, every):
    folder = tmp_path_factory.mktemp("shards")
    parts, expected = [], []
    for number, size in enumerate(sizes):
        values = np.arange(size) + 1000 * number
        pq.write_table(
            pa.table({"value": values}), folder / f"{number}.parquet", row_group_size=group
        )
        parts.append(Part(folder / f"{number}.parquet", "ads", hold_out_every=every))
        expected += [value for i, value in enumerate(values) if not every or i % every]
    values = []
    for number in range(of):
        for table in read_chunks(parts, ["value"], chunk, shard=Shard(number, of)):
            values += table.column("value").to_pylist()
    assert sorted(values) == expected


class Stopped(Exception):
    """A training that is interrupted."""


def worker(rank: int, port: int, config: Path, store: Path) -> None:
    """One of two processes, which stop together after the second time that they saved."""
    os.environ |= place(rank, port)
    original, saved = Progress.save, []

    def save(self, model, optimizers, position):
        original(self, model, optimizers, position)
        saved.append(position)
        if len(saved) == 2:
            raise Stopped

    Progress.save = save
    progress.SHARE_OF_TIME = 0
    with contextlib.suppress(Stopped):
        train_tpm(
            Request(
                changed(load_config(config), "tpm", checkpoint_seconds=0),
                Store(store),
                DATES["tpm"],
            )
        )
    os._exit(0 if len(saved) == 2 else 1)  # without waiting for the other one


def test_interrupted_processes_go_on_where_they_were_and_so_does_one_alone(
    config, sharing, tmp_path
):
    undisturbed = by(2, sharing, config, tmp_path / "undisturbed", "tpm")
    context, port, store = multiprocessing.get_context("spawn"), free_port(), tmp_path / "store"
    both = [context.Process(target=worker, args=(rank, port, config, store)) for rank in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    (saved,) = (store / ".progress").glob("*.safetensors")
    assert saved.stem == undisturbed["fingerprint"]
    shutil.copytree(store, tmp_path / "copy")
    ended = [
        by(2, sharing, config, store, "tpm")["version"],
        str(alone(config, tmp_path / "copy", "tpm").manifest.ref),
    ]
    expected = weights(tmp_path / "undisturbed", undisturbed["version"])
    for root, version in zip((store, tmp_path / "copy"), ended, strict=True):
        assert Store(root).manifest(Ref.parse(version)).rows["samples"] == undisturbed["samples"]
        assert_close(weights(root, version), expected, rtol=1e-3, atol=1e-4)


class Board:
    """Notes of the processes; the first one's comes after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks, self.left = looks, {}

    def wait(self, names: list[str], _: object) -> None:
        self.looks -= 1
        if self.looks > 0:
            raise distributed.DistStoreError("wait timeout")
        if self.looks < 0:
            raise distributed.DistNetworkError("the first process is gone")

    def set(self, name: str, value: bytes) -> None:
        self.left[name] = value


def test_the_others_wait_for_the_first_however_long_it_prepares_and_end_when_it_dies():
    board, order = Board(500), []  # 500 minutes
    with Workers(1, 2, board).first_alone("prepared"):
        order.append(board.looks)
    assert order == [0]
    with pytest.raises(distributed.DistNetworkError), Workers(1, 2, board).first_alone("more"):
        order.append("not reached")
    with Workers(0, 2, board).first_alone("prepared"):
        assert board.left == {}
    assert board.left == {"prepared": b"done"}
    assert order == [0]


def test_vocabularies_are_built_within_the_configured_memory(config, tmp_path):
    """A million ids within a megabyte.

    DuckDB says that it cannot, instead of taking what it likes.
    """
    path = tmp_path / "many.parquet"
    pq.write_table(pa.table({"user_id": np.arange(1_000_000)}), path)
    loaded = load_config(config)
    bounded = changed(loaded, "data", duckdb_memory="1MB")
    with contract.connect(bounded) as connection, pytest.raises(duckdb.OutOfMemoryException):
        distinct(connection, [path], "user_id", False)
    with contract.connect(loaded) as connection:
        assert len(distinct(connection, [path], "user_id", False)) == 1_000_000
