"""Rows of a table dealt out to processes that train together: who has which, and how they travel.

Each process has a block of consecutive rows. No process ever holds what all of them have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import distributed

AT_ONCE = 1 << 16  # rows that travel, are drawn or are read at once: what is held twice


class Share(NamedTuple):
    """The block of one of several processes; all rows where there is one process.

    What has an iterator or asks for rows of others has to be called by all processes at once.
    """

    number: int = 0
    of: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what all of them have."""
        return self.number == 0

    def height(self, total: int) -> int:
        """Return how many rows a block has, of so many in all; the last ones may have fewer."""
        return -(-total // self.of)

    def rows(self, total: int) -> range:
        """Return which rows this process has, of so many in all."""
        height = self.height(total)
        start = min(self.number * height, total)
        return range(start, min(start + height, total))

    def total(self, held: int) -> int:
        """Return the sum over all processes."""
        if self.of == 1:
            return held
        count = _placed(torch.tensor([held]))
        distributed.all_reduce(count)
        return int(count)

    def pieces(self, held: torch.Tensor, at_once: int = AT_ONCE) -> Iterator[torch.Tensor]:
        """Yield the rows [r, …] of all processes one after another on the first, on the CPU.

        On the others it yields nothing and sends what they have.
        """
        if self.first:
            yield from (piece.cpu() for piece in held.split(at_once))
        for number in range(1, self.of):
            if self.number == number:
                _send(held, at_once)
            elif self.first:
                yield from _received(number, held)

    def fetch(
        self, total: int, asked: torch.Tensor, answer: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return what those say who have the rows asked [n, c] int64, the row in the first column.

        `answer` is given such questions about rows of this process [m, c], counted from its first
        one, and returns [m, …]; all together are returned in the order of `asked` [n, …].
        """
        order = asked[:, 0].argsort(stable=True)
        owner = asked[:, 0].div(self.height(total), rounding_mode="floor")
        sent = _placed(torch.bincount(owner, minlength=self.of))
        received = torch.empty_like(sent)
        distributed.all_to_all_single(received, sent)
        there, back = sent.tolist(), received.tolist()
        questions = sent.new_empty(sum(back), asked.shape[1])
        distributed.all_to_all_single(questions, _placed(asked[order]), back, there)
        mine = questions.to(asked.device)
        mine[:, 0] -= self.rows(total).start
        said = _placed(answer(mine).contiguous())
        exchanged = said.new_empty(len(asked), *said.shape[1:])
        distributed.all_to_all_single(exchanged, said, there, back)
        answers = exchanged.to(asked.device)  # a network that is being built is on the CPU
        return torch.empty_like(answers).index_copy_(0, order, answers)


ALL = Share()


def _send(held: torch.Tensor, at_once: int) -> None:
    """Send rows to the first process, how many first."""
    distributed.send(_placed(torch.tensor([len(held), at_once])), 0)
    for piece in held.split(at_once):
        distributed.send(_placed(piece.contiguous()), 0)


def _received(number: int, like: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the rows that a process sends, of the shape and type of others."""
    told = _placed(torch.empty(2, dtype=torch.int64))
    distributed.recv(told, number)
    count, at_once = told.tolist()
    for piece in torch.empty(count, 0).split(at_once):
        rows = _placed(torch.empty(len(piece), *like.shape[1:], dtype=like.dtype))
        distributed.recv(rows, number)
        yield rows.cpu()


def _placed(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor where the processes exchange: NCCL does it on GPUs only."""
    return tensor.cuda() if distributed.get_backend() == "nccl" else tensor.cpu()
