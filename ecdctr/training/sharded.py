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
from ecdctr.models.embeddings import FieldEmbeddings, distinct_rows, tables_of

if TYPE_CHECKING:
    from ecdctr.training.workers import Workers


class ShardedEmbeddings(FieldEmbeddings):
    """The tables of FieldEmbeddings, of which this process has one block of rows.

    Used in training only.
    """

    def __init__(self, whole: FieldEmbeddings, workers: Workers) -> None:
        nn.Module.__init__(self)
        self.rows, self.offsets, self.workers = whole.rows, whole.offsets, workers
        self.total, dim = whole.table.weight.shape
        self.height = -(-self.total // workers.world)  # rows of a block; the last one is filled up
        block = self.part(whole.table.weight.detach())
        self.table = nn.Embedding(self.height, dim, _weight=block)
        self.table.weight.requires_grad_(False)
        self.position = torch.empty(self.total, dtype=torch.int64, device=block.device)
        self.own_position = torch.empty(self.height, dtype=torch.int64, device=block.device)
        self.block = None
        # in a tuple, since it is no part of the model: it owns neither parameters nor state
        self._exchange = (_torchrec(self.total, dim, workers, self._lookup),)

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
        distinct, places = distinct_rows(features.values().long(), self.own_position)
        return super().take(distinct).index_select(0, places)

    def part(self, whole: torch.Tensor) -> torch.Tensor:
        """Return this process's block [r, …] of something [R, …] with a row for each one."""
        start = self.workers.rank * self.height
        part = whole[start : start + self.height]
        missing = self.height - len(part)
        return (
            torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part.clone()
        )

    @torch.no_grad()
    def whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return all blocks together [R, …] on the first process, nothing on the others.

        All have to call it.
        """
        blocks = (
            [torch.empty_like(part) for _ in range(self.workers.world)]
            if self.workers.first
            else None
        )
        distributed.gather(part.contiguous(), blocks)
        return torch.cat(blocks)[: self.total] if blocks else part.new_empty(0, *part.shape[1:])


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
    sharded._lookups[0] = _Lookup(lookup)  # and with it the memory of the kernel that stood there
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
    """Shard a model's tables in place and let its BatchNorms see all samples.

    Returns what to call in training. torch's DistributedDataParallel averages the gradients of
    everything dense.
    """
    model.embeddings = ShardedEmbeddings(tables_of(model), workers)
    for module in list(model.modules()):
        if type(module) is nn.BatchNorm1d and module.training:
            module.__class__ = CrossBatchNorm
    wrapper = nn.parallel.DistributedDataParallel
    kept = [name for name in model.state_dict() if name.startswith("embeddings.")]
    wrapper._set_params_and_buffers_to_ignore_for_model(model, kept)
    return wrapper(model, forward_sync_buffers=False)  # CrossBatchNorm keeps the buffers alike


@torch.no_grad()
def onto_one_process(model: nn.Module, whole: FieldEmbeddings) -> None:
    """Undo across_processes: the first process gets its whole tables back, as learned."""
    sharded = model.embeddings
    assert isinstance(sharded, ShardedEmbeddings)  # noqa: S101  # by across_processes
    table = sharded.whole(sharded.table.weight)
    if sharded.workers.first:
        whole.table.weight.copy_(table)
    model.embeddings = whole
    for module in model.modules():
        if type(module) is CrossBatchNorm:
            module.__class__ = nn.BatchNorm1d  # type: ignore[assignment]  # what it was
