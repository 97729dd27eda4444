"""CPM → A-CTR: which parameters move, and what happens to BatchNorm on the way."""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.models.network import CtrNet


def load_dense(model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Copy everything but the embedding tables; raises RuntimeError if a tensor is missing or has another shape."""
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("embeddings.")]
    if missing or unexpected:
        raise RuntimeError(f"The parent's network differs: missing {missing}, unexpected {unexpected}.")


def apply_batch_norm_policy(model: CtrNet, policy: str) -> None:
    """keep: carry all over; reset_stats: forget running mean and variance; reset_all: weights and biases as well."""
    if policy == "keep":
        return
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            if policy == "reset_stats":
                module.reset_running_stats()
            else:
                module.reset_parameters()
