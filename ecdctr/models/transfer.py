"""What moves from a parent to its child.

Dense layers, BatchNorm by policy, and what holds the child near (EWC).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from ecdctr.models.embeddings import FieldEmbeddings

if TYPE_CHECKING:
    from ecdctr.examples.batches import Batch
    from ecdctr.models.backbones.mlp import Mlp
    from ecdctr.models.network import CtrNet


FURTHEST, HALVINGS = 100.0, 60  # of a bias, and until it is found
LEAST_SLOPE, MOST_SLOPE = 0.1, 2.0  # what few rows say of a network is not believed beyond


def load_dense(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Copy everything but the embedding tables.

    Raises RuntimeError if a tensor is missing or has another shape.
    """
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith(("embeddings.", "source."))]
    if missing or unexpected:
        raise RuntimeError(
            f"The parent's network differs: missing {missing}, unexpected {unexpected}."
        )


def apply_batch_norm_policy(model: CtrNet, policy: str) -> None:
    """Apply a policy to batch normalisation.

    keep: carry all over; reset_all: forget running mean and variance, weights and biases.

    Running statistics alone are no policy: training never reads them, and has replaced them when it
    ends.
    """
    if policy == "reset_all":
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.reset_parameters()


def elastic_weight_consolidation(
    model: nn.Module, batches: Iterable[Batch], strength: float
) -> Callable[[], torch.Tensor]:
    """Return the penalty strength / 2 · Σ F (θ − θ₀)² on dense parameters, a scalar [].

    EWC, Kirkpatrick et al. 2017, equation 3.

    F is the diagonal Fisher information at θ₀, from `batches` of the old task; here the squared
    gradients of batch means times the batch size, instead of single samples'. Embedding tables are
    free: most rows see no ads at all.
    """
    parameters = [
        p
        for name, p in model.named_parameters()
        if not name.startswith("embeddings.") and p.requires_grad
    ]
    anchors = [p.detach().clone() for p in parameters]
    fisher = [torch.zeros_like(p) for p in parameters]
    model.eval()
    count = 0
    for batch in batches:
        loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.label)
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for total, gradient in zip(fisher, gradients, strict=True):
            if gradient is not None:
                total.add_(gradient.square() * len(batch))
        count += 1
    for total in fisher:
        total.div_(max(count, 1))

    def penalty() -> torch.Tensor:
        terms = [
            (f.to(p.device) * (p - a.to(p.device)).square()).sum()
            for f, p, a in zip(fisher, parameters, anchors, strict=True)
        ]
        return strength / 2 * torch.stack(terms).sum()

    return penalty


@torch.no_grad()
def start_at_rate(model: nn.Module, rate: float) -> None:
    """Let a network that knows nothing predict a click rate at first, by its last layer's bias.

    It stays where none or all were clicked: no bias says so.
    """
    if not 0 < rate < 1:
        return
    last = cast("Mlp", model.backbone).out  # or of another backbone with one last layer
    last.bias.fill_(math.log(rate / (1 - rate)))


@torch.no_grad()
def fit_to_clicks(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Let a network that learned from other impressions say how sure it may be of these at first.

    Its last layer is scaled and its bias moved, so that a · logit + b fits the clicks (Platt 1999,
    "Probabilistic Outputs for Support Vector Machines") and the mean prediction is their share.
    Where all or none were clicked it stays. The network is left in training mode, as it is read
    here: batch normalisation goes by these impressions, and takes on their statistics.
    """
    model.train()
    for module in model.modules():
        if isinstance(module, FieldEmbeddings):
            module.eval()  # its rows are read, of other processes too, and none is learned
    read = [(model(batch).double(), batch.label.double()) for batch in batches if len(batch) > 1]
    model.train()
    if not read:
        return
    logits, labels = (torch.cat(columns) for columns in zip(*read, strict=True))
    if labels.min() == labels.max():
        return
    slope = _platt_slope(logits, labels)
    low, high = -FURTHEST, FURTHEST
    for _ in range(HALVINGS):
        shift = (low + high) / 2
        below = torch.sigmoid(slope * logits + shift).mean() < labels.mean()
        low, high = (shift, high) if below else (low, shift)
    last = cast("Mlp", model.backbone).out
    last.weight.mul_(slope)
    last.bias.mul_(slope).add_(shift)


@torch.enable_grad()
def _platt_slope(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return how much of a network's logits [n] the clicks [n] bear out; 1 where all of it."""
    scaled = logits.std().clamp(min=1e-9)  # so that both numbers are of one size
    fit = torch.stack([scaled, -logits.mean()]).requires_grad_()
    search = torch.optim.LBFGS([fit], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        search.zero_grad()
        said = fit[0] * (logits - logits.mean()) / scaled + fit[1]
        value = binary_cross_entropy_with_logits(said, labels)
        value.backward()
        return value

    search.step(loss)
    return min(max(float(fit[0].detach() / scaled), LEAST_SLOPE), MOST_SLOPE)
