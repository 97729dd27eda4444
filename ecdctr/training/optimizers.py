"""Adam for the two kinds of parameters.

Lazily on the rows that a batch touches, fused on everything dense.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn
from torch.optim.adam import adam

from ecdctr.config import Actr, Cpm, Training
from ecdctr.models.embeddings import FieldEmbeddings, carry, summed_by_row

if TYPE_CHECKING:
    from ecdctr.models.checkpoint import Moments

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
        self.size = torch.zeros((), device=table.device)  # of a step; read where shapes are fixed

    def begin(self, share: float = 1.0) -> float:
        """Count a step; return its size, by `share` of the learning rate."""
        self.steps += 1
        beta1, beta2 = self.betas
        size = share * self.lr * math.sqrt(1 - beta2**self.steps) / (1 - beta1**self.steps)
        if self.embeddings.fixed_shapes:
            self.size.fill_(size)
        return size

    @torch.no_grad()
    def step(self, size: float) -> None:
        """Update the rows of the last batch once, by a step of the size that `begin` returned."""
        assert self.embeddings.block is not None  # noqa: S101  # made by forward
        rows, vectors = self.embeddings.block
        gradient = vectors.grad
        assert gradient is not None  # noqa: S101  # made by backward
        if self.embeddings.fixed_shapes:
            self._step_of_each(*summed_by_row(rows, gradient))
            return
        mean, square = self._moments(rows, gradient)
        self.exp_avg.index_copy_(0, rows, mean)
        self.exp_avg_sq.index_copy_(0, rows, square)
        updated = vectors.addcdiv(mean, square.sqrt_().add_(EPSILON), value=-size)
        self.embeddings.table.weight.index_copy_(0, rows, updated)

    def _moments(
        self, rows: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the new moments of rows [n], of their gradients [n, d]: each [n, d]."""
        beta1, beta2 = self.betas
        mean = self.exp_avg.index_select(0, rows).lerp_(gradient, 1 - beta1)
        square = (
            self.exp_avg_sq.index_select(0, rows)
            .mul_(beta2)
            .addcmul_(gradient, gradient, value=1 - beta2)
        )
        return mean, square

    def _step_of_each(self, rows: torch.Tensor, gradient: torch.Tensor) -> None:
        """Update rows [n], of which one may stand several times, with the same gradient [n, d]."""
        table = self.embeddings.table.weight
        mean, square = self._moments(rows, gradient)
        change = (mean / (square.sqrt() + EPSILON)).mul_(self.size)
        updated = table.index_select(0, rows).sub_(change)
        with in_any_order():
            self.exp_avg.index_copy_(0, rows, mean)
            self.exp_avg_sq.index_copy_(0, rows, square)
            table.index_copy_(0, rows, updated)


@contextmanager
def in_any_order() -> Iterator[None]:
    """Let equal values be written to one place in any order: torch's own way sorts them first."""
    mode = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(0)
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)


class DenseAdam:
    """Adam on whole parameters, fused: the numbers of torch.optim.Adam.

    Its function is called and not its class, which imports torch's compiler (a second per process).
    """

    def __init__(self, groups: list[tuple[list[nn.Parameter], float]]) -> None:
        self.groups = [(parameters, lr) for parameters, lr in groups if parameters]
        # a GPU that repeats a step reads its learning rates where they stand
        self.rates = [parameters[0].new_tensor(lr) for parameters, lr in self.groups]
        self.state: dict[torch.Tensor, dict[str, torch.Tensor]] = {}

    def zero_grad(self) -> None:
        """Forget the gradients of the last step."""
        for parameters, _ in self.groups:
            for parameter in parameters:
                parameter.grad = None

    def begin(self, share: float) -> list[float | torch.Tensor]:
        """Return the groups' learning rates in a step, `share` of them.

        Numbers, on a GPU tensors [] that lie there.
        """
        rates = [share * lr for _, lr in self.groups]
        if not any(rate.is_cuda for rate in self.rates):
            return list(rates)
        for place, rate in zip(self.rates, rates, strict=True):
            place.fill_(rate)
        return list(self.rates)

    @torch.no_grad()
    def step(self, rates: list[float | torch.Tensor]) -> None:
        """Update the parameters that have a gradient once, by each group's learning rate."""
        for (parameters, _), lr in zip(self.groups, rates, strict=True):
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
                lr=lr,
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


class Sizes(NamedTuple):
    """How far a step goes: of the rows, and of each group of dense parameters."""

    rows: float
    dense: list[float | torch.Tensor]


class Optimizers:
    """RowAdam for the embedding tables, Adam for the rest.

    The aggregator has a learning rate of its own.
    """

    def __init__(self, model: nn.Module, settings: Training) -> None:
        embeddings = self.embeddings = FieldEmbeddings.of(model)
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

    def begin(self, share: float = 1.0) -> Sizes:
        """Count a step, of `share` of the learning rates; what it returns is for `step`."""
        return Sizes(self.rows.begin(share), self.dense.begin(share))

    def step(self, loss: torch.Tensor, sizes: Sizes) -> None:
        """Update all parameters once; `loss` is a scalar []."""
        self.dense.zero_grad()
        loss.backward()
        self.rows.step(sizes.rows)
        self.dense.step(sizes.dense)

    def state(self) -> dict[str, torch.Tensor]:
        """Return Adam's moments on the CPU, each of its parameter's shape.

        They are named by field for the tables (checkpoint.of_tables), by name for dense parameters.
        The tables' are those of the rows that this process holds, themselves: a step changes them.
        """
        saved: dict[str, torch.Tensor] = {}
        for name, parameter in self.named.items():
            for key, value in self.dense.state[parameter].items():
                saved[f"dense/{name}/{key}"] = value.detach().cpu().contiguous().clone()
        saved["tables/step"] = torch.tensor(float(self.rows.steps))
        for key in MOMENTS:
            moments = getattr(self.rows, key)
            for field in self.embeddings.rows:
                saved[f"tables/{field}/{key}"] = self.embeddings.of_field(field, moments).cpu()
        return saved

    @torch.no_grad()
    def load(self, moments: Moments) -> None:
        """Start from moments that were saved.

        Rows and parameters that the parent lacks start from zero.
        """
        saved = moments.saved
        for name, parameter in self.named.items():
            keys = [f"dense/{name}/{key}" for key in (*MOMENTS, "step")]
            if all(key in saved for key in keys):
                self.dense.state[parameter] = {
                    key.rsplit("/", 1)[1]: saved[key][...].to(parameter.device) for key in keys
                }
        self.rows.steps = int(saved["tables/step"][...].item())
        for field, rows in moments.rows.items():
            for key in MOMENTS:
                target = self.embeddings.of_field(field, getattr(self.rows, key))
                carry(saved[f"tables/{field}/{key}"], rows, target)
