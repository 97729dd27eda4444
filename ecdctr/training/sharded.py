"""One model over several processes.

Each holds a block of rows of the embedding tables, all hold the dense layers. TorchRec shards the
rows, sends ids to the process that has them and vectors back, and gradients the same way. Its own
kernels give way to the project's, since on CPUs they have neither Adam nor single rows; so the
numbers are the same on one process and on many.
"""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed, nn

from ecdctr.errors import ConfigError, first_line
from ecdctr.models.embeddings import FieldEmbeddings, distinct_rows

if TYPE_CHECKING:
    from ecdctr.training.workers import Workers


class ShardedEmbeddings(FieldEmbeddings):
    """The tables of FieldEmbeddings, of which this process holds its share: how they are trained.

    The numbers are those of the tables that it was made of; a step changes those.
    """

    def __init__(self, held: FieldEmbeddings, workers: Workers) -> None:
        nn.Module.__init__(self)
        self.rows, self.offsets, self.total = held.rows, held.offsets, held.total
        self.share, self.held, self.table = held.share, held.held, held.table
        if self.share != workers.share:
            raise ValueError(f"tables of {self.share} on a process that has {workers.share}")
        height, dim = self.table.weight.shape
        device = self.table.weight.device
        self.position = torch.empty(height, dtype=torch.int64, device=device)
        self.block = None
        # in a tuple, since it is no part of the model: it owns neither parameters nor state
        self._exchange = (_torchrec(self.total, dim, workers, self._lookup),)

    def _distinct(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same without scratch memory for all rows, of which this is one share."""
        distinct, places = rows.unique(return_inverse=True)
        return distinct, places

    def take(self, distinct: torch.Tensor) -> torch.Tensor:
        """Return the rows [n, d] of `distinct` [n], each asked for once of who has it."""
        from torchrec import KeyedJaggedTensor

        lengths = torch.tensor([len(distinct)], device=distinct.device)
        exchanged = self._exchange[0](
            KeyedJaggedTensor(keys=["rows"], values=distinct, lengths=lengths)
        )
        vectors: torch.Tensor = exchanged["rows"].values()
        return vectors

    def _lookup(self, features: Any) -> torch.Tensor:
        """Return the vectors of rows of this block that all processes ask for [n] → [n, dim].

        RowAdam learns them.
        """
        distinct, places = distinct_rows(features.values().long(), self.position)
        return super().take(distinct).index_select(0, places)


class _Lookup(nn.Module):
    """Stands in for TorchRec's kernel."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, features: Any) -> torch.Tensor:
        vectors: torch.Tensor = self.function(features)
        return vectors


def _torchrec(rows: int, dim: int, workers: Workers, lookup: Any) -> Any:
    """Return TorchRec's exchange of ids and vectors over a table that is sharded by rows."""
    for name in ("torchrec.distributed", "torch.fx"):  # they warn of what is meant
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from torchrec import EmbeddingCollection, EmbeddingConfig
            from torchrec.distributed.embedding import EmbeddingCollectionSharder
            from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
            from torchrec.distributed.types import ShardingEnv
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"Training on {workers.world} processes needs TorchRec, which cannot be loaded "
            f"({first_line(error)}); docs/several-machines.md says how to install it."
        ) from None
    table = EmbeddingConfig(
        name="rows", embedding_dim=dim, num_embeddings=rows, feature_names=["rows"]
    )
    collection = EmbeddingCollection(tables=[table], device=torch.device("meta"))
    device = workers.device
    plan = construct_module_sharding_plan(
        collection,
        {"rows": row_wise(compute_kernel="dense")},
        sharder=EmbeddingCollectionSharder(),
        local_size=workers.world,
        world_size=workers.world,
        device_type=device.type,
    )
    group = distributed.group.WORLD
    assert group is not None  # noqa: S101  # all processes have met
    sharded = EmbeddingCollectionSharder().shard(
        collection, plan, ShardingEnv.from_process_group(group), device=device
    )
    for kernels in sharded._lookups[0].parameters():  # TorchRec keeps hold of what stands there
        kernels.untyped_storage().resize_(0)
    sharded._lookups[0] = _Lookup(lookup)
    return sharded


class CrossBatchNorm(nn.BatchNorm1d):
    """BatchNorm over the samples of all processes; torch's SyncBatchNorm does it on GPUs only."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Compute values [B, F] → [B, F]; B may differ between processes and be 0."""
        from torch.distributed.nn.functional import all_reduce

        assert (  # noqa: S101  # BatchNorms here keep statistics
            self.num_batches_tracked is not None
            and self.running_mean is not None
            and self.running_var is not None
        )
        summed = all_reduce(torch.cat([values.sum(0), values.new_full((1,), len(values))]))
        count = summed[-1].detach()
        mean = summed[:-1] / count
        square = all_reduce((values - mean).square().sum(0))
        variance = square / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            momentum = self.momentum or 0.1
            self.running_mean.lerp_(mean.detach(), momentum)
            self.running_var.lerp_(square.detach() / (count - 1), momentum)
        normed: torch.Tensor = (values - mean) * torch.rsqrt(
            variance + self.eps
        ) * self.weight + self.bias
        return normed


def across_processes(model: nn.Module, workers: Workers) -> nn.Module:
    """Have a model's tables, of which this process holds a share, exchange what a step reads.

    Its BatchNorms see all samples. Returns what to call in training. torch's
    DistributedDataParallel averages the gradients of everything dense.
    """
    model.embeddings = ShardedEmbeddings(FieldEmbeddings.of(model), workers)
    for module in list(model.modules()):
        if type(module) is nn.BatchNorm1d and module.training:
            module.__class__ = CrossBatchNorm
    wrapper = nn.parallel.DistributedDataParallel
    tables = [name for name, _ in model.named_parameters() if name.startswith("embeddings.")]
    snapshots = [name for name, _ in model.named_buffers() if name.startswith("snapshots.")]
    # each process has others of these; the rest is made alike
    wrapper._set_params_and_buffers_to_ignore_for_model(model, [*tables, *snapshots])
    return wrapper(model, forward_sync_buffers=False)  # CrossBatchNorm keeps the buffers alike


def as_before(model: nn.Module, held: FieldEmbeddings) -> None:
    """Undo across_processes: the model has its tables back, of which each process holds a share."""
    model.embeddings = held
    for module in model.modules():
        if type(module) is CrossBatchNorm:
            module.__class__ = nn.BatchNorm1d  # type: ignore[assignment]  # what it was
