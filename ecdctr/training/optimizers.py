"""Adam for the two kinds of parameters: lazily on the rows that a batch touches, fused on everything dense."""

from __future__ import annotations

import torch
from torch import nn

from ecdctr.config import Actr, Cpm, Training
from ecdctr.models.embeddings import FieldEmbeddings

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimizers:
    """SparseAdam for the embedding tables, Adam for the rest, the aggregator with a learning rate of its own."""

    def __init__(self, model: nn.Module, settings: Training) -> None:
        embeddings = model.embeddings
        assert isinstance(embeddings, FieldEmbeddings)  # noqa: S101
        self.embeddings = embeddings
        self.named = {
            name: p for name, p in model.named_parameters() if not name.startswith("embeddings.") and p.requires_grad
        }
        aggregator = settings.lr_aggregator if isinstance(settings, Cpm | Actr) else None
        groups = [
            {"params": [p for n, p in self.named.items() if not n.startswith("snapshots.")], "lr": settings.lr_dense},
            {
                "params": [p for n, p in self.named.items() if n.startswith("snapshots.")],
                "lr": aggregator or settings.lr_dense,
            },
        ]
        self.dense = torch.optim.Adam([group for group in groups if group["params"]], fused=True)
        self.sparse = torch.optim.SparseAdam([embeddings.table.weight], lr=settings.lr_embedding)

    def step(self, loss: torch.Tensor) -> None:
        """One update of all parameters."""
        self.sparse.zero_grad(set_to_none=True)
        self.dense.zero_grad(set_to_none=True)
        loss.backward()
        self.sparse.step()
        self.dense.step()

    def state(self) -> dict[str, torch.Tensor]:
        """Adam's moments on the CPU: per field for the tables, per name for the dense parameters."""
        saved: dict[str, torch.Tensor] = {}
        for name, parameter in self.named.items():
            for key, value in self.dense.state[parameter].items():
                saved[f"dense/{name}/{key}"] = value.detach().cpu().contiguous().clone()
        state = self.sparse.state[self.embeddings.table.weight]
        saved["tables/step"] = torch.tensor(float(state.get("step", 0)))
        for key in MOMENTS:
            if key in state:
                for field, start in self.embeddings.offsets.items():
                    rows = state[key][start : start + self.embeddings.rows[field]]
                    saved[f"tables/{field}/{key}"] = rows.detach().cpu().contiguous().clone()
        return saved

    @torch.no_grad()
    def load(self, saved: dict[str, torch.Tensor]) -> None:
        """Start from a parent's moments. Rows and parameters that the parent lacks start from zero."""
        for name, parameter in self.named.items():
            keys = [f"dense/{name}/{key}" for key in (*MOMENTS, "step")]
            if all(key in saved for key in keys):
                self.dense.state[parameter] = {
                    key.rsplit("/", 1)[1]: saved[key].to(parameter.device).clone() for key in keys
                }
        table = self.embeddings.table.weight
        moments = {key: torch.zeros_like(table) for key in MOMENTS}
        for key, value in moments.items():
            for field, start in self.embeddings.offsets.items():
                rows = saved.get(f"tables/{field}/{key}")
                if rows is not None:
                    value[start : start + len(rows)] = rows.to(table.device)
        self.sparse.state[table] = {"step": int(saved["tables/step"].item()), **moments}
