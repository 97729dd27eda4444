"""The fast forms of the networks' parts against the plain ones that the papers write down."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import LinearLR

from ecdctr.config import Snapshots, Tpm
from ecdctr.examples.ragged import GAP_BUCKETS
from ecdctr.examples.vocabulary import Vocabulary
from ecdctr.models.aggregations import build_aggregation
from ecdctr.models.attention import Places, Products, TargetAttention
from ecdctr.models.embeddings import FieldEmbeddings, distinct_rows, summed_by_row
from ecdctr.training.loop import rate_left
from ecdctr.training.optimizers import Optimizers

IDS = st.integers(-(2**63), 2**63 - 1)


class Scorer(nn.Module):
    """The least that Optimizers train: tables of two fields and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = FieldEmbeddings({"user_id": 7, "item_id": 30}, 4, seed=1)
        self.out = nn.Linear(4, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        (vectors,) = self.embeddings(rows)
        return self.out(vectors.sum(1)).squeeze(1)


def randomize(module: nn.Module) -> None:
    """No parameter stays at its neutral first value."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()


@pytest.mark.parametrize("fixed_shapes", [False, True])
@pytest.mark.parametrize("final", [1.0, 0.0])
def test_rows_are_updated_as_torch_sparse_adam_does_also_by_falling_rates(final, fixed_shapes):
    model = Scorer().train()
    model.embeddings.fixed_shapes = fixed_shapes
    table = nn.Parameter(model.embeddings.table.weight.clone())
    peer = torch.optim.SparseAdam([table], lr=0.01)
    out = nn.Linear(4, 1)
    out.load_state_dict(model.out.state_dict())
    peer_dense = torch.optim.Adam(out.parameters(), lr=0.001)
    optimizers = Optimizers(model, Tpm(lr_embedding=0.01, lr_dense=0.001))
    falling = [LinearLR(one, 1.0, final, 20) for one in (peer, peer_dense)]
    generator = torch.Generator().manual_seed(2)
    for step in range(20):
        rows = torch.randint(
            0, 12, (16, 5), generator=generator
        )  # rows from 12 on are never touched
        label = torch.rand(16, generator=generator).round()
        loss = nn.functional.binary_cross_entropy_with_logits(model(rows), label)
        optimizers.step(loss, optimizers.begin(rate_left(final, step * 16, 20 * 16)))
        peer.zero_grad()
        peer_dense.zero_grad()
        logits = out(nn.functional.embedding(rows, table, sparse=True).sum(1)).squeeze(1)
        nn.functional.binary_cross_entropy_with_logits(logits, label).backward()
        peer.step()
        peer_dense.step()
        for one in falling:
            one.step()
    torch.testing.assert_close(model.embeddings.table.weight, table.detach(), atol=1e-6, rtol=1e-5)
    assert torch.equal(model.embeddings.table.weight[12:], Scorer().embeddings.table.weight[12:])


@given(st.lists(st.integers(0, 40), min_size=1, max_size=200))
def test_distinct_rows_are_a_partition_of_the_rows(values):
    rows = torch.tensor(values)
    distinct, place = distinct_rows(rows, torch.empty(41, dtype=torch.int64))
    assert sorted(distinct.tolist()) == sorted(set(values))
    assert torch.equal(distinct[place], rows)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_gradients_of_a_row_are_added_up_wherever_it_stands(values):
    rows, gradient = torch.tensor(values), torch.randn(len(values), 3, dtype=torch.float64)
    ordered, sums = summed_by_row(rows, gradient)
    assert ordered.tolist() == sorted(values)
    for row, total in zip(ordered, sums, strict=True):
        torch.testing.assert_close(total, gradient[rows == row].sum(0))


def test_buckets_of_gaps_are_read_and_added_up_alike_by_places_and_by_products():
    gaps = torch.randint(0, GAP_BUCKETS, (5, 7), dtype=torch.uint8)
    buckets, weights = torch.randn(5, 2, GAP_BUCKETS), torch.randn(5, 2, 7)
    places, products = Places(gaps, heads=2), Products(gaps)
    torch.testing.assert_close(products.read(buckets), places.read(buckets))
    torch.testing.assert_close(products.added(weights), places.added(weights))


@given(
    st.lists(IDS | st.integers(-5, 60), unique=True, max_size=60),
    st.lists(st.none() | IDS | st.integers(-9, 70)),
)
def test_a_lookup_finds_what_a_dictionary_finds(values, asked):
    asked += values[:5] + values[:5]
    vocabulary = Vocabulary(pa.array(values, type=pa.int64()))
    rows = {value: row for row, value in enumerate(values, 1)}
    assert vocabulary.lookup(pa.array(asked, type=pa.int64())).tolist() == [
        rows.get(value, 0) for value in asked
    ]


@given(
    st.lists(st.text(max_size=3), unique=True, max_size=9),
    st.lists(st.none() | st.text(max_size=3)),
)
def test_a_lookup_of_strings_finds_what_a_dictionary_finds(values, asked):
    vocabulary = Vocabulary(pa.array(values, type=pa.string()))
    rows = {value: row for row, value in enumerate(values, 1)}
    looked_up = vocabulary.lookup(pa.array(asked + values, type=pa.string())).tolist()
    assert looked_up == [rows.get(value, 0) for value in asked + values]


def test_target_attention_is_scaled_dot_product_attention_over_clicks_with_gaps():
    torch.manual_seed(1)
    attention = TargetAttention(8, heads=2)
    randomize(attention)
    target, history = torch.randn(5, 8), torch.randn(5, 6, 8)
    gaps, mask = torch.randint(0, GAP_BUCKETS, (5, 6)), torch.rand(5, 6) > 0.4
    mask[0] = False
    mask[1] = True
    clicks = history + attention.gap[gaps]
    query, key, value = attention.query(target), attention.key(clicks), attention.value(clicks)
    parts = []
    for head in range(2):
        part = slice(4 * head, 4 * head + 4)
        scores = (query[:, None, part] * key[..., part]).sum(2) / 4**0.5 + attention.gap_bias[gaps][
            ..., head
        ]
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=1)
        parts.append((weights[..., None] * value[..., part]).sum(1))
    expected = torch.cat(parts, dim=1)
    expected[0] = 0.0  # without a click there is no interest
    torch.testing.assert_close(
        attention(target, history, gaps, mask), expected, atol=1e-5, rtol=1e-4
    )


def test_intensity_attention_is_a_sum_that_grows_with_the_clicks_that_speak_for_the_item():
    """DIN: weights of a user with ten clicks of a kind add up to ten times those of one."""
    torch.manual_seed(1)
    attention = TargetAttention(8, heads=2, intensity=True)
    randomize(attention)
    target, history = torch.randn(4, 8), torch.randn(4, 6, 8)
    gaps, mask = torch.randint(0, GAP_BUCKETS, (4, 6)), torch.rand(4, 6) > 0.4
    mask[0] = False
    expected = torch.zeros(4, 8)
    for i, j in mask.nonzero().tolist():
        click = history[i, j] + attention.gap[gaps[i, j]]
        query, key = attention.query(target[i]), attention.key(click)
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            score = query[part] @ key[part] / 4**0.5 + attention.gap_bias[gaps[i, j], head]
            expected[i, part] += torch.sigmoid(score) * (attention.value.weight @ click)[part]
    expected[1:] += attention.value.bias
    interest = attention(target, history, gaps, mask)
    torch.testing.assert_close(interest, expected, atol=1e-5, rtol=1e-4)
    doubled = attention(target, history.repeat(1, 2, 1), gaps.repeat(1, 2), mask.repeat(1, 2))
    bias = attention.value.bias
    torch.testing.assert_close(doubled[1:] - bias, 2 * (interest[1:] - bias), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["self_attention", "time_attention"])
@settings(max_examples=20)
@given(seed=st.integers(0, 1000))
def test_snapshot_attention_is_self_attention_and_a_mean_over_those_present(kind, seed):
    torch.manual_seed(seed)
    aggregator = build_aggregation(3, 4, Snapshots(aggregation=kind))
    randomize(aggregator)
    vectors, present = torch.randn(3, 6, 4), torch.rand(3, 6) > 0.4
    aggregated = aggregator(vectors, present)
    for i in range(6):
        there = [k for k in range(3) if present[k, i]]
        if not there:
            assert torch.equal(aggregated[i], torch.zeros(4))
            continue
        keys, weights = vectors[there, i], torch.ones(len(there))
        if kind == "time_attention":
            keys = keys + aggregator.age_key[there]
            weights = aggregator.age_weight[there].exp()
        scores = aggregator.query(keys) @ aggregator.key(keys).T / 4**0.5
        mixed = torch.softmax(scores, dim=1) @ aggregator.value(vectors[there, i])
        expected = (weights[:, None] * mixed).sum(0) / weights.sum()
        torch.testing.assert_close(aggregated[i], expected, atol=1e-4, rtol=1e-3)


def test_an_id_at_the_end_of_the_integers_is_not_mistaken():
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    near = Vocabulary(pa.array([low, low + 1], type=pa.int64()))
    assert near.lookup(pa.array([low, low + 1, low + 2, high], type=pa.int64())).tolist() == [
        1,
        2,
        0,
        0,
    ]
