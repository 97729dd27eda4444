"""Batches: the same rows whichever way they are cut."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch

from ecdctr.examples.batches import Batch, Cut, Inputs, encode, training_batches
from ecdctr.examples.chunks import Part, read_chunks
from ecdctr.examples.prepare import prepare
from ecdctr.examples.vocabulary import EMPTY
from tests.conftest import DATE


@pytest.fixture
def day(config):
    """Return a prepared day as a part, its inputs, and vocabularies that know half of it."""
    (made,) = prepare(config, "ads", [DATE])
    part, inputs = Part(made.path, "ads"), Inputs.of(config, "actr")
    (table,) = read_chunks([part], None, 1_000_000)
    vocabularies = dict.fromkeys(inputs.vocabularies, EMPTY)
    for name in ("user_id", "item_id"):
        vocabularies[name] = EMPTY.extended(table[name].combine_chunks()[::2])
    return part, inputs, vocabularies, table


def by_row(batch: Batch) -> list[tuple]:
    """Return the rows of a batch as plain numbers."""
    columns = [getattr(batch, field.name).tolist() for field in fields(Batch)]
    return [tuple(map(str, row)) for row in zip(*columns, strict=True)]


def test_taken_rows_are_those_of_the_numbers_in_their_order(day):
    _, inputs, vocabularies, table = day
    batch = encode(table, inputs, vocabularies)
    rows = by_row(batch)
    numbers = np.random.default_rng(1).integers(0, len(batch), 200).tolist()
    for chosen in (numbers, [], numbers[:1]):
        taken = batch.take(torch.tensor(chosen, dtype=torch.int64))
        assert by_row(taken) == [rows[number] for number in chosen]
        assert [getattr(taken, f.name).dtype for f in fields(Batch)] == [
            getattr(batch, f.name).dtype for f in fields(Batch)
        ]


def test_an_epoch_has_each_row_once_in_an_order_that_its_seed_draws(day):
    part, inputs, vocabularies, table = day
    expected = by_row(encode(table, inputs, vocabularies))

    def epoch(seed: int) -> list[tuple]:
        cut = Cut(batch_size=16, chunk_rows=100, seed=seed)
        batches = training_batches([part], inputs, vocabularies, cut)
        return [row for batch in batches for row in by_row(batch)]

    first = epoch(1)
    left_out = len(expected) - len(first)  # a chunk's last batch of one row
    assert left_out <= len(expected) / 100 + 1
    assert not set(first) - set(expected)
    if not left_out:
        assert sorted(first) == sorted(expected)
    assert first == epoch(1)
    assert first != epoch(2)
    assert first != expected


def test_rows_without_clicks_have_empty_histories(day):
    _, inputs, vocabularies, table = day
    nobody = table.filter(np.array(table["history"].combine_chunks().sizes.to_numpy() == 0))
    for none in (nobody, nobody.slice(0, 0)):
        batch = encode(none, inputs, vocabularies)
        assert batch.history.shape == (len(none), inputs.history_length)
        assert not batch.history.any()
        assert not batch.gaps.any()
