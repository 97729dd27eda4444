"""What moves from a parent to its child.

Dense layers, BatchNorm by policy, and what holds the child near (EWC).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

if TYPE_CHECKING:
    from ecdctr.examples.batches import Batch
    from ecdctr.models.backbones.mlp import Mlp
    from ecdctr.models.network import CtrNet


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
    """Let a network that knows nothing predict a click rate at first, by its last layer's bias."""
    last = cast("Mlp", model.backbone).out  # or of another backbone with one last layer
    last.bias.fill_(math.log(rate / (1 - rate)))
