"""A training step recorded once as a CUDA graph, then repeated.

A step of these networks is some hundred kernels of a few microseconds each: to launch them one by
one takes several times as long as to run them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

import torch

from ecdctr.errors import first_line

if TYPE_CHECKING:
    from ecdctr.examples.batches import Batch
    from ecdctr.training.optimizers import Sizes

FIRST = 3  # steps that run as they are: they choose kernels and make what stays, as Adam's moments
LOG = logging.getLogger(__name__)


class RepeatedStep:
    """A step on batches of one shape. It does what `learn` does, to the last bit.

    `learn` takes a batch and the sizes that lie on the GPU, and returns its loss []. What cannot be
    recorded, since it asks the GPU for a number, runs on as it is, and a warning says so.
    """

    def __init__(self, learn: Callable[[Batch, Sizes], torch.Tensor]) -> None:
        self.learn, self.done, self.recordable = learn, 0, True
        self.batch: Batch | None = None
        self.graph: torch.cuda.CUDAGraph | None = None
        self.loss: torch.Tensor | None = None
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, sizes: Sizes) -> torch.Tensor:
        """Learn from a batch on the GPU; returns its loss []."""
        if self.batch is None:
            self.batch = batch
        elif batch is not self.batch:
            for field in fields(batch):
                getattr(self.batch, field.name).copy_(getattr(batch, field.name))
        self.done += 1
        if self.graph is None and self.recordable and self.done > FIRST:
            self._record(self.batch, sizes)
        if self.graph is None:
            return self._run(self.batch, sizes)
        self.graph.replay()
        assert self.loss is not None  # noqa: S101  # recorded with the graph
        return self.loss.clone()

    def _run(self, batch: Batch, sizes: Sizes) -> torch.Tensor:
        """Run a step on the stream that will record: autograd keeps to a stream it has seen."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            loss = self.learn(batch, sizes)
        torch.cuda.current_stream().wait_stream(self.stream)
        return loss.clone()

    def _record(self, batch: Batch, sizes: Sizes) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            # another thread reads the next chunk meanwhile
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                self.loss = self.learn(batch, sizes)
        except RuntimeError as error:
            self.recordable = False
            LOG.warning(
                "A step of this network cannot be recorded as a CUDA graph (%s): its kernels are "
                "launched one by one, which is slower. Look for an operation whose result has a "
                "size that depends on its values.",
                first_line(error),
            )
            return
        self.graph = graph
