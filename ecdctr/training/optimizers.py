"""Adam for the two kinds of parameters.

Lazily on the rows that a batch touches, fused on everything dense.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim.adam import adam

from ecdctr.config import Actr, Cpm, Training
from ecdctr.models.embeddings import FieldEmbeddings, tables_of

MOMENTS = ("exp_avg", "exp_avg_sq")
BETAS = (0.9, 0.999)
EPSILON = 1e-8


class RowAdam:
    """Adam on the rows that a batch touches.

    The numbers of torch.optim.SparseAdam, without its sparse tensors.
    """

    def __init__(
        self, embeddings: FieldEmbeddings, lr: float, betas: tuple[float, float] = BETAS
    ) -> None:
        self.embeddings, self.lr, self.betas, self.steps = embeddings, lr, betas, 0
        table = embeddings.table.weight
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(table), torch.zeros_like(table)

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Update the rows of the last batch once, by `share` of the learning rate."""
        assert self.embeddings.block is not None  # noqa: S101  # made by forward
        rows, vectors = self.embeddings.block
        gradient = vectors.grad
        assert gradient is not None  # noqa: S101  # made by backward
        self.steps += 1
        beta1, beta2 = self.betas
        mean = self.exp_avg.index_select(0, rows).lerp_(gradient, 1 - beta1)
        square = (
            self.exp_avg_sq.index_select(0, rows)
            .mul_(beta2)
            .addcmul_(gradient, gradient, value=1 - beta2)
        )
        self.exp_avg.index_copy_(0, rows, mean)
        self.exp_avg_sq.index_copy_(0, rows, square)
        size = share * self.lr * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        updated = vectors.addcdiv(mean, square.sqrt_().add_(EPSILON), value=-size)
        self.embeddings.table.weight.index_copy_(0, rows, updated)


class DenseAdam:
    """Adam on whole parameters, fused: the numbers of torch.optim.Adam.

    Its function is called and not its class, which imports torch's compiler (a second per process).
    """

    def __init__(self, groups: list[tuple[list[nn.Parameter], float]]) -> None:
        self.groups = [(parameters, lr) for parameters, lr in groups if parameters]
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameters, _ in self.groups:
            for parameter in parameters:
                parameter.grad = None

    @torch.no_grad()
    def step(self, share: float = 1.0) -> None:
        """Update the parameters that have a gradient once, by `share` of the learning rates."""
        for parameters, lr in self.groups:
            learned: list[torch.Tensor] = [p for p in parameters if p.grad is not None]
            states = [self._state_of(parameter) for parameter in learned]
            adam(
                learned,
                [p.grad for p in learned if p.grad is not None],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                [state["step"] for state in states],
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=share * lr,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )

    def _state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        if parameter not in self.state:
            step = torch.zeros((), dtype=torch.float32, device=parameter.device)
            zeros = {key: torch.zeros_like(parameter) for key in MOMENTS}
            self.state[parameter] = {"step": step, **zeros}
        return self.state[parameter]


class Optimizers:
    """RowAdam for the embedding tables, Adam for the rest.

    The aggregator has a learning rate of its own.
    """

    def __init__(self, model: nn.Module, settings: Training) -> None:
        embeddings = self.embeddings = tables_of(model)
        self.named = {
            name: p
            for name, p in model.named_parameters()
            if not name.startswith("embeddings.") and p.requires_grad
        }
        aggregator = settings.lr_aggregator if isinstance(settings, Cpm | Actr) else None
        groups: dict[bool, list[nn.Parameter]] = {False: [], True: []}
        for name, parameter in self.named.items():
            groups[name.startswith("snapshots.")].append(parameter)
        rates = {False: settings.lr_dense, True: aggregator or settings.lr_dense}
        self.dense = DenseAdam([(groups[key], rates[key]) for key in groups])
        self.rows = RowAdam(embeddings, settings.lr_embedding)

    def step(self, loss: torch.Tensor, share: float = 1.0) -> None:
        """Update all parameters once, by `share` of the learning rates; `loss` is a scalar []."""
        self.dense.zero_grad()
        loss.backward()
        self.rows.step(share)
        self.dense.step(share)

    def state(self) -> dict[str, torch.Tensor]:
        """Return Adam's moments on the CPU, each of its parameter's shape.

        They are named by field for the tables, by name for dense parameters. Of several processes
        all have to call it, and only the first one gets the tables'.
        """
        saved: dict[str, torch.Tensor] = {}
        for name, parameter in self.named.items():
            for key, value in self.dense.state[parameter].items():
                saved[f"dense/{name}/{key}"] = value.detach().cpu().contiguous().clone()
        saved["tables/step"] = torch.tensor(float(self.rows.steps))
        for key in MOMENTS:
            whole = self.embeddings.whole(getattr(self.rows, key))
            for field, start in self.embeddings.offsets.items():
                rows = whole[start : start + self.embeddings.rows[field]]
                saved[f"tables/{field}/{key}"] = rows.detach().cpu().contiguous().clone()
        return saved

    @torch.no_grad()
    def load(self, saved: dict[str, torch.Tensor]) -> None:
        """Start from a parent's moments.

        Rows and parameters that the parent lacks start from zero.
        """
        for name, parameter in self.named.items():
            keys = [f"dense/{name}/{key}" for key in (*MOMENTS, "step")]
            if all(key in saved for key in keys):
                self.dense.state[parameter] = {
                    key.rsplit("/", 1)[1]: saved[key].to(parameter.device).clone() for key in keys
                }
        self.rows.steps = int(saved["tables/step"].item())
        for key in MOMENTS:
            moments = getattr(self.rows, key)
            whole = torch.zeros(sum(self.embeddings.rows.values()), moments.shape[1])
            for field, start in self.embeddings.offsets.items():
                rows = saved.get(f"tables/{field}/{key}")
                if rows is not None:
                    whole[start : start + len(rows)] = rows
            moments.copy_(self.embeddings.part(whole))
