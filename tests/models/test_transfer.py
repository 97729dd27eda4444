"""What moves from a parent to its child."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import nn

from ecdctr.models.embeddings import FieldEmbeddings
from ecdctr.models.share import ALL, Share
from ecdctr.models.transfer import fit_to_clicks, start_at_rate


@dataclass
class Rows:
    """What is read of a batch."""

    inputs: torch.Tensor
    label: torch.Tensor

    def __len__(self) -> int:
        return len(self.label)


class Network(nn.Module):
    """A last layer behind batch normalisation, which a shift of its inputs does not pass."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.backbone = nn.Module()
        self.backbone.out = nn.Linear(3, 1)

    def forward(self, batch: Rows) -> torch.Tensor:
        return self.backbone.out(self.norm(batch.inputs)).squeeze(1)


def drawn(clicks: list[bool], scale: float = 1.0, shift: float = 0.0) -> list[Rows]:
    torch.manual_seed(len(clicks))
    inputs = torch.randn(len(clicks), 3) * scale + shift
    label = torch.tensor(clicks, dtype=torch.float32)
    return [Rows(*part) for part in zip(inputs.split(16), label.split(16), strict=True)]


@given(
    st.lists(st.booleans(), min_size=20, max_size=60).filter(lambda c: 0 < sum(c) < len(c)),
    st.floats(-6, 6),
)
def test_a_network_predicts_the_share_of_clicks_whatever_rate_it_knew(clicks, bias):
    network = Network()
    with torch.no_grad():
        network.backbone.out.bias.fill_(bias)
    batches = drawn(clicks, scale=3.0, shift=2.0)
    fit_to_clicks(network, iter(batches))
    read = [part for part in batches if len(part) > 1]  # one row has no variance
    labels = torch.cat([part.label for part in read])
    if 0 < labels.sum() < len(labels):
        with torch.no_grad():
            predicted = torch.cat([torch.sigmoid(network(part)) for part in read]).mean()
        torch.testing.assert_close(predicted, labels.mean(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("clicks", [[True] * 20, [False] * 20, []])
def test_a_network_stays_where_all_or_none_were_clicked(clicks):
    network = Network()
    before = network.backbone.out.bias.clone()
    fit_to_clicks(network, drawn(clicks) if clicks else [])
    assert torch.equal(network.backbone.out.bias, before)


@pytest.mark.parametrize("too_sure", [0.7, 1.0, 2.0, 5.0])
def test_a_network_that_is_too_sure_is_scaled_as_logistic_regression_says(too_sure):
    torch.manual_seed(1)
    inputs = torch.randn(4000, 3)
    truth = inputs @ torch.tensor([1.0, -0.5, 0.3]) - 1.5
    label = (torch.rand(4000) < torch.sigmoid(truth)).float()
    network = Network()
    with torch.no_grad():
        network.backbone.out.weight.copy_(too_sure * torch.tensor([[1.0, -0.5, 0.3]]))
        logits = network(Rows(inputs, label))
    fit_to_clicks(network, [Rows(inputs, label)])
    with torch.no_grad():
        said = network(Rows(inputs, label))
    regression = LogisticRegression(C=1e9, tol=1e-8).fit(logits[:, None].numpy(), label.numpy())
    expected = regression.decision_function(logits[:, None].numpy())
    torch.testing.assert_close(
        said.double(), torch.from_numpy(expected).double(), atol=5e-3, rtol=0
    )


def test_scores_that_say_the_opposite_keep_their_order():
    """A few rows may say so by chance; the network unlearns it if it is so."""
    torch.manual_seed(2)
    network, inputs = Network(), torch.randn(200, 3)
    with torch.no_grad():
        before = network(Rows(inputs, torch.zeros(200)))
    fit_to_clicks(network, [Rows(inputs, (before < before.median()).float())])
    with torch.no_grad():
        after = network(Rows(inputs, torch.zeros(200)))
    assert torch.equal(before.argsort(), after.argsort())
    assert float(after.std()) < 0.2 * float(before.std())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_network_from_nothing_stays_where_no_bias_says_the_rate(rate):
    network = Network()
    before = network.backbone.out.bias.clone()
    start_at_rate(network, rate)
    assert torch.equal(network.backbone.out.bias, before)


class Tabled(Network):
    """The same over rows of a table, of which this process may hold a share."""

    def __init__(self, share: Share) -> None:
        torch.manual_seed(3)
        super().__init__()
        self.embeddings = FieldEmbeddings({"item_id": 50}, 3, 1, share)

    def forward(self, batch: Rows) -> torch.Tensor:
        (vectors,) = self.embeddings(batch.inputs)
        return self.backbone.out(self.norm(vectors)).squeeze(1)


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_that_holds_a_share_of_the_rows_fits_as_one_that_holds_all(monkeypatch, number):
    generator = torch.Generator().manual_seed(4)
    items = torch.randint(50, (400,), generator=generator)
    labels = (torch.rand(400, generator=generator) < 0.3).float()
    batches = [Rows(*part) for part in zip(items.split(100), labels.split(100), strict=True)]
    alone, one_of_two = Tabled(ALL), Tabled(Share(number, 2))
    every = alone.embeddings.table.weight
    monkeypatch.setattr(Share, "fetch", lambda _share, _total, asked, _answer: every[asked[:, 0]])
    for network in (alone, one_of_two):
        fit_to_clicks(network, batches)
    assert torch.equal(alone.backbone.out.weight, one_of_two.backbone.out.weight)
    assert torch.equal(alone.backbone.out.bias, one_of_two.backbone.out.bias)
    assert one_of_two.embeddings.training
