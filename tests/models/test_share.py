"""Rows dealt out to processes: the same values as on one, whoever has them, in one file."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import distributed, nn

from ecdctr.airflow.standalone import free_port
from ecdctr.config import Snapshots
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models import checkpoint, embeddings
from ecdctr.models.embeddings import LACKED, FieldEmbeddings, carry
from ecdctr.models.share import Share
from ecdctr.models.snapshots import EntitySnapshots
from ecdctr.models.tensors import stored, write

PROCESSES = 3
FIELDS = {"user_id": 8, "item_id": 5, "slot": 1}
SETTINGS = Snapshots(count=2, aggregation="self_attention", missing="learned")
SETS = torch.tensor([[0, 1], [1, -1]])


@given(total=st.integers(0, 40), of=st.integers(1, 9))
def test_every_row_is_held_once_and_in_order(total, of):
    held = [Share(number, of).rows(total) for number in range(of)]
    assert list(itertools.chain(*held)) == list(range(total))
    assert {len(rows) for rows in held} <= {len(held[0]), len(held[-1]), *range(len(held[0]) + 1)}
    assert all(len(rows) <= Share(0, of).height(total) for rows in held)


@given(rows=st.integers(1, 90), dim=st.integers(1, 9), of=st.integers(1, 4))
def test_a_row_is_drawn_alike_whatever_is_drawn_at_once_and_whoever_holds_it(rows, dim, of):
    at_once, embeddings.AT_ONCE = embeddings.AT_ONCE, 16
    try:
        dealt = [embeddings.drawn(rows, dim, 5, Share(n, of).rows(rows)) for n in range(of)]
    finally:
        embeddings.AT_ONCE = at_once
    whole = torch.randn(rows, dim, generator=torch.Generator().manual_seed(5)) * 0.01
    assert torch.equal(torch.cat(dealt), whole)


def test_fields_are_views_of_the_rows_held():
    whole = FieldEmbeddings(FIELDS, 4, seed=1)
    for of in (2, 3, 5, 14, 20):
        dealt = [FieldEmbeddings(FIELDS, 4, 1, Share(number, of)) for number in range(of)]
        assert max(len(one.table.weight) for one in dealt) == -(-14 // of)
        for name, rows in FIELDS.items():
            assert torch.equal(torch.cat([one.field(name) for one in dealt]), whole.field(name))
            assert [row for one in dealt for row in one.held_of(name)] == list(range(rows))


def test_a_file_is_the_one_that_safetensors_writes(tmp_path):
    tensors = {
        "b": torch.randn(7, 3),
        "a/long ü": torch.randn(2),
        "step": torch.tensor(3.0),
        "count": torch.tensor(4),
        "none": torch.empty(0, 3),
        "strided": torch.randn(6, 4)[::2],
    }
    save_file({name: one.contiguous() for name, one in tensors.items()}, tmp_path / "theirs")
    write(tmp_path / "ours", tensors, ["b"])
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    save_file({"b": tensors["b"]}, tmp_path / "theirs", {"position": '{"epoch": 1}'})
    write(tmp_path / "ours", {"b": tensors["b"]}, metadata={"position": '{"epoch": 1}'})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_rows_are_read_from_a_file_as_far_as_they_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "AT_ONCE", 2)
    table = torch.randn(6, 3)
    save_file({"t": table, "n": torch.tensor(2.0)}, tmp_path / "file")
    read = stored(tmp_path / "file")
    assert len(read["t"]) == 6
    assert torch.equal(read["t"][2:4], table[2:4])
    assert read["n"][...].item() == 2
    target = torch.zeros(5, 3)
    carry(read["t"], np.array([0, 5, LACKED, 1, 3], np.int32), target)
    (tmp_path / "file").unlink()
    assert torch.equal(target[[0, 1, 3, 4]], table[[0, 5, 1, 3]])
    assert not target[2].any()


class Tables(nn.Module):
    """The least that has a snapshot."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.embeddings = FieldEmbeddings(FIELDS, 4, 1, share)


def vocabularies() -> dict[str, Vocabulary]:
    return {name: Vocabulary(pa.array(range(10, 9 + rows))) for name, rows in FIELDS.items()}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_a_snapshot_is_written_in_pieces_as_it_would_be_at_once(tmp_path, monkeypatch, precision):
    model, ids = Tables(Share()), vocabularies()
    vectors = model.embeddings.field("user_id")[1:].numpy()
    once = checkpoint._snapshot(ids["user_id"].values, vectors, precision)
    pq.write_table(once, tmp_path / "once", row_group_size=3, compression="zstd")
    monkeypatch.setattr(checkpoint, "ROW_GROUP", 3)
    checkpoint.save_snapshot(model, ids, tmp_path, precision)
    written = tmp_path / "snapshot" / "user.parquet"
    assert written.read_bytes() == (tmp_path / "once").read_bytes()


def snapshots(folder: Path, share: Share) -> EntitySnapshots:
    """Return the users' snapshots of two folders for a vocabulary that has others, too."""
    vocabulary = Vocabulary(pa.array([99, 12, 10, 98, 15, 11]))
    vectors, present = checkpoint.align_snapshots([folder, folder], "user", vocabulary, share)
    torch.manual_seed(1)
    return EntitySnapshots(vectors, present, SETTINGS, SETS, share, vocabulary.rows)


def one_of_some(number: int, port: int, folder: Path) -> None:
    """Do what all processes do together, and compare it with the whole."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=number, world_size=PROCESSES
    )
    share = Share(number, PROCESSES)
    model, whole = Tables(share).eval(), Tables(Share()).eval()
    rows = torch.tensor([[13, number, 0], [7, 7, 2 * number]])
    assert torch.equal(*(one.embeddings(rows)[0] for one in (model, whole)))
    place = folder if share.first else folder / "unused" / str(number)
    place.mkdir(parents=True, exist_ok=True)
    checkpoint.save_optimizer({"tables/user_id/exp_avg": torch.ones(2, 3)}, share, place)
    checkpoint.save(model, vocabularies(), place)
    checkpoint.save_snapshot(model, vocabularies(), place)
    distributed.barrier()
    read, expected = (snapshots(folder, one) for one in (share, Share()))
    assert read.vectors.shape[1] == len(share.rows(7))
    asked = torch.tensor([[0, 6, 3], [number, 2, 2]]), torch.tensor([1, number % 2])
    assert torch.allclose(read(*asked), expected(*asked), atol=1e-6)
    for one in (read, expected):
        one.merge()
    assert torch.allclose(read(*asked), expected(*asked), atol=1e-6)
    for one in (read, expected):
        one.merge(serving_only=True)
    assert torch.allclose(read(*asked), expected(*asked), atol=1e-6)
    distributed.destroy_process_group()
    (folder / f"done-{number}").touch()


def test_three_processes_hold_a_third_each_and_look_up_and_write_as_one(tmp_path):
    context, port = multiprocessing.get_context("spawn"), free_port()
    each = [
        context.Process(target=one_of_some, args=(number, port, tmp_path))
        for number in range(PROCESSES)
    ]
    for one in each:
        one.start()
    for one in each:
        one.join()
    assert [one.exitcode for one in each] == [0] * PROCESSES
    alone = tmp_path / "alone"
    alone.mkdir()
    checkpoint.save(Tables(Share()), vocabularies(), alone)
    checkpoint.save_snapshot(Tables(Share()), vocabularies(), alone)
    name = "embeddings.safetensors"
    assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()
    tables = [pq.read_table(one / "snapshot" / "user.parquet") for one in (tmp_path, alone)]
    assert tables[0].equals(tables[1])
    assert load_file(tmp_path / "optimizer.safetensors")["tables/user_id/exp_avg"].shape == (6, 3)
    assert not list((tmp_path / "unused").rglob("*.safetensors"))
