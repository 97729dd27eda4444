"""Many versions on many days: the cells of a forgetting matrix, reading each day once and scoring all days at once."""

from __future__ import annotations

import datetime as dt
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ecdctr.config import Config
from ecdctr.data.batches import Part, encode, read_chunks
from ecdctr.data.prepare import prepare
from ecdctr.data.vocabulary import normalized
from ecdctr.errors import StoreError
from ecdctr.store.manifest import Ref
from ecdctr.store.store import Store
from ecdctr.training.metrics import UserAuc, user_auc
from ecdctr.training.restore import load_network


class HeldOut(NamedTuple):
    """The held-out ads of several days as one table; `group` numbers each pair of a day and a user."""

    dates: list[dt.date]
    table: pa.Table
    group: NDArray[np.int64]
    day_of_group: NDArray[np.int64]


def held_out_ads(config: Config, dates: list[dt.date], every: int) -> HeldOut:
    """Each `every`-th impression of the days' ads: what training with actr.hold_out_every does not see.

    Raises StoreError when a day is missing.
    """
    days = prepare(config, "ads", dates)
    if len(days) != len(dates):
        raise StoreError(f"Expected ads of {len(dates)} days from {dates[0]} to {dates[-1]}, found {len(days)}.")
    parts = [Part(day.path, "ads", hold_out_every=every, held_out=True) for day in days]
    tables = [pa.concat_tables(read_chunks([part], None, config.actr.chunk_rows)) for part in parts]
    table = pa.concat_tables(tables)
    users = normalized(table.column("user_id")).dictionary_encode().indices.to_numpy().astype(np.int64)
    day = np.repeat(np.arange(len(tables)), [each.num_rows for each in tables])
    pairs, group = np.unique(day * (users.max() + 1) + users, return_inverse=True)
    return HeldOut(dates, table, group, pairs // (users.max() + 1))


def matrix_row(config: Config, store: Store, ref: Ref, held_out: HeldOut) -> list[UserAuc]:
    """A version's AUC per user on each day; `users` are groups of the held-out table, equal for every version."""
    model, inputs, vocabularies = load_network(store, ref)
    torch.set_num_threads(config.actr.threads)
    batch = encode(held_out.table, inputs, vocabularies)
    size = config.evaluation.batch_size
    with torch.inference_mode():
        scores = torch.cat([model(batch.take(slice(i, i + size))) for i in range(0, len(batch), size)])
    found = user_auc(held_out.group, batch.label.numpy(), scores.numpy())
    day = held_out.day_of_group[found.users]
    return [UserAuc(*(column[day == i] for column in found)) for i in range(len(held_out.dates))]
